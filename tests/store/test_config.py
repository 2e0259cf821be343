"""``deltackpt.yaml``: what it says is done, arguments go before it, and what is wrong in it is found in its line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltackpt import Checkpointer, Retention, Store
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.errors import InvalidArgumentError, ObjectExistsError
from deltackpt.schedule import any_of, every, improves
from deltackpt.store.config import CONFIG_KEYS, WriterConfig, config_template, parse_config
from deltackpt.store.options import StoreOptions
from tests.cli.helpers import Run

SOURCE = "deltackpt.yaml"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    from deltackpt.cli.main import main
    from tests.cli.helpers import Ran

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run


def write(path: Path, text: str) -> Store:
    (path / SOURCE).write_text(text)
    return Store.open(path)


def test_everything_can_be_said() -> None:
    config = parse_config(
        b"""
chain: previous
key_every: 8
max_depth: 4
block_elements: 4096
pack_bytes: 2MiB
level: 3
read_factor: 1.5
base_memory: 1GiB
threads: 2
schedule:
  any:
    - every: 100
      start_at: 50
    - improves: loss
retention: {keep_last: 3, keep_best: [2:val_loss:min, 1:acc], keep_within: 7d, keep_tag: paper, keep_every:}
""",
        source=SOURCE,
    )
    assert config == WriterConfig(
        options={
            "chain": "previous",
            "key_every": 8,
            "max_depth": 4,
            "block_elements": 4096,
            "pack_bytes": 2 << 20,
            "level": 3,
            "read_factor": 1.5,
        },
        base_memory=1 << 30,
        threads=2,
        schedule=any_of(every(100, start_at=50), improves("loss")),
        retention={
            "keep_last": 3,
            "keep_best": ["2:val_loss:min", "1:acc"],
            "keep_within": "7d",
            "keep_tag": "paper",
        },
    )
    assert Retention(**dict(config.retention or {})).keep_last == 3
    assert parse_config(b"contents: {model: {every: 5}}", source=SOURCE).contents == {"model": every(5)}
    assert parse_config(b"", source=SOURCE) == parse_config(b"# nothing", source=SOURCE) == WriterConfig()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("key_every: 8\nkey_evry: 4\n", 2, "unknown key 'key_evry' (did you mean 'key_every'?)"),
        ("chain: previous\n\nkey_every: 0\n", 3, "key_every must be an integer from 1"),
        ("chain: none\n", 1, "unknown chain 'none'"),
        ("pack_bytes: much\n", 1, "'much' is not a size"),
        ("base_memory: -1\n", 1, "base_memory"),
        ("threads: 0\n", 1, "threads must be"),
        ("schedule:\n  evry: 5\n", 2, "unknown kind of schedule 'evry' (did you mean 'every'?)"),
        ("schedule:\n  any:\n    - every: 5\n    - at: []\n", 4, "at lists no step"),
        ("schedule:\n  any:\n    - every: 5\n      start: 7\n", 4, "did you mean 'start_at'?"),
        ("schedule: 5\n", 1, "a schedule must be a mapping"),
        ("contents:\n  model: {every: 5}\n  optim: {every: x}\n", 3, "not a length of time"),
        ("contents: []\n", 1, "contents must map"),
        ("schedule: {every: 5}\ncontents: {model: {every: 5}}\n", 2, "exclude each other"),
        ("retention:\n  keep_lst: 3\n", 2, "did you mean 'keep_last'?"),
        ("retention:\n  keep_last: 3\n  keep_best: loss\n", 3, "how many to keep"),
        ("retention: 3\n", 1, "retention must be a mapping"),
        ("retention: {}\n", 1, "no rule"),
        ("a: b: c\n", 1, "this is not YAML"),
        ("key_every: 8\nkey_every: 9\n", 2, "a second time"),
        ("- 1\n- 2\n", 1, "a mapping of names to values"),
        ("? [1, 2]\n: 3\n", 1, "names or numbers"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "names or numbers"),
        ("key_every: !!python/object/apply:os.system ['true']\n", 1, ""),
        ("\tx: 1", 1, "this is not YAML"),
    ],
)
def test_what_is_wrong_is_found_in_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_config(text.encode(), source=SOURCE)
    assert caught.value.where == f"{SOURCE}, line {line}"
    assert words in str(caught.value)


def test_aliases_do_not_multiply() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 12)]
    with pytest.raises(InvalidArgumentError, match="more than 10000 values"):
        parse_config("\n".join(lines).encode(), source=SOURCE)
    with pytest.raises(InvalidArgumentError):
        parse_config(b"a: &a [*a]", source=SOURCE)


@given(st.binary(max_size=60) | st.text(alphabet="abkey_: \n-[]{}&*!#'\"0", max_size=60).map(str.encode))
def test_any_bytes_are_a_configuration_or_an_error_of_ours(data: bytes) -> None:
    with suppress(InvalidArgumentError):
        parse_config(data, source=SOURCE)


def test_the_file_overrides_what_the_store_was_made_with(tmp_path: Path) -> None:
    Store.create(tmp_path / "s", chain="anchor", key_every=4)
    store = write(tmp_path / "s", "key_every: 2\nblock_elements: 128\n")
    assert (store.options.chain, store.options.key_every, store.options.block_elements) == ("anchor", 2, 128)
    schedule = every(1)
    with Checkpointer(store, schedule) as checkpointer:
        for step in range(4):
            checkpointer.step(step, {"w": torch.arange(512.0) + step})
    assert store.step(0).entries()[0].block_elements == 128
    assert [info.is_key for info in store.steps()][2]


def test_a_file_that_was_there_first(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / SOURCE).write_text("level: 5\n")
    assert Store.create(tmp_path / "s", level=2).options.level == 5


def test_readers_do_not_mind_a_wrong_file(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    with Checkpointer(store, every(1)) as checkpointer:
        checkpointer.step(1, {"w": torch.ones(3)})
    store = write(tmp_path / "s", "nonsense: 1\n")
    assert torch.equal(store.step(1).tensor("w"), torch.ones(3))
    assert store.verify(deep=True).ok
    with pytest.raises(InvalidArgumentError, match="line 1"):
        DeltaStorageWriter(store, 2)


def test_budgets(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    store = write(tmp_path / "s", "base_memory: 3KiB\nthreads: 1\n")
    for options, expected in (
        ({}, (3072, 1)),
        ({"base_memory": 5, "threads": 2}, (5, 2)),
        ({"base_memory": 0}, (0, 1)),
    ):
        writer = DeltaStorageWriter(store, 1, **options)  # type: ignore[arg-type]
        assert (writer._base_memory, writer._threads) == expected
    assert DeltaStorageWriter(Store.create("memory://without"), 1)._base_memory == "auto"


def states(last: int) -> list[dict[str, Any]]:
    return [{"model": {"w": torch.full((8,), float(s))}, "optim": {"m": torch.zeros(8)}} for s in range(last + 1)]


def test_a_checkpointer_goes_by_the_file_and_arguments_go_before_it(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    store = write(
        tmp_path / "s",
        "contents:\n  model: {every: 2}\n  optim: {every: 4}\nretention: {keep_last: 1, keep_every: 8}\n",
    )

    def run(branch: str, **arguments: Any) -> list[int]:
        with Checkpointer(store, branch=branch, **arguments) as checkpointer:
            for step, state in enumerate(states(13)):
                checkpointer.step(step, state)
        return [info.step for info in store.steps(branch)]

    # Steps go whenever one with everything was saved, the last of which is 12.
    assert run("main") == [0, 8, 12]
    assert run("other", schedule=every(5)) == [0, 10]
    assert run("third", schedule=every(6), retention=Retention(keep_last=2)) == [6, 12]
    # A step that holds everything stays, although three newer ones do not.
    assert run("fourth", contents={"model": every(1), "optim": every(10)}, retention=Retention(keep_last=2))[:2] == [
        9,
        10,
    ]
    state = states(0)[0]
    with Checkpointer(store, branch="fourth") as checkpointer:
        resumed = checkpointer.resume(state)
        assert resumed is not None
        assert resumed.step == 10


def test_steps_beyond_the_one_resumed_from_are_not_counted(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    with Checkpointer(store, contents={"model": every(1), "optim": every(5)}) as checkpointer:
        for step, state in enumerate(states(9)):
            checkpointer.step(step, state)
    with Checkpointer(store, every(1), retention=Retention(keep_last=1)) as checkpointer:
        resumed = checkpointer.resume(states(0)[0])
        assert resumed is not None
        assert resumed.step == 5
        checkpointer.step(6, states(6)[6])
    # Step 9 is newer, but of the line that was given up, and has no optimizer: nothing was deleted for it.
    assert [info.step for info in store.steps()] == list(range(10))


def test_a_failing_prune_does_not_undo_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.create(tmp_path / "s")

    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(Store, "prune", fail)
    with Checkpointer(store, every(1), retention=Retention(keep_last=1)) as checkpointer:
        checkpointer.step(1, states(1)[1])
        checkpointer.step(2, states(1)[1])
    assert [info.step for info in store.steps()] == [1, 2]
    assert "step main:2 is saved, but older ones were not pruned: no" in caplog.text


def test_the_template_says_everything_and_changes_nothing(tmp_path: Path, cli: Run) -> None:
    template = config_template(StoreOptions(key_every=7))
    assert parse_config(template, source=SOURCE) == WriterConfig()
    text = template.decode()
    assert "# key_every: 7\n" in text
    assert {key for key in CONFIG_KEYS if f"# {key}:" in text} == CONFIG_KEYS
    # Uncommented it is a configuration, but for the second of two that exclude each other.
    bare = "\n".join(line.removeprefix("# ") for line in text.splitlines() if ":" in line and line.startswith("# "))
    bare = bare[bare.index("chain:") :]
    head, tail = bare.split("contents:")
    lines = [line for line in head.splitlines() if not line.startswith(("Memory", "When"))]
    assert parse_config("\n".join(lines).encode(), source=SOURCE).schedule is not None
    assert tail
    ran = cli("init", tmp_path / "s", "--config", "--key-every", "9")
    assert ran.code == 0
    assert str(tmp_path / "s" / SOURCE) in ran.out
    assert "# key_every: 9" in (tmp_path / "s" / SOURCE).read_text()
    assert Store.open(tmp_path / "s").options.key_every == 9
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / SOURCE).write_text("level: 5\n")
    ran = cli("init", tmp_path / "t", "--config", "--json")
    assert ran.code == ObjectExistsError.exit_code
    assert Store.open(tmp_path / "t").options.level == 5
