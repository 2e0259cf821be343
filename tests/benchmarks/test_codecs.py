"""The benchmark of the codecs, on a model of a few thousand parameters: that it runs, not what it finds."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks import codecs, stages
from benchmarks.bounds import entropy_bound
from benchmarks.peers import MODULES, peers
from benchmarks.verdicts import ALONE, OURS, Row, verdicts
from deltackpt.codec.types import Prediction
from deltackpt.tensor.dtypes import by_name


def test_every_row_is_there_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(codecs, "peers", lambda itemsize: islice(peers(itemsize), 1))
    out = tmp_path / "results.json"
    codecs.main(["--tiny", "--cache", str(tmp_path / "run"), "--rounds", "1", "--out", str(out)])
    report = json.loads(out.read_text())
    found = {(row["role"], row["step"], row["codec"]) for row in report["rows"]}
    peer = "zstd-1 on XOR planes"
    for step in ("1", "10", "100"):
        for role in ("weights", "exp_avg", "exp_avg_sq", "state"):
            assert {(role, step, codec) for codec in (OURS, ALONE, peer)} <= found
        assert {("bf16", step, OURS), ("bf16", step, peer)} <= found
    assert {("bf16", "rl1", OURS), ("bf16", "rl10", OURS)} <= found
    rows = {(row["role"], row["step"], row["codec"]): row for row in report["rows"]}
    # One step of the optimizer is nearly free beside the moments, and only there.
    assert rows["weights", "1", OURS]["bits"] < 0.5 * rows["weights", "1", ALONE]["bits"]
    assert all(row["encode"] > 0 and row["decode"] > 0 for row in report["rows"])
    assert set(report["versions"]) >= {"deltackpt", "numpy", "torch", *MODULES}
    assert len(report["verdicts"]) > 30
    assert len(capsys.readouterr().out.splitlines()) > len(report["rows"])
    stages.main(["--tiny", "--cache", str(tmp_path / "run"), "--rounds", "1"])
    printed = capsys.readouterr().out
    assert printed.count("block to record") == printed.count("record to block") == 3
    assert "adam_weight: prediction" in printed


# Of what they import.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("itemsize", [2, 4])
def test_peers_give_back_what_they_get(itemsize: int) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1 << 14, 4000).astype(f"<u{itemsize}")
    block = base + rng.integers(0, 5, 4000).astype(base.dtype)
    names = set()
    for peer in peers(itemsize):
        task = peer.task(block, base)
        packed = task.encode()
        assert task.decode(packed).tobytes() == task.raw.tobytes(), peer.name
        assert sum(map(len, packed)) < block.nbytes, peer.name
        names.add(peer.name)
    assert {"zstd-1 on XOR planes", "zstd-3 on XOR planes", "DCP ZStandard"} <= names


def test_the_bound_is_the_conditional_entropy() -> None:
    rng = np.random.default_rng(0)
    dtype = by_name("bfloat16")
    base = rng.choice(np.array([0x3F80, 0x4080], "<u2"), 1 << 16)
    # Two equally likely values above an exponent of 0, eight above the other one.
    values = base + (rng.integers(0, 8, base.size) >> np.where(base == 0x3F80, 2, 0)).astype("<u2")
    assert entropy_bound(values, Prediction(base), dtype) == pytest.approx(2.0, abs=0.01)
    contexts = (base == 0x3F80).astype(np.uint8)
    assert entropy_bound(values - base, Prediction(context=contexts), dtype) == pytest.approx(2.0, abs=0.01)


def test_verdicts_tell_reached_from_missed() -> None:
    def row(codec: str, bits: float, speed: float) -> Row:
        return Row("bf16", "10", codec, bits, 16, 4.0 if codec == OURS else None, speed, speed, 2 * speed, 2 * speed)

    judged = list(verdicts([row(OURS, 4.0, 1.0), row("a", 4.2, 2.0), row("b", 8.0, 9.0)], cores=2))
    assert [text for reached, text in judged if not reached] == [
        "bf16 10: 0.952 of the best peer's bytes (goal 0.75)",
        "bf16 10: encode at 1.00 GB/s (goal 1.3)",
        "bf16 10: decode at 1.00 GB/s (goal 2.5)",
        "bf16 10: encode 0.50 times as fast as a (goal 1)",
        "bf16 10: decode 0.50 times as fast as a (goal 1)",
    ]
    assert [text for reached, text in judged if reached] == [
        "bf16 10: 1.000 of the bound (goal 1.02)",
        "bf16 10: encode with two threads 2.00 times one (goal 1.8)",
        "bf16 10: decode with two threads 2.00 times one (goal 1.8)",
    ]
