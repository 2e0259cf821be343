"""Writes the stores that later versions have to read: ``python -m tests.compat.write FOLDER``.

Small ones that together hold all that version 1 of the format can: every predictor and coder, chains of every kind,
branches, tags and notes, replaced and pruned and rewritten steps, several writers, partners, files, parity, signatures.
Beside them ``digests.json`` says what was saved: for each store and step the SHA-256 of every entry and file.

The contents come from fixed seeds. Ids and times are random, so that two runs do not give the same stores.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from deltackpt import Retention, Store
from deltackpt.store.signing_keys import make_keys
from deltackpt.tensor.dtypes import DTYPES
from deltackpt.testing.arrays import State, Stored, load_step, save_step, split, state_bytes

__all__ = ["DIGESTS", "STORES", "digest", "write"]

DIGESTS = "digests.json"

# For each step what it holds: entries, and files as ``/PATH``.
Held: TypeAlias = dict[str, dict[str, str]]


def digest(data: bytes) -> str:
    """The SHA-256 of an entry or a file."""
    return hashlib.sha256(data).hexdigest()


def digests(content: dict[str, bytes]) -> dict[str, str]:
    """Those of all that a step holds."""
    return {name: digest(data) for name, data in content.items()}


def _save(store: Store, held: Held, state: State, step: int, branch: str = "main", writers: int = 1) -> None:
    save_step(store.opened, state, step=step, branch=branch, writers=writers, metrics={"loss": 1 / (1 + step)})
    held[f"{branch}:{step}"] = digests(state_bytes(state))


def _floats(*shape: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _words(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu().contiguous().clone()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _training(optimizer: str, steps: int) -> Iterator[State]:
    """A small training run at every step: weights, their copies in bfloat16, and the state of the optimizer."""
    torch.manual_seed(1)
    model = torch.nn.Linear(64, 64)
    parameters = dict(model.named_parameters())
    made: torch.optim.Optimizer = (
        torch.optim.AdamW(parameters.values(), lr=1e-3)
        if optimizer == "adamw"
        else torch.optim.SGD(parameters.values(), lr=0.05, momentum=0.9)
    )
    for _ in range(steps):
        made.zero_grad()
        model(torch.randn(64, 64)).square().mean().backward()
        made.step()
        state: dict[str, Stored] = {}
        for name, parameter in parameters.items():
            state[f"model.{name}"] = Stored(_words(parameter))
            state[f"train.{name}"] = Stored(_words(parameter.bfloat16()), "bfloat16", artifact="train", role="other")
            for moment, role in (("exp_avg", "exp_avg"), ("exp_avg_sq", "exp_avg_sq"), ("momentum_buffer", "momentum")):
                if moment in made.state[parameter]:
                    values = _words(made.state[parameter][moment])
                    state[f"optim.state.{name}.{moment}"] = Stored(values, artifact="optim", role=role)
        yield state


def _adamw(root: Path) -> Held:
    held: Held = {}
    store = Store.create(root, chain="previous", key_every=3)
    for step, state in enumerate(_training("adamw", 4)):
        _save(store, held, state, step)
    return held


def _momentum(root: Path) -> Held:
    held: Held = {}
    store = Store.create(root, chain="previous", key_every=8)
    for step, state in enumerate(_training("sgd", 3)):
        _save(store, held, state, step)
    return held


def _tree(root: Path) -> Held:
    """A history that was written anew as a tree, in which steps stand between two others."""
    held: Held = {}
    store = Store.create(root, chain="previous", key_every=64, max_depth=100)
    w = _floats(24, 64, seed=0)
    for step in range(9):
        _save(store, held, {"w": w, "frozen": _floats(8, 64, seed=3)}, step)
        w = (w + np.float32(1e-5) * _floats(24, 64, seed=step + 50)).astype(np.float32)
    store.repack("smallest")
    store.gc(grace=0)
    return held


def _kinds(root: Path) -> Held:
    """Every dtype, shapes of all kinds, and values that ask for each coder."""
    rng = np.random.default_rng(5)
    held: Held = {}
    store = Store.create(root, chain="previous", key_every=4)
    dtypes: dict[str, Stored] = {
        dtype.name: Stored(
            rng.integers(0, 256, (6, 5, dtype.itemsize), np.uint8).view(f"V{dtype.itemsize}")[..., 0], dtype.name
        )
        for dtype in DTYPES
    }
    for step in range(3):
        counts = rng.integers(0, 40, 2000)
        state: dict[str, NDArray[Any] | Stored] = {
            **dtypes,
            "scalar": np.array(step, np.float32),
            "nothing": np.zeros((0, 4), np.float32),
            "random": rng.integers(0, 256, 300, np.uint8),
            "constant": np.full((50, 50), 2.5, np.float32),
            "counts": counts.astype(np.int64),
            "listed": np.sort(_floats(40, seed=2))[counts],
            "rounded": (_floats(64, 64, seed=step).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
            "text": Stored(
                np.frombuffer(b"the same again " * 40 + bytes([step]), np.uint8), kind="object", artifact="train"
            ),
            "table": _uneven(step),
        }
        _save(store, held, state, step)
    return held


def _uneven(step: int) -> NDArray[np.float32]:
    """A table of which some rows move by much more than others."""
    rows = np.random.default_rng(6).choice([2.0, 300.0], (64, 1))
    moves = np.rint(_floats(64, 256, seed=1) * rows).astype(np.int64)
    words: NDArray[np.uint32] = (0x3F800000 + step * moves).astype(np.uint32)
    return words.view(np.float32)


def _history(root: Path) -> Held:
    """Branches, tags, notes, writers whose shards differ, a step saved anew; pruned, protected and signed."""
    held: Held = {}
    store = Store.create(root, chain="previous", key_every=4, block_elements=512)
    w = _floats(24, 32, seed=7)

    def state(step: int) -> State:
        parts = split((24, 32), 1 + step % 3)
        return {"w": Stored((w * np.float32(1 + 1e-5 * step)), boxes=parts), "frozen": w[:16], "tied": w[:16].copy()}

    for step in range(10):
        _save(store, held, state(step), step, writers=1 + step % 3)
    _save(store, held, state(40), 9)
    store.branch("anneal", at=8)
    for step in (9, 10):
        _save(store, held, state(step + 60), step, branch="anneal")
    store.tag(4, "kept")
    store.tag("anneal:10", "best")
    store.annotate(8, {"accuracy": 0.5})
    store.prune(Retention(keep_last=2, keep_every=4))
    store.gc(grace=0)
    for name in [name for name in held if name.startswith("main:")]:
        if int(name[5:]) not in {info.step for info in store.steps()}:
            del held[name]
    store.protect(0.1)
    make_keys(root.parent / "key")
    store.sign(root.parent / "key")
    (root.parent / "key").unlink()  # The public key stays, for whoever checks the signatures.
    return held


def _files(root: Path) -> Held:
    """Checkpoints imported as files, of every kind that is understood, and one that is not."""
    held: Held = {}
    store = Store.create(root, key_every=4)
    with tempfile.TemporaryDirectory() as name:
        for step in range(2):
            source = Path(name) / f"step{step}"
            source.mkdir()
            for path, data in _checkpoint(step).items():
                (source / path).write_bytes(data)
                held.setdefault(f"main:{step}", {})[f"/{path}"] = digest(data)
        store.import_checkpoints([name], pattern="step{step}")
    for step in range(2):
        held[f"main:{step}"].update(digests(load_step(store.opened, step)))
    return held


def _checkpoint(step: int) -> dict[str, bytes]:
    from safetensors.numpy import save

    weight = torch.from_numpy(_floats(32, 32, seed=9) * np.float32(1 + 1e-5 * step))
    found: dict[str, bytes] = {"notes.txt": b"step %d\n" % step}
    for name, legacy in (("model.pt", False), ("old.pt", True)):
        out = io.BytesIO()
        value = {"w": weight, "wt": weight.t(), "n": step}
        torch.save(value, out, _use_new_zipfile_serialization=not legacy)
        found[name] = out.getvalue()
    out = io.BytesIO()
    np.savez(out, a=weight.numpy(), b=np.arange(5) + step)
    found["arrays.npz"] = out.getvalue()
    found["model.safetensors"] = save({"w": weight.numpy(), "b": np.ones(4, np.int64)}, {"format": "pt"})
    return found


STORES: dict[str, Callable[[Path], Held]] = {
    "adamw": _adamw,
    "momentum": _momentum,
    "tree": _tree,
    "kinds": _kinds,
    "history": _history,
    "files": _files,
}


def write(folder: Path) -> None:
    """Write all stores, and what they hold, into a new folder."""
    folder.mkdir(parents=True)
    held = {name: make(folder / name) for name, make in STORES.items()}
    for copy in folder.glob("*/reader.py"):
        copy.unlink()  # The package's own reader, a copy in every store, has tests elsewhere.
    (folder / DIGESTS).write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
