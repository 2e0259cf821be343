"""What a pickle would call when it is loaded, by name: is it more than tensors and plain values?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deltackpt.formats.parsers.pickles import Call, Global, Pairs, Persistent, Value

__all__ = ["calls_text", "foreign_calls"]

_MAX_NAMES: Final = 16
_MAX_TEXT: Final = 120

# Whole packages whose objects checkpoints are made of, and that have no function a pickle could misuse by itself ...
_PACKAGES: Final = frozenset({"collections", "datetime", "decimal", "fractions", "pathlib", "uuid", "enum"})
# ... and those where only these are so.
_NAMES: Final = {
    "builtins": {
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range"),
        *("set", "slice", "str", "tuple"),
    },
    "_codecs": {"encode"},
    "codecs": {"encode"},
    "copyreg": {"_reconstructor"},
    "argparse": {"Namespace"},
    "functools": {"partial"},
    "types": {"SimpleNamespace"},
}
# Of these, what lies below them is theirs; but some of it runs what it is given.
_LIBRARIES: Final = frozenset(
    {"torch", "numpy", "transformers", "accelerate", "deepspeed", "megatron", "omegaconf", "lightning", "olmo"}
    | {"olmo_core", "torchtitan", "pytorch_lightning", "tokenizers", "datasets", "peft", "trl"}
)
_RUNS_CODE: Final = frozenset(
    {"load", "loads", "exec", "eval", "compile", "system", "run", "runstring", "popen", "Popen", "call", "check_output"}
    | {"fromfile", "memmap", "load_library", "load_inline", "load_state_dict_from_url", "compile_file"}
)


def foreign_calls(value: Value) -> list[str]:
    """The functions and classes that are called while a value is loaded, and that checkpoints are not made of.

    Not among them are those of torch, numpy, the usual training libraries and the plain types, as far as these do not
    run or load something themselves. At most 16, in the order in which they occur. That it is empty proves nothing: a
    list of harmless names can never be complete.
    """
    found: dict[str, None] = {}
    entered: set[int] = set()
    todo = [value]
    while todo and len(found) < _MAX_NAMES:
        node = todo.pop()
        if not isinstance(node, (list, tuple, Pairs, Call, Persistent)) or id(node) in entered:
            continue
        entered.add(id(node))
        if isinstance(node, (list, tuple)):
            todo.extend(reversed(node))
        elif isinstance(node, Pairs):
            todo.extend(part for pair in reversed(node.items) for part in reversed(pair))
        elif isinstance(node, Persistent):
            todo.append(node.id)
        else:
            if isinstance(node.function, Global) and not _is_usual(node.function):
                found[f"{node.function.module}.{node.function.name}"[:_MAX_TEXT]] = None
            elif not isinstance(node.function, Global):
                found["the result of another call"] = None
            flat = [part for pair in node.pairs for part in pair]
            todo.extend(reversed([node.function, node.args, node.state, *flat, *node.members]))
    return list(found)


def calls_text(calls: Sequence[str]) -> str:
    """The rest of a sentence that begins with the file's name."""
    return f"calls {', '.join(calls)} when it is unpickled: look at where it comes from before you load it"


def _is_usual(name: Global) -> bool:
    top = name.module.partition(".")[0]
    last = name.name.rpartition(".")[2]
    if top in _LIBRARIES:
        return last not in _RUNS_CODE and "hub" not in name.module.split(".")
    # A dotted name reaches through what is named first: ``pathlib.os.system``.
    # Python 2 called them __builtin__.
    module = "builtins" if name.module == "__builtin__" else name.module
    return "." not in name.name and (top in _PACKAGES or name.name in _NAMES.get(module, ()))
