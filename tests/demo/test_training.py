from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.digests import differences, digest_state
from benchmarks.gpt import GPT, GPTConfig
from benchmarks.training import TrainConfig, Trainer, make_deterministic

SMALL = GPTConfig(vocab=300, context=16, width=16, layers=2, heads=2, dropout=0.1)
RUN = TrainConfig(steps=12, warmup=3, batch=2)
TOKENS = np.random.default_rng(5).integers(0, 300, size=500, dtype=np.uint16)


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    threads, algorithms = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    make_deterministic()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(algorithms)


def _trainer() -> Trainer:
    return Trainer(SMALL, RUN, TOKENS)


def _saved_and_read(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    read: dict[str, Any] = torch.load(file, weights_only=True)
    return read


def test_the_same_settings_give_the_same_bits() -> None:
    first = _trainer()
    losses = [first.train_step() for _ in range(5)]
    digests = digest_state(first.state())
    second = _trainer()
    assert [second.train_step() for _ in range(5)] == losses
    assert differences(digests, digest_state(second.state())) == []
    assert len(set(losses)) == 5


def test_a_run_continues_from_a_saved_state_bit_for_bit() -> None:
    trainer = _trainer()
    for _ in range(4):
        trainer.train_step()
    saved = _saved_and_read(trainer.state())
    losses = [trainer.train_step() for _ in range(4)]

    resumed = _trainer()
    resumed.blank_state()
    resumed.load(saved)
    assert resumed.step == 4
    assert [resumed.train_step() for _ in range(4)] == losses
    assert differences(digest_state(trainer.state()), digest_state(resumed.state())) == []


@pytest.mark.parametrize("part", ["optim", "rng"])
def test_a_state_without_moments_or_random_state_does_not_repeat(part: str) -> None:
    """The comparison above must be able to fail."""
    trainer = _trainer()
    for _ in range(4):
        trainer.train_step()
    saved = _saved_and_read(trainer.state())
    losses = [trainer.train_step() for _ in range(3)]
    if part == "optim":
        saved["optim"]["state"] = {}
    else:
        saved["train"]["rng"] = torch.Generator().manual_seed(99).get_state()
    resumed = _trainer()
    resumed.load(saved)
    assert [resumed.train_step() for _ in range(3)] != losses


def test_a_blank_state_has_all_shapes_and_changes_no_weight() -> None:
    trainer, blank = _trainer(), _trainer()
    before = digest_state(blank.model.state_dict())
    state = blank.blank_state()
    assert digest_state(state["model"]) == before
    trainer.train_step()
    assert digest_state(trainer.state()).keys() == digest_state(state).keys()


def test_data_depend_on_seed_and_step_alone() -> None:
    trainer = _trainer()
    inputs, targets = trainer.batch(7)
    trainer.train_step()
    again, _ = trainer.batch(7)
    assert torch.equal(inputs, again)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert not torch.equal(inputs, trainer.batch(8)[0])


def test_weights_are_tied_in_every_copy() -> None:
    state = _trainer().state()
    exact, rounded = state["model"], state["train"]["weights_bf16"]
    for weights, dtype in ((exact, torch.float32), (rounded, torch.bfloat16)):
        assert weights["wte.weight"].data_ptr() == weights["lm_head.weight"].data_ptr()
        assert {tensor.dtype for tensor in weights.values()} == {dtype}
    assert list(exact) == list(rounded)


def test_the_rate_rises_and_falls() -> None:
    run = TrainConfig(steps=100, warmup=10, peak_lr=1.0)
    rates = [run.lr(step) for step in range(1, 101)]
    assert rates[:10] == [step / 10 for step in range(1, 11)]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)


def test_the_model_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    model = GPT(SMALL).eval()
    tokens = torch.randint(0, 300, (1, 16))
    changed = tokens.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 300
    with torch.no_grad():
        assert torch.equal(model(tokens)[:, :9], model(changed)[:, :9])
        assert not torch.equal(model(tokens)[:, 9:], model(changed)[:, 9:])


def test_the_model_learns_a_repeated_text() -> None:
    trainer = Trainer(
        SMALL, TrainConfig(steps=60, warmup=2, batch=4, peak_lr=2e-2), np.arange(200, dtype=np.uint16) % 7
    )
    first = trainer.train_step()
    for _ in range(59):
        trainer.train_step()
    assert first == pytest.approx(float(F.cross_entropy(torch.zeros(1, 300), torch.zeros(1).long())), rel=0.05)
    assert trainer.loss < first / 4


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        Trainer(SMALL, RUN, TOKENS[:16])
