"""Sizes and speeds of the codec and its peers on a real training run.

    python -m benchmarks.codecs --out results.json

Ours goes from a block's bytes to a record's bytes and back: the choice of a prediction, addresses, checksums and
framing are in its times. ``deltackpt`` is a block beside its partners in a save (a weight and its moments),
``deltackpt, alone`` one without. Speeds are of raw input, the best of some rounds: of processor time on one core, of
wall time on all cores. Every figure is from a verified round trip. Peers that are not installed are left out
(``pip install '.[bench]'``).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bounds import entropy_bound
from benchmarks.measure import Measured, Task, cores, measure
from benchmarks.ours import BLOCK, Group, groups_of
from benchmarks.peers import MODULES, peers
from benchmarks.trajectory import INTERVALS, ROLES, TINY, Trajectory
from benchmarks.verdicts import ALONE, OURS, Row, verdicts
from deltackpt.codec.kernels import status
from deltackpt.codec.types import Prediction
from deltackpt.tensor.dtypes import DType, by_name

Words = NDArray[Any]

_STATE = ("weights", "exp_avg", "exp_avg_sq")


def _row(role: str, step: str, codec: str, found: Measured, raw_bits: int, bound: float | None = None) -> Row:
    speeds = (found.raw / 1e9 / seconds for seconds in (found.encode, found.decode, found.encode_all, found.decode_all))
    return Row(role, step, codec, raw_bits * found.packed / found.raw, raw_bits, bound, *speeds)


def _bound(values: Words, guesses: Sequence[Prediction], dtype: DType) -> float:
    """The bound of a tensor whose blocks were predicted in several ways; blocks predicted alike are one array."""
    kinds: dict[tuple[bool, bool], list[tuple[Words, Prediction]]] = {}
    for start, guess in zip(range(0, values.size, BLOCK), guesses, strict=True):
        kind = (guess.values is None, guess.context is None)
        kinds.setdefault(kind, []).append((values[start : start + BLOCK], guess))
    return sum(_part_bound(blocks, dtype) for blocks in kinds.values()) / values.size


def _part_bound(blocks: Sequence[tuple[Words, Prediction]], dtype: DType) -> float:
    values = np.concatenate([block for block, _ in blocks])
    known = [guess.values for _, guess in blocks if guess.values is not None]
    contexts = [guess.context for _, guess in blocks if guess.context is not None]
    guess = Prediction(np.concatenate(known) if known else None, np.concatenate(contexts) if contexts else None)
    return entropy_bound(values, guess, dtype) * values.size


class _Case:
    """What one step of the trajectory is to all codecs."""

    def __init__(self, trajectory: Trajectory, step: str, base: str, roles: Sequence[str], rounds: int) -> None:
        self._step, self._rounds = step, rounds
        self._values = {role: trajectory.words(role, step) for role in roles}
        self._bases = {role: trajectory.words(role, base) for role in roles}
        self._measured: dict[tuple[str, str], Measured] = {}
        whole = {role: words for role, words in self._values.items() if role in _STATE}
        self._groups = list(groups_of(whole, self._bases)) if len(whole) == len(_STATE) else []

    def rows(self, role: str) -> Iterator[Row]:
        """Ours and all peers, for one role."""
        values, base = self._values[role], self._bases[role]
        dtype = by_name("bfloat16" if role == "bf16" else "float32")
        alone = list(groups_of({role: values}, {role: base}))
        if role in _STATE and self._groups:
            yield self._ours(role, OURS, self._groups, dtype)
            yield self._ours(role, ALONE, alone, dtype)
        else:
            yield self._ours(role, OURS, alone, dtype)
        for peer in peers(dtype.itemsize):
            tasks = [
                peer.task(values[start : start + BLOCK].copy(), base[start : start + BLOCK].copy())
                for start in range(0, values.size, BLOCK)
            ]
            yield self._measure(role, peer.name, tasks, dtype)

    def state(self) -> Iterator[Row]:
        """The fp32 state as a whole, for ours group by group, for the others the sum of its parts."""
        if not self._groups:
            return
        found = measure([group.task() for group in self._groups], self._rounds)
        yield _row("state", self._step, OURS, found, 32)
        codecs = dict.fromkeys(codec for role, codec in self._measured if role in _STATE and codec != OURS)
        for codec in codecs:
            first, *rest = (self._measured[role, codec] for role in _STATE)
            for part in rest:
                first += part
            yield _row("state", self._step, codec, first, 32)

    def _ours(self, role: str, codec: str, groups: Sequence[Group], dtype: DType) -> Row:
        tasks, guesses = zip(*(group.single_tasks()[role] for group in groups), strict=True)
        values, base = self._values[role], self._bases[role]
        whole = (entropy_bound(values, guess, dtype) for guess in (Prediction(), Prediction(base)))
        limit = min(_bound(values, guesses, dtype), *whole)
        return self._measure(role, codec, tasks, dtype, limit)

    def _measure(self, role: str, codec: str, tasks: Sequence[Task], dtype: DType, bound: float | None = None) -> Row:
        self._measured[role, codec] = found = measure(tasks, self._rounds)
        return _row(role, self._step, codec, found, 8 * dtype.itemsize, bound)


def _show(row: Row, best: float) -> str:
    share = f"{row.bits / best:6.3f} of the best peer" if row.codec == OURS and best else ""
    over = "" if row.bound is None else f"bound {row.bound:7.3f} ({100 * (row.bits / row.bound - 1):+5.1f}%)"
    return (
        f"{row.role:11}{row.step:>5}  {row.codec:22}{row.bits:8.3f} bits  {over:24}  "
        f"{row.encode:6.2f} {row.decode:6.2f}  {row.encode_all:6.2f} {row.decode_all:6.2f}  {share}"
    )


def _print(rows: list[Row]) -> list[Row]:
    best = min((row.bits for row in rows if row.codec not in (OURS, ALONE)), default=0.0)
    for row in rows:
        print(_show(row, best).rstrip(), flush=True)
    return rows


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("deltackpt", "numpy", "torch", "zstandard", *MODULES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and the verdicts, and write both as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--cache", type=Path, default=Path(".bench/trajectory"), help="folder of the training run")
    parser.add_argument("--rounds", type=int, default=5, help="of each figure the best of so many")
    parser.add_argument("--only", default="", help="roles to measure, separated by commas; all of them if empty")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters, to try it out")
    parser.add_argument("--train", action="store_true", help="only train the run, if it is not in the cache")
    options = parser.parse_args(arguments)
    trajectory = Trajectory(options.cache, TINY) if options.tiny else Trajectory(options.cache)
    if options.train:
        return
    wanted = options.only.split(",") if options.only else [*ROLES]
    rows: list[Row] = []
    print(f"kernels: {status().path}; {_processor()}, {cores()} cores; blocks of {BLOCK} elements")
    print(f"{'':49}{'':26}  GB/s on one core, on all: encode decode  encode decode")
    for step, base in [(str(n), "0") for n in INTERVALS] + [(f"rl{n}", "rl0") for n in INTERVALS[:2]]:
        roles = [role for role in wanted if not step.startswith("rl") or role == "bf16"]
        case = _Case(trajectory, step, base, roles, options.rounds)
        for role in roles:
            rows += _print(list(case.rows(role)))
        rows += _print(list(case.state()))
    judged = [*verdicts(rows, cores())]
    print()
    for reached, text in judged:
        print(f"{'reached' if reached else 'MISSED '}  {text}")
    if options.out is not None:
        report = {
            "machine": {"processor": _processor(), "cores": cores(), "platform": platform.platform()},
            "versions": _versions(),
            "kernels": asdict(status()),
            "block": BLOCK,
            "rows": [asdict(row) for row in rows],
            "verdicts": [{"reached": reached, "goal": text} for reached, text in judged],
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
