"""A real training run whose checkpoints lie on disk as OLMo writes them: ``step{N}-unsharded/``, ``latest-unsharded``.

    python -m benchmarks.olmo_run FOLDER [--checkpoints 12] [--every 20] [--tiny]

The full model has 26 million parameters: with AdamW's moments a checkpoint is 315 MB.
"""

from __future__ import annotations

import argparse
import random
import re
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
    """Train, and write a checkpoint every ``every`` steps. Equal arguments give equal tensors.

    Returns:
        The checkpoints' folders, in order of steps.
    """
    make_deterministic()
    text = read_sources(run.text_bytes)
    tokens = Tokenizer.train(text, run.model.vocab).encode(text)
    trainer = Trainer(run.model, TrainConfig(steps=checkpoints * every, warmup=max(2, every // 2), batch=4), tokens)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for _ in range(checkpoints):
        for _ in range(every):
            trainer.train_step()
        made.append(_write_checkpoint(folder, trainer))
    return made


def _write_checkpoint(folder: Path, trainer: Trainer) -> Path:
    """As OLMo does: into a ``-tmp`` folder, which is then renamed, and a link to the newest."""
    final = folder / f"step{trainer.step}-unsharded"
    made = folder / (final.name + "-tmp")
    made.mkdir()
    # The output layer is tied to the embedding, and OLMo's state has it once.
    names = {name: _olmo_name(name) for name, _ in trainer.model.named_parameters()}
    torch.save({names[name]: p.detach() for name, p in trainer.model.named_parameters()}, made / "model.pt")
    torch.save(_optimizer_state(trainer, names), made / "optim.pt")
    torch.save(_train_state(trainer), made / "train.pt")
    settings = {"run_name": "synthetic", "model": asdict(trainer.model_config), "optimizer": asdict(trainer.config)}
    (made / "config.yaml").write_text(yaml.safe_dump(settings))
    made.rename(final)
    link = folder / "latest-unsharded"
    link.unlink(missing_ok=True)
    link.symlink_to(final.name, target_is_directory=True)
    return final


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
    print(f"wrote {len(made)} checkpoints, {size / 1e6:.1f} MB, to {options.folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
