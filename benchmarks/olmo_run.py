"""A real training run whose checkpoints lie on disk as OLMo writes them: ``step{N}-unsharded/``, ``latest-unsharded``.

    python -m benchmarks.olmo_run FOLDER [--checkpoints 12] [--every 20] [--tiny]

The full model has 26 million parameters: with AdamW's moments a checkpoint is 316 MB. A run that is there already, in
whole or in part, is continued from its newest checkpoint, with the same tensors as if it had not been interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml

from benchmarks.gpt import GPTConfig
from benchmarks.text import Tokenizer, read_sources
from benchmarks.training import TrainConfig, Trainer, make_deterministic

__all__ = ["FULL", "TINY", "Run", "main", "write_run"]

_NAMES: Final = (
    (r"blocks\.(\d+)\.qkv\.", r"transformer.blocks.\1.att_proj."),
    (r"blocks\.(\d+)\.attn_out\.", r"transformer.blocks.\1.attn_out."),
    (r"blocks\.(\d+)\.up\.", r"transformer.blocks.\1.ff_proj."),
    (r"blocks\.(\d+)\.down\.", r"transformer.blocks.\1.ff_out."),
    (r"blocks\.(\d+)\.norm_1\.", r"transformer.blocks.\1.attn_norm."),
    (r"blocks\.(\d+)\.norm_2\.", r"transformer.blocks.\1.ff_norm."),
    (r"norm\.", "transformer.ln_f."),
    (r"(wte|wpe)\.", r"transformer.\1."),
)


@dataclass(frozen=True, slots=True)
class Run:
    """Sizes of a run.

    Args:
        model: of the model.
        text_bytes: how much text it trains on.
    """

    model: GPTConfig
    text_bytes: int


FULL: Final = Run(GPTConfig(vocab=8192, width=512, layers=7, heads=8, dropout=0.0), 6 << 20)
TINY: Final = Run(GPTConfig(vocab=512, context=16, width=32, layers=1, heads=2, dropout=0.0), 1 << 18)


def _olmo_name(name: str) -> str:
    for pattern, replacement in _NAMES:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    raise ValueError(f"no name for {name}")


def write_run(folder: Path, *, run: Run = FULL, checkpoints: int = 12, every: int = 20) -> list[Path]:
    """Train, and write a checkpoint every ``every`` steps. Equal arguments give equal tensors, also where some of the
    checkpoints are there from a run that was interrupted.

    Returns:
        The checkpoints' folders, in order of steps.

    Raises:
        ValueError: the folder holds checkpoints of a run with other settings.
    """
    config = TrainConfig(steps=checkpoints * every, warmup=max(2, every // 2), batch=4)
    wanted = [_folder_of(folder, (number + 1) * every) for number in range(checkpoints)]
    done = sum(1 for _ in itertools.takewhile(Path.is_dir, wanted))
    if done and _settings(run.model, config) != yaml.safe_load((wanted[done - 1] / "config.yaml").read_text()):
        raise ValueError(f"{wanted[done - 1]} is of a run with other settings; choose another folder")
    if done == checkpoints:
        return wanted
    make_deterministic()
    text = read_sources(run.text_bytes)
    trainer = Trainer(run.model, config, Tokenizer.train(text, run.model.vocab).encode(text))
    folder.mkdir(parents=True, exist_ok=True)
    if done:
        _continue_from(trainer, wanted[done - 1], done * every)
    for final in wanted[done:]:
        for _ in range(every):
            trainer.train_step()
        _write_checkpoint(final, trainer)
    return wanted


def _folder_of(folder: Path, step: int) -> Path:
    return folder / f"step{step}-unsharded"


def _settings(model: GPTConfig, config: TrainConfig) -> dict[str, Any]:
    return {"run_name": "synthetic", "model": asdict(model), "optimizer": asdict(config)}


def _names(trainer: Trainer) -> dict[str, str]:
    """The parameters' names to OLMo's. The output layer is tied to the embedding, and OLMo's state has it once."""
    return {name: _olmo_name(name) for name, _ in trainer.model.named_parameters()}


def _continue_from(trainer: Trainer, checkpoint: Path, step: int) -> None:
    names = _names(trainer)
    weights = torch.load(checkpoint / "model.pt", weights_only=True)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            parameter.copy_(weights[names[name]])
    optim = torch.load(checkpoint / "optim.pt", weights_only=True)
    numbers = {name: number for number, name in enumerate(n for g in optim["param_groups"] for n in g["params"])}
    optim["state"] = {numbers[name]: values for name, values in optim["state"].items()}
    for group in optim["param_groups"]:
        group["params"] = [numbers[name] for name in group["params"]]
    trainer.optimizer.load_state_dict(optim)
    trainer.step = step


def _write_checkpoint(final: Path, trainer: Trainer) -> None:
    """As OLMo does: into a ``-tmp`` folder, which is then renamed, and a link to the newest."""
    made = final.with_name(final.name + "-tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    names = _names(trainer)
    torch.save({names[name]: p.detach() for name, p in trainer.model.named_parameters()}, made / "model.pt")
    torch.save(_optimizer_state(trainer, names), made / "optim.pt")
    torch.save(_train_state(trainer), made / "train.pt")
    (made / "config.yaml").write_text(yaml.safe_dump(_settings(trainer.model_config, trainer.config)))
    made.rename(final)
    link = final.with_name("latest-unsharded")
    link.unlink(missing_ok=True)
    link.symlink_to(final.name, target_is_directory=True)


def _optimizer_state(trainer: Trainer, names: dict[str, str]) -> dict[str, Any]:
    """In FSDP's form: by names of parameters."""
    called = {id(parameter): names[name] for name, parameter in trainer.model.named_parameters()}
    groups = [
        {
            **{key: value for key, value in group.items() if key != "params"},
            "params": [called[id(p)] for p in group["params"]],
        }
        for group in trainer.optimizer.param_groups
    ]
    state = {called[id(parameter)]: dict(values) for parameter, values in trainer.optimizer.state.items()}
    return {"state": state, "param_groups": groups}


def _train_state(trainer: Trainer) -> dict[str, Any]:
    tokens = trainer.step * trainer.config.batch * trainer.model_config.context
    rng = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.random.get_rng_state()}
    return {
        "epoch": 0,
        "global_step": trainer.step,
        "global_train_examples_seen_this_epoch": trainer.step * trainer.config.batch,
        "global_train_tokens_seen": tokens,
        "world_size": 1,
        "rng": rng,
    }


def main(arguments: list[str] | None = None) -> None:
    """Write a run and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoints", type=int, default=12)
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters, for tests")
    options = parser.parse_args(arguments)
    made = write_run(
        options.folder, run=TINY if options.tiny else FULL, checkpoints=options.checkpoints, every=options.every
    )
    size = sum(path.stat().st_size for one in made for path in one.iterdir())
    print(f"{len(made)} checkpoints, {size / 1e6:.1f} MB, are in {options.folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
