"""The traps of ``docs/dcp.md``, each with its tests; those that have no other place are here."""

from __future__ import annotations

import ast
import re
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load

from deltackpt import Store
from deltackpt.dcp import DeltaStorageReader
from tests.dcp.states import load_state, save_state

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

TRAPS = {
    1: [
        "test_failures.py::test_a_backend_that_fails_in_one_place",
        "test_failures.py::test_a_commit_of_what_was_not_all_written_is_refused",
        "test_ranks.py::test_a_failure_on_one_rank_fails_the_save_on_all",
    ],
    2: [
        "test_saves.py::test_cached_plans_save_the_values_of_each_step",
        "test_saves.py::test_cached_plans_follow_a_state_that_changes",
        "test_saves.py::test_what_a_save_returned_is_not_changed_under_the_feet_of_its_holder",
        "test_ranks.py::test_cached_plans_on_several_ranks",
        "test_replicas.py::test_cached_plans_keep_weights_with_their_moments",
    ],
    3: [
        "test_traps.py::test_folders_of_steps_may_be_deleted_from_outside",
        "test_gc.py::test_deletion_between_any_two_operations_of_a_save",
        "test_gc.py::test_a_save_between_any_two_operations_of_a_deletion",
        "test_saves.py::test_steps_outlive_the_steps_they_were_predicted_from",
    ],
    4: [
        "test_ranks.py::test_replicated_state_is_written_once_by_all_together",
        "test_replicas.py::test_copies_on_several_ranks_take_as_many_bytes_as_one",
        "test_ranks.py::test_what_survives_another_sharding_is_not_stored_again",
    ],
    5: ["test_async.py::test_bases_are_what_was_saved_and_not_what_became_of_the_buffers"],
    6: [
        "test_process.py::test_saves_in_another_process",
        "test_failures.py::test_errors_that_travel_keep_what_they_can",
        "test_saves.py::test_writers_survive_a_pickle_between_saves",
    ],
    7: [
        "test_async.py::test_a_writer_in_use_refuses_another_save",
        "test_saves.py::test_a_writer_and_a_reader_serve_again",
    ],
    8: ["test_saves.py::test_what_signatures_tell_dcp"],
    9: [
        "test_ranks.py::test_a_step_that_is_not_there_is_an_error_on_all_ranks",
        "test_ranks.py::test_saves_that_leave_the_group_out",
    ],
    10: ["test_saves.py::test_readers_and_writers_count_as_given_and_never_as_stagers"],
    11: [
        "test_traps.py::test_what_dcp_does_not_keep",
        "test_restore.py::test_training_goes_on_from_restored_files",
    ],
    12: ["test_objects.py::test_streams_are_read_whole_and_handed_over_at_their_start"],
    13: [
        "test_saves.py::test_metadata_is_rebuilt_as_it_was_planned",
        "test_objects.py::test_a_state_rebuilt_from_metadata_alone",
    ],
    14: [
        "test_tensors.py::test_every_dtype_in_every_layout",
        "test_tensors.py::test_lazily_conjugated_and_negated_targets",
        "test_tensors.py::test_int8_with_scales_and_casts_on_load",
        "test_failures.py::test_every_committed_target_was_filled",
    ],
    15: ["test_saves.py::test_readers_and_writers_count_as_given_and_never_as_stagers"],
    16: ["test_saves.py::test_a_stored_block_is_read_once_for_all_that_is_made_of_it"],
    17: ["test_traps.py::test_no_collective_is_called_while_a_save_or_load_runs"],
    18: [
        "test_trainers.py::test_watch_takes_in_what_a_trainer_saves",
        "test_trainers.py::test_a_save_that_still_runs_is_left_alone",
    ],
}


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_trap_of_the_page_has_tests() -> None:
    page = (ROOT / "docs" / "dcp.md").read_text()
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == list(TRAPS)
    for names in TRAPS.values():
        for name in names:
            file, _, function = name.partition("::")
            assert function in functions(HERE / file), name


def test_folders_of_steps_may_be_deleted_from_outside(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", block_elements=64, chain="previous")
    states = [{"model": {"w": torch.arange(500.0) + (torch.arange(500) % 7 == n) * 0.5}} for n in range(4)]
    for step, state in enumerate(states):
        save_state(store, step, state)
    assert [info.depth for info in store.steps()] == [1, 2, 3, 4]
    for step in (0, 2):
        shutil.rmtree(tmp_path / "store" / "manifests" / "main" / f"{step:012d}")
    assert [info.step for info in store.steps()] == [1, 3]
    for step in (1, 3):
        loaded = load_state(store, step, {"model": {"w": torch.zeros(500)}})
        assert torch.equal(loaded["model"]["w"], states[step]["model"]["w"])
    save_state(store, 4, states[0])
    assert store.verify(deep=True).ok


def test_what_dcp_does_not_keep(delta_store: Store) -> None:
    """The same that torch's own storage does not keep: it happens before a storage is asked."""
    strided = torch.eye(4)[::2].t()
    ordered = OrderedDict(a=nn.Parameter(torch.ones(3)))
    state = {"numbers": {0: torch.ones(2), 1: {}}, "ordered": ordered, "strided": strided}
    save_state(delta_store, 1, state)
    metadata = DeltaStorageReader(delta_store, 1).read_metadata()
    assert set(metadata.state_dict_metadata) == {"numbers.0", "ordered.a", "strided"}
    loaded = delta_store.step(1).load()
    assert type(loaded["ordered.a"]) is torch.Tensor
    assert isinstance(loaded["strided"], torch.Tensor)
    assert loaded["strided"].is_contiguous()
    target: dict[str, Any] = {"numbers": {0: torch.zeros(2)}, "strided": torch.zeros(2, 4).t()}
    load(target, storage_reader=DeltaStorageReader(delta_store, 1), no_dist=True)
    assert torch.equal(target["numbers"][0], torch.ones(2))
    assert target["strided"].stride() == (1, 4)
    assert torch.equal(target["strided"], strided)


def test_no_collective_is_called_while_a_save_or_load_runs() -> None:
    """An async save runs on a group that others may use: storages only ask questions of ``torch.distributed``."""
    asked = set()
    for file in storage_modules():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dist":
                asked.add(node.attr)
            if isinstance(node, ast.ImportFrom) and node.module == "torch.distributed":
                asked.update(alias.name for alias in node.names)
    assert asked == {"is_initialized", "get_world_size"}


def storage_modules() -> set[Path]:
    """The files of the package that the writer and the reader are made of, directly or not."""
    found: set[Path] = set()
    todo = [ROOT / "deltackpt" / "dcp" / f"{name}.py" for name in ("writer", "reader")]
    while todo:
        file = todo.pop()
        if file in found or not file.exists():
            continue
        found.add(file)
        imports = [node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        ours = [name for name in imports if name and name.startswith("deltackpt.")]
        todo += [ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in ours]
    assert len(found) > 40
    return found
