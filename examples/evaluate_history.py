"""Evaluate the last ten steps of a run, without a folder of checkpoints anywhere.

    python examples/evaluate_history.py runs/gpt [--steps 10]

Only the weights are read, one step at a time. For a model of transformers take, in place of the lines marked below,

    with step.as_hf_dir() as path:
        model = AutoModelForCausalLM.from_pretrained(path)

and for an evaluation harness pass it `path`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import deltackpt


def evaluate_history(
    store: deltackpt.Store, evaluate: Callable[[dict[str, torch.Tensor]], float], steps: int = 10
) -> dict[int, float]:
    """The score of each of the last steps of a run, oldest first."""
    scores = {}
    for info in store.steps()[-steps:]:
        step = store.step(info.step)
        with step.open("model.pt") as file:  # <- transformers: see above
            weights = torch.load(file, weights_only=True)
        scores[info.step] = evaluate(weights)
    return scores


def mean_norm(weights: dict[str, torch.Tensor]) -> float:
    """Stands for an evaluation: the mean of the tensors' norms."""
    norms = [float(tensor.float().norm()) for tensor in weights.values()]
    return sum(norms) / len(norms)


def main() -> None:
    """Read the command line, and print a score for each step."""
    parser = argparse.ArgumentParser(description="Evaluate the last steps of a run.")
    parser.add_argument("store")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    for step, score in evaluate_history(deltackpt.Store.open(arguments.store), mean_norm, arguments.steps).items():
        print(f"{step:>8}  {score:.6f}")


if __name__ == "__main__":
    main()
