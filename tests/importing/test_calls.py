"""Pickles that run something: imported as they are, and named."""

from __future__ import annotations

import collections
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from deltackpt.cli.main import app
from deltackpt.formats.parsers.calls import foreign_calls
from deltackpt.formats.parsers.pickles import parse_pickle
from tests.importing import layouts


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class Runs:
    def __init__(self, function: Any, *args: object) -> None:
        self._call = (function, args)

    def __reduce__(self) -> Any:
        return self._call


def calls_of(value: object, protocol: int = 2) -> list[str]:
    return foreign_calls(parse_pickle(pickle.dumps(value, protocol), where="file")[0])


@pytest.mark.parametrize("protocol", range(6))
def test_what_runs_something_is_named(protocol: int) -> None:
    system = f"{os.system.__module__}.system"
    assert calls_of({"a": [Runs(os.system, "true")]}, protocol) == [system]
    assert calls_of(collections.OrderedDict(x=(Runs(eval, "1"), Runs(os.system, ""))), protocol)[0].endswith(".eval")
    assert calls_of(Runs(getattr, "", "upper"), protocol)[0].endswith(".getattr")
    assert calls_of(Runs(torch.load, "x"), protocol) == ["torch.serialization.load"]


def test_what_checkpoints_are_made_of_is_not() -> None:
    value = {
        "numpy": np.random.default_rng(0).bit_generator.state,
        "array": np.arange(3),
        "scalar": np.float32(1),
        "path": Path("x"),
        "dtype": torch.bfloat16,
        "size": torch.Size([1]),
        "device": torch.device("cpu"),
        "state": collections.OrderedDict(a=collections.defaultdict(dict), b={1, 2}, c=frozenset(), d=bytearray(b"x")),
        "complex": 1j,
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    for protocol in range(2, 6):
        assert calls_of(value, protocol) == []


def test_import_and_check_say_so_and_nothing_runs(tmp_path: Path) -> None:
    run("init", tmp_path / "store")
    folder = layouts.olmo(tmp_path / "runs", 1)
    mark = tmp_path / "ran"
    (folder / "config.pkl").write_bytes(pickle.dumps(Runs(os.mkdir, str(mark))))
    layouts.save({"step": 1, "hook": Runs(os.mkdir, str(mark))}, folder / "train.pt")
    result = run("import", tmp_path / "runs", "--store", tmp_path / "store")
    name = f"{os.mkdir.__module__}.mkdir"
    assert result.exit_code == 0
    assert f"step1-unsharded/config.pkl calls {name} when it is unpickled" in result.output
    assert f"step1-unsharded/train.pt calls {name}" in result.output
    ran = run("check", tmp_path / "store", "1", "--against", folder, "--json")
    document = json.loads(ran.stdout)
    assert document["ok"]
    assert document["calls"] == [{"path": path, "names": [name]} for path in ("config.pkl", "train.pt")]
    assert f"config.pkl calls {name}" in run("check", tmp_path / "store", "1", "--against", folder).output
    run("restore", tmp_path / "store", "1", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "config.pkl").read_bytes() == (folder / "config.pkl").read_bytes()
    assert not mark.exists()
