"""Two readers that share no code, the package and ``reader.py``, read the same stores and give what was saved."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltackpt import Store
from deltackpt.codec.registry import CODERS, PREDICTORS
from deltackpt.format.pack import walk_pack
from deltackpt.format.record import decode_record
from deltackpt.testing.arrays import load_step
from tests.compat import reader
from tests.compat.write import DIGESTS, STORES, digest, digests, write

VERSIONS = sorted(path for path in Path(__file__).parent.glob("v*") if path.is_dir())


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores as this version writes them."""
    folder = tmp_path_factory.mktemp("compat") / "now"
    write(folder)
    return folder


@pytest.fixture(params=["now", *[path.name for path in VERSIONS]])
def stores(request: pytest.FixtureRequest, written: Path) -> Path:
    """The stores of one version: this one, and those that are kept."""
    return written if request.param == "now" else Path(__file__).parent / request.param


def package_reads(root: Path) -> dict[str, dict[str, str]]:
    store = Store.open(root)
    found = {}
    for branch in store.branches():
        for info in store.steps(branch):
            found[f"{branch}:{info.step}"] = digests(load_step(store.opened, f"{branch}:{info.step}"))
    return found


def entries(step: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in step.items() if not name.startswith("/")}


@pytest.mark.parametrize("name", STORES)
def test_both_readers_give_what_was_saved(stores: Path, name: str, tmp_path: Path) -> None:
    held = json.loads((stores / DIGESTS).read_text())[name]
    other = reader.Reader(stores / name)
    assert package_reads(stores / name) == {step: entries(content) for step, content in held.items()}
    assert {step: digests(other.step(step)) for step in other.steps()} == held
    assert Store.open(stores / name).verify(deep=True).ok


def test_files_come_back_byte_for_byte(stores: Path, tmp_path: Path) -> None:
    held = json.loads((stores / DIGESTS).read_text())["files"]
    for step, content in held.items():
        Store.open(stores / "files").step(step).restore(tmp_path / step.replace(":", "-"), format="original")
        restored = {
            f"/{path.name}": digest(path.read_bytes()) for path in tmp_path.joinpath(step.replace(":", "-")).iterdir()
        }
        assert restored == {name: value for name, value in content.items() if name.startswith("/")}


def test_names_signatures_and_parity_are_kept(stores: Path, tmp_path: Path) -> None:
    store = Store.open(stores / "history")
    assert store.step("tag:kept").info.step == 4
    assert store.step("tag:best").info.branch == "anneal"
    assert store.step(8).info.metrics["accuracy"] == 0.5
    assert store.verify(deep=True, signed_by=stores / "key.pub").ok
    assert any((stores / "history" / "parity").rglob("*"))


def records(root: Path) -> Iterator[tuple[int, int]]:
    for pack in root.glob("*/packs/*/*"):
        data = pack.read_bytes()
        places = [offset for offset, _ in walk_pack(data, source=pack.name)]
        for start, end in zip(places, [*places[1:], len(data) - 16], strict=True):
            record = decode_record(data[start:end], source=pack.name)
            yield record.predictor, record.coder


def test_every_predictor_and_coder_is_among_them(written: Path) -> None:
    found = set(records(written))
    assert {predictor for predictor, _ in found} == {predictor.id for predictor in PREDICTORS}
    assert {coder for _, coder in found} == {coder.id for coder in CODERS}
    assert sum(path.stat().st_size for path in written.rglob("*") if path.is_file()) < 2_000_000


def test_the_reader_takes_numpy_and_zstandard_alone(written: Path) -> None:
    """Run by itself, where the package cannot be found."""
    code = (
        "import runpy, sys\n"
        "sys.argv = ['reader.py', sys.argv[1]]\n"
        f"runpy.run_path({reader.__file__!r}, run_name='__main__')\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print('deltackpt' in tops, 'torch' in tops, 'xxhash' in tops)\n"
    )
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", code, str(written / "momentum")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env={}, cwd=written)
    lines = ran.stdout.splitlines()
    assert lines.pop() == "False False False"
    held = json.loads((written / DIGESTS).read_text())["momentum"]
    assert sorted(lines) == sorted(
        f"{value} {step} {name}" for step, all_of in held.items() for name, value in all_of.items()
    )
