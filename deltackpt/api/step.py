"""One saved checkpoint: ``Step``."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deltackpt.api.info import StepInfo
from deltackpt.errors import TensorNotFoundError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Entry, Manifest
from deltackpt.pipeline.save import default_threads
from deltackpt.store.listing import describe_step
from deltackpt.store.opened import OpenStore

if TYPE_CHECKING:
    import torch

    from deltackpt.formats.check import CheckReport
    from deltackpt.formats.source import StepSource
    from deltackpt.formats.state import Index
    from deltackpt.formats.step_files import StepFile, StepFiles

__all__ = ["Step"]


class Step:
    """One saved checkpoint, at one generation."""

    def __init__(self, opened: OpenStore, key: StepKey, manifest_bytes: int) -> None:
        self._opened = opened
        self._key = key
        self._manifest_bytes = manifest_bytes
        self._manifest: Manifest | None = None
        self._opened_files: dict[bool, StepFiles] = {}

    @property
    def key(self) -> StepKey:
        """Branch, step and generation."""
        return self._key

    @property
    def info(self) -> StepInfo:
        """The step in short, with the notes and tags of now."""
        return StepInfo.from_listed(describe_step(self._opened, self.manifest.header, self._manifest_bytes))

    @property
    def manifest(self) -> Manifest:
        """Everything the step names; read once and kept."""
        if self._manifest is None:
            self._manifest = self._opened.manifest(self._key)
        return self._manifest

    @property
    def default_format(self) -> str:
        """What :meth:`restore` writes unless told otherwise: ``"original"`` for imported files, else ``"torch"``."""
        from deltackpt.formats.original import default_format

        return default_format(self.manifest)

    def entries(self, prefix: str = "") -> list[Entry]:
        """The tensors and objects whose FQN starts with ``prefix``."""
        return [entry for entry in self.manifest.entries if entry.fqn.startswith(prefix)]

    def tensor(self, name: str, index: Index | None = None) -> torch.Tensor:
        """One tensor by its FQN, or a part of it; decodes only the blocks that the part touches.

        Args:
            name: the FQN, as :meth:`entries` lists it, or that of a tensor of an imported file which is a view of one.
            index: integers and slices of step 1, as for indexing the tensor.

        Returns:
            A new CPU tensor of the saved dtype.

        Raises:
            TensorNotFoundError: there is no such tensor.
            CorruptObjectError, MissingObjectError: a part of the store is damaged or gone.
        """
        from deltackpt.formats.file_views import load_view
        from deltackpt.formats.state import load_tensor

        try:
            return load_tensor(self._opened, self.manifest, name, index, threads=default_threads())
        except TensorNotFoundError:
            view = load_view(self._opened, self.manifest, name, threads=default_threads())
            if view is None:
                raise
            return view if index is None else view[index]

    def load(self, prefix: str = "", *, trust_objects: bool = False) -> dict[str, object]:
        """FQN to tensor (or value, for objects), for all whose FQN starts with ``prefix``.

        Args:
            trust_objects: whether objects that are pickles may be loaded, which lets them run any code.

        Raises:
            TensorNotFoundError: nothing starts with ``prefix``.
            UntrustedObjectError: an object is a pickle and was not trusted.
        """
        from deltackpt.formats.recipe import BODY_PREFIX, FILE_PREFIX, FILE_ROLE
        from deltackpt.formats.state import load_entries

        entries = self.entries(prefix)
        if not prefix.startswith((FILE_PREFIX, BODY_PREFIX)):
            # What describes files is no part of the state.
            entries = [entry for entry in entries if entry.role != FILE_ROLE]
        if not entries and prefix:
            raise TensorNotFoundError(f"nothing in the step starts with {prefix!r}", where=str(self._key))
        return load_entries(
            self._opened, self.manifest, entries, trust_objects=trust_objects, threads=default_threads()
        )

    def restore(
        self,
        out: str | os.PathLike[str],
        format: str | None = None,
        *,
        only: str | None = None,
        force: bool = False,
        trust_objects: bool = False,
        max_shard_bytes: int | None = None,
        ranks: int | None = None,
    ) -> list[Path]:
        """Write the step as files into a new folder, which appears whole or not at all.

        Args:
            out: the folder; nothing or an empty folder may be there.
            format: ``"original"``: the files that were imported, byte for byte (the default for such steps).
                ``"torch"``: model.pt, optim.pt, train.pt and config.yaml, as far as the state has them, that
                ``torch.load(weights_only=True)`` reads and ``load_state_dict`` takes (the default for other steps).
                ``"olmo"``: the same, all four, as OLMo resumes from. ``"safetensors"``: model.safetensors under the
                names of the state, the rest as torch files. ``"hf"``: weights and config.json for
                ``from_pretrained``. ``"dcp"``: a folder that ``dcp.load`` reads.
            only: one artifact, such as ``"model"``; nothing else is read.
            force: whether a folder that is there is replaced, with all that is in it.
            trust_objects: whether objects that are pickles may be loaded, which lets them run any code.
            max_shard_bytes: where files of ``"safetensors"`` and ``"hf"`` are cut; by default at 5 GB.
            ranks: with ``"olmo"``, the files ``rank0.pt`` and so on of this many ranks, as OLMo's legacy sharded
                checkpointer has them, in place of whole ones.

        Returns:
            The files written.

        Raises:
            TensorNotFoundError: the step has no such artifact.
            InvalidArgumentError: an unknown format, a size for a format that is not cut, or a folder that must not be
                replaced.
            IncompleteStepError: the step lacks what the format needs.
            ObjectExistsError: the folder is there, and not ``force``; nothing was written.
            UntrustedObjectError: an object is a pickle, and not ``trust_objects``; nothing was written.
        """
        from deltackpt.formats.restore import restore_step

        return restore_step(
            self._source(trust_objects),
            Path(out),
            format,
            only=only,
            force=force,
            max_shard_bytes=max_shard_bytes,
            ranks=ranks,
        )

    def check(self, against: str | os.PathLike[str] | Step, *, only: str = "model") -> CheckReport:
        """How the step differs from what is to be resumed: names, shapes and dtypes; no tensor is read.

        Also names the imported files that would call what checkpoints are not made of when they are unpickled.

        Args:
            against: a config (OLMo's, or one of ``transformers``), a file or folder of weights, a folder of DCP, or
                another step.
            only: the artifact whose tensors are compared.

        Raises:
            InvalidArgumentError: there is nothing to compare with.
            TensorNotFoundError: the step has no such tensors.
            UnsupportedDataError: the shapes of tensors cannot be told from the config.
        """
        from deltackpt.formats.check import compare, describe_path, describe_step
        from deltackpt.formats.suspects import suspect_calls

        have = describe_step(self.manifest, only)
        if isinstance(against, Step):
            name, wanted = f"{against.key.branch}:{against.key.step}", describe_step(against.manifest, only)
        else:
            name, wanted = os.fspath(against), describe_path(Path(against), only)
        report = compare(have, wanted, name)
        return replace(report, calls=suspect_calls(self._opened, self.manifest, threads=default_threads()))

    def files(self, *, trust_objects: bool = False) -> list[StepFile]:
        """The step's files: those that were imported or, for other steps, what ``restore(format="torch")`` writes.

        Args:
            trust_objects: whether parts of the state that hold pickles are listed.
        """
        return list(self._files(trust_objects).listing())

    def open(self, path: str, *, trust_objects: bool = False) -> io.BufferedReader:
        """One of the step's :meth:`files` as a seekable file to read; only what is read is decoded.

        Example:
            >>> import io, torch
            >>> import torch.distributed.checkpoint as dcp
            >>> import deltackpt
            >>> from deltackpt.dcp import DeltaStorageWriter
            >>> store = deltackpt.Store.create("memory://docs-open")
            >>> writer = DeltaStorageWriter(store, step=1)
            >>> _ = dcp.save({"model": {"w": torch.ones(2)}}, storage_writer=writer, no_dist=True)
            >>> with store.step(1).open("model.pt") as file:
            ...     torch.load(file, weights_only=True)
            {'w': tensor([1., 1.])}

        Args:
            path: as :meth:`files` lists it.
            trust_objects: whether a part of the state that holds pickles may be made into a file.

        Raises:
            TensorNotFoundError: the step has no such file.
            UntrustedObjectError: the part holds pickles, and not ``trust_objects``.
            CorruptObjectError, MissingObjectError: on reading, a part of the store is damaged or gone.
        """
        from deltackpt.formats.image_file import open_image

        files = self._files(trust_objects)
        return open_image(files.source, files.image(path))

    @contextmanager
    def as_hf_dir(self) -> Iterator[Path]:
        """A folder for ``from_pretrained`` and evaluation harnesses: weights, config and, if there is one, tokenizer.

        It lies in a cache (``DELTACKPT_CACHE``, else ``~/.cache/deltackpt``) and stays there for the next time, until
        the cache is larger than ``DELTACKPT_CACHE_BYTES`` (32 GiB) and others were used later. Do not write to it.

        Raises:
            IncompleteStepError: the step has no config that says what its model is.
            UnsupportedDataError: the tensors are not those that the config describes.
        """
        from deltackpt.formats.hf_folder import hf_folder

        with hf_folder(self._source(False)) as path:
            yield path

    def _files(self, trust_objects: bool) -> StepFiles:
        from deltackpt.formats.step_files import StepFiles

        if trust_objects not in self._opened_files:
            self._opened_files[trust_objects] = StepFiles(self._source(trust_objects))
        return self._opened_files[trust_objects]

    def _source(self, trust_objects: bool) -> StepSource:
        from deltackpt.formats.source import StepSource

        return StepSource(self._opened, self.manifest, default_threads(), trust_objects)

    def __repr__(self) -> str:
        return f"Step({self._key.branch}:{self._key.step}, generation {self._key.generation})"
