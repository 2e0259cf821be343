"""Files larger than 4 GiB, and memory that does not grow with a file. The files are sparse: they take no disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deltackpt.formats.parsers.recognise import parse_file
from deltackpt.formats.parsers.source import SourceFile


def sparse_file(path: Path, elements: int) -> None:
    """A file of torch with one large tensor of zeros, which nobody writes."""
    storage = torch.UntypedStorage(4 * elements)
    large = torch.empty(0, dtype=torch.float32).set_(storage, 0, (elements,), (1,))
    with torch.serialization.skip_data():
        torch.save({"first": torch.empty(10), "large": large, "last": torch.empty(7)}, path)


def test_offsets_beyond_4_gib(tmp_path: Path) -> None:
    sparse_file(tmp_path / "large.pt", 1_200_000_000)
    tensors = {tensor.place: tensor for tensor in parse_file(SourceFile(tmp_path / "large.pt")).tensors}
    assert tensors["large",].storage.length == 4_800_000_000
    assert tensors["last",].storage.start > tensors["large",].storage.start + 4_800_000_000
    assert tensors["last",].shape == (7,)


# The kernel counts in KiB, and only in a process of its own.
MEASURED = """
import resource, sys
import deltackpt
store = deltackpt.Store.create(sys.argv[2])
report = store.import_checkpoints([sys.argv[1]], step=1, threads=2, base_memory=int(sys.argv[3]))
assert not report.failed, report.failed
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("elements", [50_000_000, 500_000_000])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, elements: int) -> None:
    sparse_file(tmp_path / "optim.pt", elements)
    arguments = [str(tmp_path / "optim.pt"), str(tmp_path / "store"), str(64 << 20)]
    ran = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 600 << 20
