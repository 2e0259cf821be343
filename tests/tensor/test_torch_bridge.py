from __future__ import annotations

import numpy as np
import pytest
import torch

from deltackpt.errors import InvalidArgumentError, UnsupportedDataError
from deltackpt.tensor.dtypes import DTYPES, DType, by_name
from deltackpt.tensor.torch_bridge import from_torch_dtype, new_tensor, tensor_bytes, tensor_from_bytes, to_torch_dtype

HERE = [d for d in DTYPES if hasattr(torch, d.name)]


def random_bytes(dtype: DType, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    limit = 2 if dtype.name == "bool" else 256
    return np.random.default_rng(dtype.code).integers(0, limit, count * dtype.itemsize, dtype=np.uint8)


@pytest.mark.parametrize("dtype", HERE, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 0, 4)])
def test_bytes_make_the_tensor_and_the_tensor_its_bytes(dtype: DType, shape: tuple[int, ...]) -> None:
    data = random_bytes(dtype, int(np.prod(shape, dtype=int)))
    tensor = tensor_from_bytes(data, dtype, shape)
    assert (tensor.dtype, tuple(tensor.shape)) == (to_torch_dtype(dtype), shape)
    assert from_torch_dtype(tensor.dtype) is dtype
    assert tensor.element_size() == dtype.itemsize
    assert tensor_bytes(tensor).tobytes() == data.tobytes()
    assert tensor_bytes(tensor).shape == data.shape


def test_this_torch_has_every_dtype_of_the_format() -> None:
    # The newest, float4_e2m1fn_x2, came with torch 2.8.
    missing = {d.name for d in DTYPES} - {d.name for d in HERE}
    assert missing == set() or not hasattr(torch, "float4_e2m1fn_x2")


def test_elements_are_little_endian_and_in_c_order() -> None:
    tensor = torch.tensor([[1, 2], [3, 4]], dtype=torch.int16)
    assert tensor_bytes(tensor).tobytes() == bytes([1, 0, 2, 0, 3, 0, 4, 0])
    assert tensor_bytes(tensor.t()).tobytes() == bytes([1, 0, 3, 0, 2, 0, 4, 0])


@pytest.mark.parametrize("dtype", HERE, ids=lambda dtype: dtype.name)
def test_strides_do_not_matter(dtype: DType) -> None:
    data = random_bytes(dtype, 24)
    tensor = tensor_from_bytes(data, dtype, (4, 6))
    elements = data.reshape(4, 6, dtype.itemsize)
    assert tensor_bytes(tensor.t()).tobytes() == elements.transpose(1, 0, 2).tobytes()
    assert tensor_bytes(tensor[1:, ::2]).tobytes() == elements[1:, ::2].tobytes()
    assert tensor_bytes(tensor[2, 3]).tobytes() == elements[2, 3].tobytes()
    assert tensor_bytes(tensor[:1].expand(3, 6)).tobytes() == elements[:1].tobytes() * 3


@pytest.mark.parametrize("name", ["complex32", "complex64", "complex128"])
def test_lazy_conjugation_and_negation_are_done(name: str) -> None:
    tensor = tensor_from_bytes(
        np.arange(8 * 8, dtype=np.float32).view(np.uint8)[: 8 * by_name(name).itemsize], by_name(name), (8,)
    )
    real, imag = tensor.real.clone(), tensor.imag.clone()
    expected = torch.view_as_complex(torch.stack([real, -imag], dim=-1))
    assert tensor.conj().is_conj()
    assert tensor_bytes(tensor.conj()).tobytes() == tensor_bytes(expected).tobytes()
    assert tensor.conj().imag.is_neg()
    assert tensor_bytes(tensor.conj().imag).tobytes() == tensor_bytes(-imag).tobytes()


def test_a_contiguous_tensor_is_shared_and_others_are_not() -> None:
    tensor = torch.zeros(2, 3, requires_grad=True)
    tensor_bytes(tensor)[:] = 255
    assert tensor.isnan().all()
    tensor_bytes(tensor.t())[:] = 0
    assert tensor.isnan().all()


def test_parameters_and_subclasses() -> None:
    class Named(torch.Tensor):
        pass

    tensor = torch.arange(3.0)
    assert tensor_bytes(torch.nn.Parameter(tensor)).tobytes() == tensor_bytes(tensor).tobytes()
    assert tensor_bytes(tensor.as_subclass(Named)).tobytes() == tensor_bytes(tensor).tobytes()


@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|sparse csr|nested tensors|quantize).*:UserWarning")
@pytest.mark.parametrize("kind", ["sparse", "csr", "quantized", "nested", "jagged", "meta", "int4", "wrapper"])
def test_what_has_no_plain_bytes_is_refused_by_name(kind: str) -> None:
    if kind == "sparse":
        tensor = torch.eye(2).to_sparse()
    elif kind == "csr":
        tensor = torch.eye(2).to_sparse_csr()
    elif kind == "quantized":
        tensor = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    elif kind == "nested":
        tensor = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    elif kind == "jagged":
        tensor = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)
    elif kind == "meta":
        tensor = torch.empty(2, device="meta")
    elif kind == "int4":
        tensor = torch.empty(2, dtype=getattr(torch, "int4"))  # noqa: B009 - not in the type stubs
    else:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            tensor = torch.empty(2)
    with pytest.raises(UnsupportedDataError, match=r"^model\.w: .*cannot be stored"):
        tensor_bytes(tensor, fqn="model.w")


def test_a_dtensor_is_refused() -> None:
    import torch.distributed as dist
    from torch.distributed import HashStore  # type: ignore[attr-defined]
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        tensor = distribute_tensor(torch.ones(2), init_device_mesh("cpu", (1,)))
        with pytest.raises(UnsupportedDataError, match="DTensor"):
            tensor_bytes(tensor, fqn="w")
        assert tensor_bytes(tensor.to_local()).size == 8
    finally:
        dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HERE, ids=lambda dtype: dtype.name)
def test_tensors_on_a_gpu_are_copied(dtype: DType) -> None:
    data = random_bytes(dtype, 12)
    tensor = tensor_from_bytes(data, dtype, (3, 4)).cuda()
    assert tensor_bytes(tensor).tobytes() == data.tobytes()
    assert tensor_bytes(tensor.t()).tobytes() == tensor_bytes(tensor.cpu().t()).tobytes()
    tensor_bytes(tensor)[:] = 0
    assert tensor_bytes(tensor).tobytes() == data.tobytes()


def test_a_new_tensor_is_filled_through_its_bytes() -> None:
    tensor, data = new_tensor(by_name("bfloat16"), (2, 2))
    data[:] = np.frombuffer(b"\x80\x3f" * 4, dtype=np.uint8)
    assert torch.equal(tensor, torch.ones(2, 2, dtype=torch.bfloat16))
    assert tensor.data_ptr() % 64 == 0


def test_what_is_made_from_bytes_owns_its_memory() -> None:
    data = np.zeros(8, dtype=np.uint8)
    data.flags.writeable = False
    tensor = tensor_from_bytes(data, by_name("float32"), (2,))
    tensor += 1
    assert not data.any()


@pytest.mark.parametrize(("size", "shape"), [(7, (2,)), (12, (2,)), (8, (-2,)), (0, (2**62, 2**62, 0))])
def test_lengths_and_shapes_must_fit(size: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"model\.w"):
        tensor_from_bytes(np.zeros(size, dtype=np.uint8), by_name("float32"), shape, where="model.w")


def test_dtypes_that_this_torch_lacks() -> None:
    with pytest.raises(UnsupportedDataError, match="float1"):
        to_torch_dtype(DType(99, "float1", 1, 1, "int"), where="w")
    with pytest.raises(UnsupportedDataError, match="qint8"):
        from_torch_dtype(torch.qint8, where="w")


@pytest.mark.parametrize("name", ["float4_e2m1fn_x2", "float32", "bool", "complex32"])
def test_new_tensors_where_torch_is_to_be_deterministic(name: str) -> None:
    """Then torch fills new memory, which it can do for some dtypes only."""
    torch.use_deterministic_algorithms(True)
    tensor, data = new_tensor(by_name(name), (2, 3))
    data[:] = 1
    assert tensor.shape == (2, 3)
    assert tensor.view(torch.uint8).sum() == data.size
