"""What one step of AdamW leaves to be said, in bits an element, by how it is predicted.

    python -m benchmarks.predictors [--steps 100]

Trains a small network with torch's AdamW and prints, for every parameter, the empirical entropy of the residual of
the weight and
of the second moment after one more step: against the base, against the optimizer's formula rounded once, and against
    the predictors of the codec,
which round where torch does. See ``docs/design/predictors.md``.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from deltackpt.codec.predictors.adam import AdamSecond, AdamWeight
from deltackpt.codec.residual import Words, to_residual
from deltackpt.codec.types import Inputs, Predictor, Shape, Slot
from deltackpt.tensor.dtypes import by_name

_F32 = by_name("float32")
_LR, _BETAS, _DECAY, _EPS = 6e-4, (0.9, 0.95), 0.1, 1e-8

Moments = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def entropy(values: NDArray[np.float32], prediction: Words) -> float:
    """Bits a residual, of order 0."""
    residual = to_residual(values.view("<u4"), prediction, "float")
    _, counts = np.unique(residual, return_counts=True)
    share = counts / residual.size
    return float(-(share * np.log2(share)).sum())


def predicted(predictor: Predictor, values: NDArray[np.float32], *inputs: NDArray[np.float32]) -> Words:
    """What a predictor of the codec makes of its inputs, with parameters fitted to the values."""
    slots: Inputs = {number: Slot(_F32, array.view("<u4")) for number, array in enumerate(inputs)}
    shape = Shape(_F32, values.size)
    params = predictor.fit(values.view("<u4"), shape, slots)
    assert params is not None
    found = predictor.predict(shape, slots, params, source="benchmark").values
    assert found is not None
    return found


def rounded_once(before: Moments, after: Moments, step: int) -> Words:
    """The weight by AdamW's formula in float64, with the true settings, rounded at the end only."""
    w, (_, m, v) = before[0].astype(np.float64), (a.astype(np.float64) for a in after)
    first, second = 1 - _BETAS[0] ** step, 1 - _BETAS[1] ** step
    update = (m / first) / (np.sqrt(v / second) + _EPS)
    found: Words = (w * (1 - _LR * _DECAY) - _LR * update).astype(np.float32).view("<u4")
    return found


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100, help="steps before the one that is measured")
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Embedding(500, 256), nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 500))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, betas=_BETAS, weight_decay=_DECAY, eps=_EPS)

    def train() -> None:
        tokens = torch.randint(0, 500, (256,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), (tokens * 7 + 3) % 500).backward()
        optimizer.step()

    def now() -> dict[str, Moments]:
        return {
            name: tuple(
                t.detach().numpy().reshape(-1).copy()
                for t in (p, optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"])
            )  # type: ignore[misc]  # three of them
            for name, p in model.named_parameters()
        }

    for _ in range(steps):
        train()
    before = now()
    train()
    after = now()
    table = Table("parameter", "elements", "w: base", "w: rounded once", "w: adam_weight", "v: base", "v: adam_second")
    for name in before:
        (w0, m0, v0), (w1, m1, v1) = before[name], after[name]
        bits = (
            entropy(w1, w0.view("<u4")),
            entropy(w1, rounded_once(before[name], after[name], steps + 1)),
            entropy(w1, predicted(AdamWeight(), w1, w0, m1, v1)),
            entropy(v1, v0.view("<u4")),
            entropy(v1, predicted(AdamSecond(), v1, v0, m1, m0)),
        )
        table.add_row(name, f"{w0.size:,}", *(f"{value:.2f}" for value in bits))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
