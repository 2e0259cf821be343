from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from deltackpt.api import Store
from deltackpt.errors import InvalidArgumentError, UnsafeFileError
from deltackpt.formats.layouts.discover import Found, discover
from deltackpt.testing.arrays import load_manifest
from tests.importing import layouts
from tests.importing.files import import_source, new_store, originals, restored

Maker = Callable[[Path, int], Path]


def torchtitan(root: Path, step: int) -> Path:
    folder = root / f"step-{step}"
    dcp_save({"model": layouts.weights(step), "train_state": {"step": step}}, checkpoint_id=folder)
    return folder


def olmo_core(root: Path, step: int) -> Path:
    folder = root / f"step{step}"
    dcp_save({"model": layouts.weights(step)}, checkpoint_id=folder / "model_and_optim")
    for rank in range(2):
        layouts.save(layouts.train_state(step), folder / f"train/rank{rank}.pt")
    layouts.text(folder / ".metadata.json", "{}")
    return folder


def olmo_new(root: Path, step: int) -> Path:
    folder = root / f"step{step}"
    dcp_save({"model": layouts.weights(step)}, checkpoint_id=folder)
    for rank in range(2):
        layouts.save(layouts.train_state(step), folder / f"train/rank{rank}.pt")
    layouts.text(folder / "config.yaml", "a: 1\n")
    return folder


def hf_with_deepspeed(root: Path, step: int) -> Path:
    folder = layouts.hf_trainer(root, step)
    (folder / "optimizer.pt").unlink()
    (folder / "scheduler.pt").unlink()
    layouts.deepspeed(folder, step, 2)
    layouts.text(folder / "latest", f"global_step{step}")
    return folder


MAKERS: dict[str, tuple[Maker, str]] = {
    "olmo": (layouts.olmo, "olmo"),
    "olmo legacy": (layouts.olmo_legacy, "olmo-sharded"),
    "olmo local": (layouts.olmo_local, "olmo-sharded"),
    "olmo new": (olmo_new, "olmo-sharded"),
    "olmo core": (olmo_core, "olmo-core"),
    "trainer": (layouts.hf_trainer, "hf-trainer"),
    "trainer with deepspeed": (hf_with_deepspeed, "hf-trainer"),
    "deepspeed": (layouts.deepspeed, "deepspeed"),
    "lightning": (layouts.lightning, "lightning"),
    "torchtitan": (torchtitan, "torchtitan"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MAKERS)
def test_every_layout_is_known_complete_and_comes_back(tmp_path: Path, name: str) -> None:
    make, layout = MAKERS[name]
    store = new_store(block_elements=64)
    made = [make(tmp_path / "run", step) for step in (10, 9, 200)]
    found = discover([tmp_path / "run"])
    assert [(one.step, one.layout, list(one.lacks)) for one in found.checkpoints] == [
        (step, layout, []) for step in (9, 10, 200)
    ]
    assert not found.skipped
    for one in found.checkpoints:
        import_source(store, one)
        files = originals(one.folder) if one.folder.is_dir() else {one.folder.name: one.folder.read_bytes()}
        assert restored(store, one.step) == files
    # A checkpoint that is named itself is found, too.
    assert discover([made[-1]]).checkpoints == [found.checkpoints[-1]]


def entries(source: Path, step: int = 5) -> dict[str, tuple[str, str]]:
    store = new_store()
    (one,) = discover([source]).checkpoints
    import_source(store, one)
    return {e.fqn: (e.artifact, e.role) for e in load_manifest(store, step).entries if e.role != "file"}


def test_names_in_olmos_files(tmp_path: Path) -> None:
    found = entries(layouts.olmo(tmp_path, 5))
    assert {name for name in found if name.startswith("model.")} == {f"model.{key}" for key in layouts.KEYS}
    for key in layouts.KEYS:
        assert found[f"optim.state.{key}.exp_avg"] == ("optim", "exp_avg")
        assert found[f"optim.state.{key}.exp_avg_sq"] == ("optim", "exp_avg_sq")
        assert found[f"model.{key}"] == ("model", "weight")
    assert found["train.rng.torch"] == ("train", "other")


def test_names_in_files_of_ranks(tmp_path: Path) -> None:
    legacy = entries(layouts.olmo_legacy(tmp_path / "a", 5))
    assert legacy["rank2/model.transformer.wte.weight"] == ("model", "weight")
    assert legacy["rank0/optim.state.transformer.wte.weight.exp_avg"] == ("optim", "exp_avg")
    local = entries(layouts.olmo_local(tmp_path / "b", 5))
    assert local["rank1/model.handles.0.flat_param.data"] == ("model", "weight")
    assert local["rank1/optim.state.1.exp_avg"] == ("optim", "exp_avg")
    zero = entries(layouts.deepspeed(tmp_path / "c", 5))
    assert zero["model.transformer.wte.weight"] == ("model", "weight")
    rank = "zero_pp_rank_3_mp_rank_00/optim"
    assert zero[f"{rank}.base_optimizer_state.state.0.exp_avg"] == ("optim", "exp_avg")
    assert zero[f"{rank}.single_partition_of_fp32_groups.0"] == ("optim", "master")


def test_names_of_lightning(tmp_path: Path) -> None:
    found = entries(layouts.lightning(tmp_path, 5))
    assert found["model.model.transformer.wte.weight"] == ("model", "weight")
    assert found["optim.0.state.1.exp_avg"] == ("optim", "exp_avg")


@pytest.mark.parametrize(
    ("make", "gone", "cost"),
    [
        (layouts.olmo, "optim.pt", "weights only: training cannot resume"),
        (layouts.olmo, "model.pt", "weights, or a part of them, are lost"),
        (layouts.olmo, "train.pt", "the place in the data"),
        (layouts.olmo, "config.yaml", "settings are lost"),
        (layouts.olmo_legacy, "rank1.pt", "rank 1 of 3"),
        (layouts.olmo_local, "optim/rank1.pt", "rank 1 of 2: weights only"),
        (layouts.olmo_local, "train/rank0.pt", "rank 0 of 2"),
        (layouts.hf_trainer, "optimizer.pt", "weights only: training cannot resume"),
        (layouts.hf_trainer, "trainer_state.json", "training cannot resume"),
        (layouts.hf_trainer, "model.safetensors", "weights"),
        (layouts.deepspeed, "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt", "rank 2 of 4"),
        (layouts.deepspeed, "mp_rank_00_model_states.pt", "weights"),
    ],
)
def test_what_is_missing_is_named_with_what_it_costs(tmp_path: Path, make: Maker, gone: str, cost: str) -> None:
    folder = make(tmp_path, 5)
    (folder / gone).unlink()
    (one,) = discover([tmp_path]).checkpoints
    assert [lack.path for lack in one.lacks] == [gone]
    assert cost in one.lacks[0].cost


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_files_that_metadata_names_are_missed(tmp_path: Path) -> None:
    folder = torchtitan(tmp_path, 5)
    (folder / "__0_0.distcp").unlink()
    layouts.text(folder / "other", "x")
    (one,) = discover([folder]).checkpoints
    assert [lack.path for lack in one.lacks] == ["__0_0.distcp"]
    (folder / ".metadata").unlink()
    layouts.text(folder / "__0_0.distcp", "x")
    (one,) = discover([folder]).checkpoints
    assert [lack.path for lack in one.lacks] == [".metadata"]


def index(folder: Path, *files: str) -> None:
    layouts.text(folder / "model.safetensors.index.json", json.dumps({"weight_map": dict(enumerate(files))}))


def test_shards_that_an_index_names_are_missed(tmp_path: Path) -> None:
    folder = layouts.hf_trainer(tmp_path, 5)
    index(folder, "model.safetensors", "model-00002-of-00002.safetensors")
    (one,) = discover([folder]).checkpoints
    assert [lack.path for lack in one.lacks] == ["model-00002-of-00002.safetensors"]
    index(folder, "../../etc/passwd")
    layouts.hf_trainer(tmp_path, 6)
    report = Store(new_store()).import_checkpoints([tmp_path])
    assert [(one.step, one.status) for one in report.steps] == [(5, "failed"), (6, "imported")]
    assert isinstance(report.failed[0].error, UnsafeFileError)
    assert "outside its folder" in report.failed[0].error.message


def test_a_model_alone_needs_a_number(tmp_path: Path) -> None:
    folder = layouts.hf_trainer(tmp_path, 5).rename(tmp_path / "some-model")
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).unlink()
    assert (folder / "config.json").exists()
    with pytest.raises(InvalidArgumentError, match="says no step"):
        discover([folder])
    (one,) = discover([folder], step=7).checkpoints
    assert one.step == 7
    assert not one.lacks


def reasons(found: Found) -> dict[str, str]:
    return {skip.path.name: skip.reason for skip in found.skipped}


def test_links_and_unfinished_saves_are_left_out_and_said_so(tmp_path: Path) -> None:
    layouts.olmo(tmp_path, 5)
    layouts.olmo(tmp_path, 6).rename(tmp_path / "step6-unsharded-tmp")
    (tmp_path / "latest-unsharded").symlink_to("step5-unsharded")
    (tmp_path / "latest").symlink_to("gone")
    layouts.text(tmp_path / "tmp-checkpoint-7" / "x", "x")
    layouts.text(tmp_path / "notes.txt", "x")
    layouts.text(tmp_path / "wandb" / "x", "x")
    found = discover([tmp_path])
    assert [one.step for one in found.checkpoints] == [5]
    assert reasons(found) == {
        "latest-unsharded": "a link to step5-unsharded",
        "latest": "a link to nothing",
        "step6-unsharded-tmp": "unfinished: a save that did not end, or still runs",
        "tmp-checkpoint-7": "unfinished: a save that did not end, or still runs",
        "notes.txt": "no checkpoint, or one without a step in its name",
        "wandb": "no checkpoint, or one without a step in its name",
    }
    # A link that is named is what it points to.
    assert [one.step for one in discover([tmp_path / "latest-unsharded"]).checkpoints] == [5]


def test_two_checkpoints_of_one_step(tmp_path: Path) -> None:
    layouts.olmo(tmp_path, 5)
    layouts.olmo_legacy(tmp_path, 5)
    found = discover([tmp_path])
    assert [(one.step, one.layout) for one in found.checkpoints] == [(5, "olmo")]
    assert "another branch" in reasons(found)["step5"]


def test_patterns_of_the_users_own(tmp_path: Path) -> None:
    for step in (1, 20):
        layouts.save(layouts.weights(step), tmp_path / "runs" / f"iter_{step}" / "weights.pth")
        layouts.save(layouts.weights(step), tmp_path / f"ckpt_{step:05}.pt")
    layouts.save(layouts.weights(0), tmp_path / "ckpt_best.pt")
    files = discover([tmp_path], pattern="ckpt_{step}.pt")
    assert [(one.step, [f.path for f in one.files]) for one in files.checkpoints] == [
        (1, ["ckpt_00001.pt"]),
        (20, ["ckpt_00020.pt"]),
    ]
    folders = discover([tmp_path], pattern="run*/iter_{step}")
    assert [(one.step, one.layout, [f.path for f in one.files]) for one in folders.checkpoints] == [
        (step, "folder", ["weights.pth"]) for step in (1, 20)
    ]
    inner = discover([tmp_path], pattern="runs/iter_{step}/weights.pth")
    assert [one.step for one in inner.checkpoints] == [1, 20]
    for wrong in ("ckpt.pt", "{step}{step}", "/{step}"):
        with pytest.raises(InvalidArgumentError, match="no pattern"):
            discover([tmp_path], pattern=wrong)


def test_steps_in_the_names_of_files(tmp_path: Path) -> None:
    for name in ("epoch=3-step=200.ckpt", "model_step_30.pt", "iter_0000400.pth", "README.md", "tokenizer.bin"):
        layouts.save({"a": torch.ones(1)}, tmp_path / name)
    layouts.save({"global_step": 77, "state_dict": {}}, tmp_path / "last.ckpt")
    assert [one.step for one in discover([tmp_path]).checkpoints] == [30, 77, 200, 400]


def test_metrics_of_the_trainer(tmp_path: Path) -> None:
    (one,) = discover([layouts.hf_trainer(tmp_path, 5)]).checkpoints
    assert one.metrics == {"loss": 1.5, "epoch": 2.0}


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no such"):
        discover([tmp_path / "none"])
    layouts.olmo(tmp_path, 1)
    layouts.olmo(tmp_path, 2)
    with pytest.raises(InvalidArgumentError, match="2 checkpoints"):
        discover([tmp_path], step=3)


def test_a_folder_of_dcp_with_the_training_state_beside_it(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    folder = layouts.olmo(tmp_path / "run", 6)
    assert not store.import_checkpoints([folder]).failed
    store.step(6).restore(tmp_path / "dcp6", "dcp")
    (one,) = store.import_checkpoints([tmp_path / "dcp6"], branch="again").steps
    assert (one.step, one.status, list(one.lacks)) == (6, "imported", [])
    store.step("again:6").restore(tmp_path / "out", "olmo")
    model, expected = (torch.load(at / "model.pt", weights_only=True) for at in (tmp_path / "out", folder))
    assert {name: value.tolist() for name, value in model.items()} == {n: v.tolist() for n, v in expected.items()}
    optim, expected = (torch.load(at / "optim.pt", weights_only=True) for at in (tmp_path / "out", folder))
    assert optim["param_groups"] == expected["param_groups"]
    assert optim["state"].keys() == expected["state"].keys()
    assert (tmp_path / "out" / "train.pt").read_bytes() == (folder / "train.pt").read_bytes()
