"""Bad stores and bad arguments give one line and exit status 1, whatever is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltackpt.escape import reader
from tests.escape import handmade
from tests.escape.handmade import HandStep, create, varints

Run = Callable[..., Any]
DATA = bytes(range(64))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = create(tmp_path / "store")
    first, second = HandStep(root, "main", 1), HandStep(root, "main", 2)
    base = first.tensor("x", 11, (8, 4), DATA, block_elements=8)
    first.commit()
    second.tensor("x", 11, (8, 4), DATA[::-1], block_elements=12, base=base)
    second.object("o", "tree", b"\4" + bytes(7) + b"null")
    second.commit()
    return root


def one(root: Path, pattern: str) -> Path:
    """The largest file of that pattern."""
    return max(root.glob(pattern), key=lambda path: (path.stat().st_size, path.name))


def refused(done: Any) -> str:
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert done.err.startswith("error: ")
    return str(done.err)


def test_in_its_own_process(store: Path, tmp_path: Path, script: Run) -> None:
    path = one(store, "packs/*/*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = script(store, "restore", "2", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "damaged: its checksum does not match" in done.stderr
    assert "x, block " in done.stderr
    assert path.name in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("{}/manifests", "list"), "not a deltackpt store"),
        (("{}/nowhere", "list"), "not a deltackpt store"),
        (("{}", "show", "3"), "no such step; the branch has 2, from 1 to 2"),
        (("{}", "show", "x"), "no such step"),
        (("{}", "show", "-1"), "no such step"),
        (("{}", "show", "other:1"), "no branch 'other'"),
        (("{}", "show", "../x:1"), "no branch '../x'"),
        (("{}", "restore", "1", "--out", "{}/out", "--only", "optim"), "no such artifact; it has model"),
        (("{}", "restore", "1", "--out", "{}/store.json"), "exists"),
    ],
)
def test_bad_arguments(store: Path, read: Run, arguments: tuple[str, ...], text: str) -> None:
    assert text in refused(read(*(argument.format(store) for argument in arguments)))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (b'{"format": 2}', "store.json: not of format 1"),
        (b'{"format": "1"}', "store.json: not of format 1"),
        (b'{"format": 1.0}', "store.json: not of format 1"),
        (b'{"format": true}', "store.json: not of format 1"),
        (b'{"format": 1, "format": 1}', "store.json: a key that occurs twice"),
        (b'{"format": 1, "x": "\\ud800"}', "store.json: not readable as JSON"),
        (b"[1]", "store.json: not of format 1"),
        (b'{"format": NaN}', "store.json: not readable as JSON"),
        (b"[" * 100_000, "store.json: not readable as JSON"),
        (b'{"format"', "store.json: not readable as JSON"),
        (b"\xff", "store.json: not readable as JSON"),
    ],
)
def test_another_store_json(store: Path, read: Run, config: bytes, text: str) -> None:
    (store / "store.json").write_bytes(config)
    assert text in refused(read(store, "list"))


def test_a_manifest_of_format_2(store: Path, read: Run) -> None:
    HandStep(store, "main", 3).commit({"format": 2})
    listed = read(store, "list")
    assert "not of format 1" in listed.out
    assert "1  generation 1" in listed.out
    assert "1 steps cannot be read" in refused(listed)
    assert "not of format 1" in refused(read(store, "show", 3))


def test_a_manifest_in_the_place_of_another(store: Path, read: Run) -> None:
    shutil.copytree(store / "manifests/main/000000000002", store / "manifests/main/000000000004")
    assert "another step" in refused(read(store, "show", 4))


@pytest.mark.parametrize("pattern", ["packs/*/*", "indexes/*", "manifests/main/000000000002/*"])
@pytest.mark.parametrize("keep", [0, 20, 0.5, -1])
def test_truncated(store: Path, tmp_path: Path, read: Run, pattern: str, keep: float) -> None:
    path = one(store, pattern)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep == 0.5 else int(keep)])
    assert f"{path.name}: truncated" in refused(read(store, "restore", 2, "--out", tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("pattern", ["packs/*/*", "indexes/*"])
def test_missing(store: Path, tmp_path: Path, read: Run, pattern: str) -> None:
    path = one(store, pattern)
    path.unlink()
    assert f"{path.name}: missing" in refused(read(store, "restore", 2, "--out", tmp_path / "out"))


def test_longer_than_it_was(store: Path, tmp_path: Path, read: Run) -> None:
    path = one(store, "packs/*/*")
    path.write_bytes(path.read_bytes() + b"\0")
    assert f"{path.name}: changed" in refused(read(store, "restore", 2, "--out", tmp_path / "out"))


def test_no_file_is_overwritten(store: Path, tmp_path: Path, read: Run) -> None:
    assert read(store, "restore", 2, "--out", tmp_path / "out").code == 0
    assert "is there already" in refused(read(store, "restore", 1, "--out", tmp_path / "out"))


@pytest.mark.parametrize("hashes", [True, False])
def test_any_flipped_byte(
    store: Path, tmp_path: Path, read: Run, monkeypatch: pytest.MonkeyPatch, hashes: bool
) -> None:
    """With the hashes nothing wrong gets out; without them nothing but errors of one line or wrong values does."""
    if not hashes:
        monkeypatch.setattr(reader, "xxhash", None)
        monkeypatch.setattr(reader, "blake3", None)
    noted = 0 if hashes else 1
    assert read(store, "restore", 2, "--out", tmp_path / "good").code == 0
    good = {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
    found = set()
    for path in [p for p in sorted(store.rglob("*")) if p.is_file() and "000000000001" not in p.parts]:
        data = path.read_bytes()
        for at in range(0, len(data), 1 if len(data) < 200 else 5):
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
            out = tmp_path / "out"
            done = read(store, "restore", 2, "--out", out)
            if done.code == 0 and hashes:
                assert {file.name: file.read_bytes() for file in out.iterdir()} == good
            elif done.code != 0:
                assert done.code == 1
                assert done.err.count("\n") == 1 + noted
                assert "error: " in done.err
            found.add(done.code)
            shutil.rmtree(out, ignore_errors=True)
        path.write_bytes(data)
    assert found == {0, 1}


def tile(*parts: tuple[int, ...], data: bytes = DATA[:8], slot: int = 0, flags: int = 0, dtype: int = 2) -> bytes:
    numbers = varints(len(parts[0]), *(n for part in parts for n in part)) if parts else b""
    return varints(slot) + bytes([flags, dtype]) + handmade.address(data) + numbers


WHOLE = ((8,), (0,), (8,), (0,))
LONG_VARINT = b"\x80\x00"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"dtype": 23}, "unknown dtype 23"),
        ({"predictor": 9}, "predictor 9"),
        ({"coder": 9}, "coder 9"),
        ({"predictor": 1, "coder": 0, "payload": DATA[:8]}, "does not have"),
        ({"predictor": 0}, "does not have"),
        ({"data_address": bytes(16)}, "not the record that its index says"),
        ({"shape": (9,)}, "not the record that its index says"),
        ({"shape": (1 << 40, 1 << 40)}, "not the record that its index says"),
        ({"shape": (1,) * 65}, "65 dimensions"),
        ({"needs": []}, "another number of needs"),
        ({"needs": [tile(flags=1)] * 2}, "another number of needs"),
        ({"needs": [tile(*WHOLE, slot=1)]}, "does not have"),
        ({"needs": [tile(*WHOLE, flags=2)]}, "does not have"),
        ({"needs": [tile(*WHOLE, dtype=3)]}, "does not have"),
        ({"needs": [tile(*WHOLE, data=b"other")]}, "not the one in its index"),
        ({"needs": [tile((2, 4), (0, 0), (2, 4), (0, 0))]}, "another number of dimensions"),
        ({"needs": [tile((9,), (0,), (8,), (0,))]}, "cannot have the shape"),
        ({"needs": [tile((8,), (1,), (8,), (0,))]}, "not inside the shape"),
        ({"needs": [tile((8,), (0,), (8,), (1,))]}, "not inside the shape"),
        ({"needs": [tile((8,), (0,), (0,), (0,))]}, "an empty box"),
        ({"needs": [tile((8,), (1 << 63,), (1 << 63,), (0,))]}, "not inside the shape"),
        ({"needs": [tile(*WHOLE) + LONG_VARINT]}, "too long"),
        ({"needs": [tile(*WHOLE) + b"\x01"]}, "does not have"),
        ({"payload": b""}, "truncated"),
        ({"payload": b"\0\x07\0\0\0" + DATA[:7]}, "an unknown plane"),
        ({"payload": b"\3\x08\0\0\0" + DATA[:8]}, "an unknown plane"),
        ({"payload": b"\2\x02\0\0\0ab"}, "an unknown plane"),
        ({"payload": b"\2\x01\0\0\0ab"}, "left over"),
        ({"payload": b"\1\x08\0\0\0" + DATA[:8]}, "damaged"),
        (
            {"payload": b"\1" + len(handmade.zstd(DATA)).to_bytes(4, "little") + handmade.zstd(DATA)},
            "decode to 8 bytes",
        ),
        ({"payload": b"\2\x01\0\0\0\0"}, "does not decode to the bytes that its address stands for"),
    ],
)
def test_records_against_the_rules(tmp_path: Path, read: Run, wrong: dict[str, Any], text: str) -> None:
    """All checksums are right: the writer was wrong."""
    step = HandStep(create(tmp_path / "store"), "main", 1)
    base = step.record(2, (8,), DATA[:8])
    row = step.record(2, (8,), DATA[8:16], [(step, base, None)], wrong=wrong)
    box = ((0,), (8,))
    step.tensors["x"] = handmade.Tensor(2, (8,), DATA[8:16], 8, [box], [(box, step, row)], {})
    step.commit()
    assert text in refused(read(step.root, "restore", 1, "--out", tmp_path / "out"))


def test_needs_that_overlap(tmp_path: Path, read: Run) -> None:
    step = HandStep(create(tmp_path / "store"), "main", 1)
    base = step.record(2, (8,), DATA[:8])
    needs = [(step, base, ((8,), (0,), (5,), (0,))), (step, base, ((8,), (0,), (4,), (4,)))]
    row = step.record(2, (8,), DATA[8:16], needs)
    box = ((0,), (8,))
    step.tensors["x"] = handmade.Tensor(2, (8,), DATA[8:16], 8, [box], [(box, step, row)], {})
    step.commit()
    assert "overlap" in refused(read(step.root, "restore", 1, "--out", tmp_path / "out"))


def test_a_record_that_needs_itself(tmp_path: Path, read: Run) -> None:
    step = HandStep(create(tmp_path / "store"), "main", 1)
    step.tensor("x", 2, (8,), DATA[:8])
    step.rows[0].needs.append((step, 0))
    step.commit()
    assert "needs a later one" in refused(read(step.root, "restore", 1, "--out", tmp_path / "out"))


def test_indexes_that_need_each_other(tmp_path: Path, read: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    root = create(tmp_path / "store")
    first, second = HandStep(root, "main", 1), HandStep(root, "main", 2, identity=bytes(32))
    second.tensor("x", 2, (8,), DATA[:8])
    first.record(2, (8,), DATA[:8], [(second, 0, None)])
    first.put_records()
    second.rows[0].needs.append((first, 0))
    second.commit()
    assert "does not have the BLAKE3" in refused(read(root, "restore", 2, "--out", tmp_path / "out"))
    monkeypatch.setattr(reader, "blake3", None)
    done = read(root, "restore", 2, "--out", tmp_path / "out")
    assert done.code == 1
    assert "is not one deeper than what it needs" in done.err


def test_depth_that_is_not_that_of_the_needs(tmp_path: Path, read: Run) -> None:
    step = HandStep(create(tmp_path / "store"), "main", 1)
    step.tensor("x", 2, (8,), DATA[:8])
    step.rows[0].depth = 2
    step.commit()
    assert "is not one deeper than what it needs" in refused(read(step.root, "restore", 1, "--out", tmp_path / "out"))


@pytest.mark.parametrize(
    ("shards", "text"),
    [
        ([((0,), (7,))], "do not cover"),
        ([((0,), (4,)), ((3,), (4,))], "overlap"),
        ([((1,), (8,))], "not inside"),
        ([], "do not cover"),
    ],
)
def test_shards_that_are_not_the_tensor(tmp_path: Path, read: Run, shards: list[handmade.Box], text: str) -> None:
    step = HandStep(create(tmp_path / "store"), "main", 1)
    step.tensor("x", 2, (8,), DATA[:8]).shards = shards
    step.tensors["x"].blocks = step.tensors["x"].blocks * len(shards)
    step.commit()
    assert text in refused(read(step.root, "restore", 1, "--out", tmp_path / "out"))


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ([("a", (3, 0, b""))], "unknown kind 3"),
        ([("a", handmade.ints([1])), ("a", handmade.ints([1]))], "occurs twice"),
        ([("a", (0, 1, b"\2\1x"))], "unknown mode 2"),
        ([("a", (0, 1, b"\0\3xxx"))], "width 3"),
        ([("a", (0, 1, b"\0\x08" + b"\xff" * 8))], "not below 2^63"),
        ([("a", (0, 1, b"\1\1\1"))], "not below 2^63"),
        ([("a", (0, 2, b"\1\x08" + bytes([0xFE, 2]) + b"\xff\0" * 7))], "not below 2^63"),
        ([("a", (0, 1 << 62, b"\0\1"))], "truncated"),
        ([("a", (1, 1 << 40, b"\0"))], "values of no bytes"),
        ([("a", (1, 0, b"\0"))], "values of no bytes"),
        ([("a", (2, 1 << 40, b"\0"))], "truncated"),
        ([("a", (0, 1, b"\0\1\1x"))], "left over"),
    ],
)
def test_tables_against_the_rules(columns: list[tuple[str, tuple[int, int, bytes]]], text: str) -> None:
    body = varints(len(columns))
    for name, (kind, count, values) in columns:
        body += varints(len(name)) + name.encode() + bytes([kind]) + varints(count) + values
    frame = handmade.zstd(body)
    data = len(body).to_bytes(4, "little") + len(frame).to_bytes(4, "little") + frame
    with pytest.raises(reader.ReaderError) as error:
        reader.Table(data, "here")
    assert text in str(error.value)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("width", [None, 8])
@pytest.mark.parametrize("values", [[], [0], [5, 3, 3, 250], [2**63 - 1, 0, 2**63 - 1], [2**40, 1]])
def test_integers_of_tables(values: list[int], mode: int, width: int | None) -> None:
    assert reader.Table(handmade.table({"a": handmade.ints(values, mode, width)}), "here").ints("a") == values


@pytest.mark.parametrize(
    ("document", "data", "text"),
    [
        (b'{"bytes": [0, 3]}', b"ab", "truncated"),
        (b'{"bytes": [1, 1]}', b"ab", "'bytes' at [1, 1]"),
        (b'{"bytes": [0, 1]}', b"ab", "left over"),
        (b'{"bytes": [0, -1]}', b"ab", "'bytes' at [0, -1]"),
        (b'{"array": {"dtype": "<f4"}}', b"", "'array' at None"),
        (b'{"tuple": [], "set": []}', b"", "not a tag"),
        (b"{}", b"", "not a tag"),
        (b"NaN", b"", "not readable as JSON"),
        (b"[" * 99_999 + b"]" * 99_999, b"", "not readable as JSON"),
    ],
)
def test_trees_against_the_rules(tmp_path: Path, read: Run, document: bytes, data: bytes, text: str) -> None:
    step = HandStep(create(tmp_path / "store"), "main", 1)
    step.object("o", "tree", len(document).to_bytes(8, "little") + document + data)
    step.commit()
    assert text in refused(read(step.root, "restore", 1, "--out", tmp_path / "out"))
