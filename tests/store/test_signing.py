"""Signatures of steps: what is signed can be told from what was changed, moved or put there by others."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import BackendError, InvalidArgumentError, ObjectExistsError, SignatureError
from deltackpt.format.keys import StepKey, manifest_key
from deltackpt.format.signature import SIGNATURES, decode_signature, signature_key
from deltackpt.pipeline.verify import verify_store
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.signing import check_signature, sign_steps
from deltackpt.store.signing_keys import SigningKey, TrustedKey, make_keys
from deltackpt.testing.arrays import save_step
from deltackpt.testing.faults import flip_bits
from tests.store.helpers import small_state

FIRST = StepKey("main", 1, 1)
SECOND = StepKey("main", 2, 1)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[SigningKey, TrustedKey]:
    public = make_keys(tmp_path / "lab.key")
    return SigningKey.read(tmp_path / "lab.key"), TrustedKey.read(public)


def saved() -> OpenStore:
    store = create_store(MemoryBackend(), StoreOptions())
    for step in (1, 2):
        save_step(store, small_state(step), step=step)
    return store


def refused(store: OpenStore, trusted: TrustedKey) -> set[str]:
    report = verify_store(store, deep=False, threads=1, trusted=trusted)
    assert {problem.kind for problem in report.problems} <= {SignatureError.kind}
    return {name for problem in report.problems for name in problem.affected}


def test_signed_steps_are_accepted_and_new_ones_are_not(keys: tuple[SigningKey, TrustedKey]) -> None:
    signing, trusted = keys
    store = saved()
    assert refused(store, trusted) == {"main:1", "main:2"}
    assert sign_steps(store, signing) == ([FIRST, SECOND], 0)
    assert refused(store, trusted) == set()
    save_step(store, small_state(3), step=3)
    assert refused(store, trusted) == {"main:3"}
    assert sign_steps(store, signing) == ([StepKey("main", 3, 1)], 2)
    assert refused(store, trusted) == set()


def test_another_key_vouches_for_itself_only(keys: tuple[SigningKey, TrustedKey], tmp_path: Path) -> None:
    store = saved()
    sign_steps(store, keys[0])
    other = TrustedKey.read(make_keys(tmp_path / "other.key"))
    assert refused(store, other) == {"main:1", "main:2"}
    sign_steps(store, SigningKey.read(tmp_path / "other.key"))
    assert refused(store, other) == refused(store, keys[1]) == set()


def test_a_signature_of_another_step_does_not_count(keys: tuple[SigningKey, TrustedKey]) -> None:
    signing, trusted = keys
    store = saved()
    sign_steps(store, signing)
    first = signature_key(FIRST, signing.public_key)
    store.backend.put(first, store.backend.get(signature_key(SECOND, signing.public_key)))
    assert refused(store, trusted) == {"main:1"}


def test_a_signature_does_not_count_in_another_store(keys: tuple[SigningKey, TrustedKey]) -> None:
    signing, trusted = keys
    store = saved()
    sign_steps(store, signing)
    other = create_store(MemoryBackend(), StoreOptions())
    for info in store.backend.list():
        if "/" in info.key:
            other.backend.put(info.key, store.backend.get(info.key))
    assert refused(other, trusted) == {"main:1", "main:2"}


def test_a_step_that_was_replaced_is_not_signed(keys: tuple[SigningKey, TrustedKey]) -> None:
    signing, trusted = keys
    store = saved()
    sign_steps(store, signing)
    store.backend.put(manifest_key(FIRST), _reencoded(store))
    with pytest.raises(SignatureError, match="not of this manifest"):
        check_signature(open_store(store.backend), FIRST, trusted)
    save_step(store, small_state(9), step=2)
    assert refused(store, trusted) == {"main:1", "main:2"}


def _reencoded(store: OpenStore) -> bytes:
    """The first manifest with other metrics: valid, but not what was signed."""
    from dataclasses import replace

    from deltackpt.format.manifest import encode_manifest

    manifest = store.manifest(FIRST)
    return encode_manifest(replace(manifest, header=replace(manifest.header, metrics={"loss": 0.0})))


def test_every_flip_of_a_signature_is_noticed(keys: tuple[SigningKey, TrustedKey]) -> None:
    signing, trusted = keys
    store = saved()
    sign_steps(store, signing)
    name = signature_key(FIRST, signing.public_key)
    whole = store.backend.get(name)
    assert decode_signature(whole, source=name).public_key == signing.public_key
    for at in range(len(whole)):
        flip_bits(store.backend, name, at, 1)
        with pytest.raises(SignatureError):
            check_signature(store, FIRST, trusted)
        store.backend.put(name, whole)
    check_signature(store, FIRST, trusted)


def test_a_damaged_manifest_is_not_signed(keys: tuple[SigningKey, TrustedKey]) -> None:
    store = saved()
    flip_bits(store.backend, manifest_key(SECOND), -3)
    with pytest.raises(Exception, match="checksum"):
        sign_steps(open_store(store.backend), keys[0])
    assert {info.key for info in store.backend.list(SIGNATURES)} == {signature_key(FIRST, keys[0].public_key)}


def test_keys_are_not_overwritten_and_the_private_one_is_private(tmp_path: Path) -> None:
    public = make_keys(tmp_path / "lab.key")
    assert (tmp_path / "lab.key").stat().st_mode & 0o777 == 0o600
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ObjectExistsError):
        make_keys(tmp_path / "lab.key")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert public.name == "lab.key.pub"


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    public = make_keys(tmp_path / "lab.key")
    (tmp_path / "text").write_text("hello")
    for path in (public, tmp_path / "text"):
        with pytest.raises(InvalidArgumentError, match="no private Ed25519 key"):
            SigningKey.read(path)
    for path in (tmp_path / "lab.key", tmp_path / "text"):
        with pytest.raises(InvalidArgumentError, match="no public Ed25519 key"):
            TrustedKey.read(path)
    with pytest.raises(BackendError, match="cannot read the key"):
        TrustedKey.read(tmp_path / "nothing")
