"""Artifacts and roles from names, for the states that training frameworks save."""

from __future__ import annotations

import pytest

from deltackpt.tensor.roles import Path, classify, classify_all, marker_end, optimizer_roots, role_of

T, OBJECT = True, False


@pytest.mark.parametrize(
    ("path", "is_tensor", "artifact"),
    [
        # {"model": ..., "optim": ...}, also inside something
        (("model", "wte.weight"), T, "model"),
        (("model", "block._extra_state"), OBJECT, "model"),
        (("app", "model", "wte.weight"), T, "model"),
        (("optim", "state", "0", "exp_avg"), T, "optim"),
        (("optim", "param_groups", 0, "lr"), OBJECT, "optim"),
        (("app", "optimizer", "state", "w", "step"), T, "optim"),
        (("optimizers", 0, "state", "0", "exp_avg"), T, "optim"),
        (("optimizer_d", "state", "0", "exp_avg"), T, "optim"),
        # the first marker decides
        (("model", "optimizer", "w"), T, "model"),
        (("model", "config", "layers"), OBJECT, "model"),
        (("lr_scheduler", "optimizer", "x"), OBJECT, "train"),
        (("loops", "fit_loop", "state_dict", "x"), T, "train"),
        (("trainer", "optimizer", "state", "0", "step"), T, "optim"),
        # Lightning, DeepSpeed
        (("state_dict", "net.0.weight"), T, "model"),
        (("module", "net.0.weight"), T, "model"),
        (("optimizer_states", 0, "state", "0", "exp_avg"), T, "optim"),
        (("lr_schedulers", 0, "last_epoch"), OBJECT, "train"),
        # a model's state dict alone; torchtitan puts it at the top
        (("layers.0.weight",), T, "model"),
        (("model.layers.0.weight",), T, "model"),
        (("scaler",), T, "model"),
        (("data.loader.weight",), T, "model"),
        (("layers.0._extra_state",), OBJECT, "model"),
        (("encoder", "weight"), T, "model"),
        (("optimizer.state.layers.0.weight.exp_avg",), T, "optim"),
        (("optimizer.param_groups.layers.0.weight.lr",), OBJECT, "optim"),
        # an optimizer's state dict alone, nested or flat
        (("state", "0", "exp_avg"), T, "optim"),
        (("state", "layers.0.weight", "momentum_buffer"), T, "optim"),
        (("state.layers.0.weight.exp_avg",), T, "optim"),
        (("param_groups", 0, "params"), OBJECT, "optim"),
        (("state", "weight"), T, "model"),
        # the rest
        (("step",), OBJECT, "train"),
        (("optimizer",), OBJECT, "train"),
        (("model",), OBJECT, "train"),
        (("train", "tokens"), T, "train"),
        (("train_state", "step"), OBJECT, "train"),
        (("dataloader", "0"), T, "train"),
        (("rng_state",), T, "train"),
        (("cuda_rng_state_all", 0), T, "train"),
        (("config", "lr"), OBJECT, "config"),
        (("config",), OBJECT, "config"),
        (("hyper_parameters", "lr"), OBJECT, "config"),
    ],
)
def test_the_artifact_of_a_path(path: Path, is_tensor: bool, artifact: str) -> None:
    assert classify(path, is_tensor) == artifact


def test_what_is_not_marked_depends_on_the_rest() -> None:
    averages = {"ema.w": (("ema", "w"), T), "tokens": (("tokens",), T)}
    assert classify_all(averages) == {"ema.w": "model", "tokens": "model"}
    marked = classify_all({**averages, "model.w": (("model", "w"), T)})
    assert marked == {"ema.w": "train", "tokens": "train", "model.w": "model"}


def test_an_optimizer_is_known_by_its_parts() -> None:
    state: dict[str, tuple[Path | None, bool]] = {
        "muon.state.w.spectral": (("muon", "state", "w", "spectral"), T),
        "muon.param_groups.0.lr": (("muon", "param_groups", 0, "lr"), OBJECT),
        "muon.scale": (("muon", "scale"), T),
        "net.state.w": (("net", "state", "w"), T),
    }
    kinds = classify_all(state)
    assert kinds == {
        "muon.state.w.spectral": "optim",
        "muon.param_groups.0.lr": "optim",
        "muon.scale": "optim",
        "net.state.w": "model",
    }


def test_an_optimizer_at_the_top_leaves_the_rest_alone() -> None:
    state: dict[str, tuple[Path | None, bool]] = {
        "state.0.preconditioner": (("state", "0", "preconditioner"), T),
        "param_groups.0.lr": (("param_groups", 0, "lr"), OBJECT),
        "epoch": (("epoch",), OBJECT),
    }
    assert list(classify_all(state).values()) == ["optim", "optim", "train"]


def test_a_flat_model_with_any_names() -> None:
    names = ["model.embed.weight", "lm_head.weight", "model", "scheduler.weight", "config"]
    state: dict[str, tuple[Path | None, bool]] = {name: ((name,), T) for name in names}
    assert set(classify_all(state).values()) == {"model"}
    assert set(classify_all(dict.fromkeys(names, (None, T))).values()) == {"model"}


def test_a_state_that_was_not_flattened() -> None:
    # Each value is an object, and may be all of an artifact.
    state: dict[str, tuple[Path | None, bool]] = dict.fromkeys(("model", "optimizer", "config", "step"), (None, OBJECT))
    assert classify_all(state) == {"model": "model", "optimizer": "optim", "config": "config", "step": "train"}


def test_optimizer_roots() -> None:
    paths: list[Path] = [
        ("a", "state", "0"),
        ("a", "param_groups", 0),
        ("b", 0, "param_groups", 0),
        ("b", 0, "state", "x"),
        ("c", "state"),
        ("param_groups",),
    ]
    assert optimizer_roots(paths) == {("a",), ("b", 0)}


def test_marker_end() -> None:
    assert marker_end(("app", "model", "w"), "model") == 2
    assert marker_end(("app", "model", "w"), "optim") == 0
    assert marker_end(("optimizer", "model", "w"), "model") == 0
    assert marker_end(("model.w",), "model") == 0
    assert marker_end((0, 1), "model") == 0


@pytest.mark.parametrize(
    ("path", "role"),
    [
        (("model", "wte.weight"), "weight"),
        (("model", "bn.running_mean"), "buffer"),
        (("model", "rotary.inv_freq"), "buffer"),
        (("optim", "state", "0", "exp_avg"), "exp_avg"),
        (("optim", "state", "0", "exp_avg_sq"), "exp_avg_sq"),
        (("optim", "state", "0", "max_exp_avg_sq"), "other"),
        (("optim", "state", "0", "step"), "other"),
        (("optim", "state", "w", "momentum_buffer"), "momentum"),
        (("optimizer.state.layers.0.weight.exp_avg_sq",), "exp_avg_sq"),
        (("optim", "state", "0", "master_param"), "master"),
        (("master_weights", "w"), "master"),
        (("model", "exp_avg"), "weight"),
        (("rng_state",), "other"),
        ((), "weight"),
    ],
)
def test_roles(path: Path, role: str) -> None:
    assert role_of(path, classify(path, is_tensor=True)) == role
