"""Checkpoints that ranks wrote in parts -> whole tensors, made of ranges of what is stored."""
