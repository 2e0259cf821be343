"""Tensors as bytes: dtypes, boxes, the block grid. Pure, without torch (``torch_bridge`` excepted)."""
