"""Where the time goes between a block's bytes and a record's, and how fast that is with each variant of the kernels.

    python -m benchmarks.stages

Blocks of 2^20 elements of the trajectory of ``benchmarks.codecs``; microseconds of processor time a block, the best of
some rounds, and 10^9 raw bytes a second. ``DELTACKPT_KERNELS=avx2`` measures that variant alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ours import BLOCK, Group
from benchmarks.trajectory import TINY, Trajectory
from deltackpt.codec import Candidate, Workspace, choose, kernels
from deltackpt.codec.predictors.adam import AdamSecond, AdamWeight
from deltackpt.codec.predictors.cast import Cast
from deltackpt.codec.registry import PREVIOUS
from deltackpt.codec.sampling import sample
from deltackpt.codec.types import Predictor, Shape, Slot
from deltackpt.format.hashing import address, checksum64
from deltackpt.tensor.dtypes import DType, by_name

Words = NDArray[Any]

F32 = by_name("float32")


def _fastest(action: Callable[[], object], rounds: int) -> float:
    """Microseconds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        action()
        best = min(best, time.thread_time() - start)
    # Clocks are coarse: what took no time took as little as they can tell.
    return max(1e6 * best, 0.1)


def _line(name: str, micros: float, nbytes: int | None = None) -> None:
    speed = "" if nbytes is None else f"  {nbytes / micros / 1e3:6.2f} GB/s"
    print(f"  {name:34}{micros:7.0f} us{speed}", flush=True)


def _coding(values: Words, base: Words, dtype: DType, rounds: int) -> None:
    """One block against its base: the whole, and its parts one by one."""
    role = "bf16" if dtype.itemsize == 2 else "weights"
    task = Group({role: values}, {role: base}).task()
    record = bytes(task.encode()[0])
    _line("block to record", _fastest(task.encode, rounds), values.nbytes)
    _line("record to block", _fastest(lambda: task.decode([record]), rounds), values.nbytes)
    found, space = kernels.active(), Workspace()
    if found is None:
        return
    data, offers = values.view(np.uint8), [Candidate(PREVIOUS, {0: (dtype, base.view(np.uint8))})]
    survey = found.survey(values, base, None, dtype, space)
    out, words = np.empty(found.bound(dtype, values.size), np.uint8), np.empty_like(values)
    length = found.encode(values, base, None, dtype, survey, out, space)
    assert length is not None
    payload = out.data[:length]
    parts: dict[str, Callable[[], object]] = {
        "choice of a prediction": lambda: choose(data, dtype, offers, space),
        "kernel: encode": lambda: found.encode(values, base, None, dtype, survey, out, space),
        "kernel: decode": lambda: found.decode(payload, base, None, dtype, words, space, source="stages"),
        "address of the block": lambda: address(data.data),
        "checksum of the record": lambda: checksum64(payload),
    }
    for name, action in parts.items():
        _line(name, _fastest(action, rounds), values.nbytes)


def _predicting(predictor: Predictor, values: Words, inputs: Sequence[Words], dtype: DType, rounds: int) -> None:
    """The fit from a sample, and the prediction of a block."""
    slots = {number: Slot(F32, part) for number, part in enumerate(inputs)}
    sampled = {number: Slot(F32, sample(part)) for number, part in enumerate(inputs)}
    taken, shape = sample(values), Shape(dtype, values.size)
    params = predictor.fit(taken, Shape(dtype, taken.size), sampled)
    if params is None:
        print(f"  {predictor.name}: nothing fits")
        return
    out = np.empty_like(values)
    _line(f"{predictor.name}: fit", _fastest(lambda: predictor.fit(taken, Shape(dtype, taken.size), sampled), rounds))
    made = _fastest(lambda: predictor.predict(shape, slots, params, source="stages", out=out), rounds)
    _line(f"{predictor.name}: prediction", made, values.nbytes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path(".bench/trajectory"), help="folder of the training run")
    parser.add_argument("--rounds", type=int, default=50, help="of each figure the best of so many")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters, to try it out")
    options = parser.parse_args(arguments)
    trajectory = Trajectory(options.cache, TINY) if options.tiny else Trajectory(options.cache)
    print(f"kernels: {kernels.status().path}")

    def block(role: str, step: str) -> Words:
        words = trajectory.words(role, step)
        # Not the first block: that is the embedding, in which rows hardly change.
        return (words[BLOCK : 2 * BLOCK] if words.size >= 2 * BLOCK else words).copy()

    for role, dtype in (("weights", F32), ("bf16", by_name("bfloat16"))):
        for step, base in (("10", "0"), ("rl1", "rl0"))[: 2 if role == "bf16" else 1]:
            print(f"{role}, {step} after {base}")
            _coding(block(role, step), block(role, base), dtype, options.rounds)
    print("predictions of one step")
    first, second = block("exp_avg", "1"), block("exp_avg_sq", "1")
    _predicting(AdamWeight(), block("weights", "1"), (block("weights", "0"), first, second), F32, options.rounds)
    _predicting(AdamSecond(), second, (block("exp_avg_sq", "0"), first, block("exp_avg", "0")), F32, options.rounds)
    _predicting(Cast(), block("bf16", "1"), (block("weights", "1"),), by_name("bfloat16"), options.rounds)


if __name__ == "__main__":
    main()
