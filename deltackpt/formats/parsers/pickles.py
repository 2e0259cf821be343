"""Pickles as data: which values they hold and what they would call, without importing or calling anything.

A machine that interprets the opcodes of protocols 0 to 5 (documented in CPython's ``pickletools``), in which a class
or function is only a name, a call is only a note of it, and a persistent id stays one.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from deltackpt.errors import DamagedFileError, UnsafeFileError

__all__ = ["MAX_PICKLE_BYTES", "Call", "Global", "Pairs", "Persistent", "Value", "parse_pickle"]

MAX_PICKLE_BYTES: Final = 64 << 20
"""Longer ones are not read: what a checkpoint says of its tensors takes a few hundred bytes for each."""

_MAX_OPCODES: Final = 4_000_000
"""It bounds time to some ten seconds and memory to some hundred MB. A tensor takes about 40."""

Value = Any
"""None, bool, int, float, str, bytes, list, tuple, or one of the classes below."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function, by its name only."""

    module: str
    name: str


@dataclass(slots=True, eq=False)
class Pairs:
    """A dict. Keys may be anything, so they are not hashed."""

    items: list[tuple[Value, Value]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call:
    """What a call or the making of an object would have given, and what was done to it."""

    function: Value
    args: Value
    state: Value = None
    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    members: list[Value] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """Something outside the pickle, by its id."""

    id: Value


class _Malformed(Exception):  # noqa: N818  # it never leaves this module
    pass


class _Mark:
    pass


_MARK: Final = _Mark()


def parse_pickle(data: bytes, *, where: str, base: int = 0) -> tuple[Value, int]:
    """The value of the pickle that ``data`` begins with, and the pickle's length.

    Args:
        where, base: the file and the place in it that ``data`` comes from, for errors.

    Raises:
        DamagedFileError: the bytes are no pickle.
        UnsafeFileError: the pickle is longer than any that describes tensors.
    """
    machine = _Machine()
    stream = io.BytesIO(data)
    position = 0
    try:
        for count, (opcode, argument, at) in enumerate(pickletools.genops(stream)):
            position = int(at or 0)
            if count >= _MAX_OPCODES:
                raise UnsafeFileError(
                    f"its pickle has more than {_MAX_OPCODES} operations", where=where, offset=base + position
                )
            machine.execute(opcode.name, argument)
    except (_Malformed, ValueError, IndexError, OverflowError, DeprecationWarning) as error:
        # genops' own errors say what is wrong with the bytes; an empty stack raises IndexError. Of an escape that means
        # nothing, Python only warns, which is an error where warnings are.
        reason = (
            str(error) if isinstance(error, (_Malformed, ValueError, Warning)) else "an operation lacks its operands"
        )
        raise DamagedFileError(
            f"its pickle cannot be read: {reason[:200]}",
            where=where,
            offset=base + position,
            hint="the file is damaged, or made to do damage; copy it again from where it was written",
        ) from error
    return machine.result(), stream.tell()


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Value] = []
        self._memo: dict[int, Value] = {}

    def result(self) -> Value:
        return self._stack[-1] if self._stack else None

    def execute(self, name: str, argument: Value) -> None:
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(self, argument)
        elif name in _PUSHES:
            self._stack.append(argument)
        elif name not in _IGNORED:
            raise _Malformed(f"unknown operation {name}")

    def push(self, value: Value) -> None:
        self._stack.append(value)

    def pop(self) -> Value:
        value = self._stack.pop()
        if value is _MARK:
            raise _Malformed("an operation lacks its operands")
        return value

    def peek(self) -> Value:
        value = self._stack[-1]
        if value is _MARK:
            raise _Malformed("an operation lacks its operands")
        return value

    def to_mark(self) -> list[Value]:
        """Take what is above the last mark, and the mark."""
        for position in range(len(self._stack) - 1, -1, -1):
            if self._stack[position] is _MARK:
                taken = self._stack[position + 1 :]
                del self._stack[position:]
                return taken
        raise _Malformed("a mark is missing")

    def drop(self) -> None:
        self._stack.pop()

    def drop_to_mark(self) -> None:
        self.to_mark()

    def store(self, position: int) -> None:
        self._memo[position] = self.peek()

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self.peek()

    def recall(self, position: int) -> None:
        if position not in self._memo:
            raise _Malformed(f"the memo has nothing at {position}")
        self._stack.append(self._memo[position])

    def extend(self, members: list[Value]) -> None:
        target = self.peek()
        if isinstance(target, list):
            target.extend(members)
        elif isinstance(target, Call):
            target.members.extend(members)
        else:
            raise _Malformed("what is appended to is no list")

    def update(self, flat: list[Value]) -> None:
        target = self.peek()
        if len(flat) % 2:
            raise _Malformed("a key lacks its value")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if isinstance(target, Pairs):
            target.items.extend(pairs)
        elif isinstance(target, Call):
            target.pairs.extend(pairs)
        else:
            raise _Malformed("what items are set in is no dict")

    def build(self) -> None:
        state = self.pop()
        target = self.peek()
        if isinstance(target, Call):
            target.state = state

    def call(self, function: Value, args: Value) -> None:
        self._stack.append(Call(function, args))


def _call_two(machine: _Machine, _: Value) -> None:
    args, function = machine.pop(), machine.pop()
    machine.call(function, args)


def _call_three(machine: _Machine, _: Value) -> None:
    keywords, args, function = machine.pop(), machine.pop(), machine.pop()
    machine.call(function, (args, keywords))


def _object(machine: _Machine, _: Value) -> None:
    parts = machine.to_mark()
    machine.call(parts[0], tuple(parts[1:]))


def _instance(machine: _Machine, argument: Value) -> None:
    machine.call(_global(argument), tuple(machine.to_mark()))


def _global(argument: Value) -> Global:
    module, _, name = str(argument).partition(" ")
    return Global(module, name)


def _stack_global(machine: _Machine, _: Value) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise _Malformed("the name of a class is no text")
    machine.push(Global(module, name))


def _pairs(machine: _Machine, flat: list[Value]) -> None:
    machine.push(Pairs())
    machine.update(flat)


def _tuple(count: int) -> Callable[[_Machine, Value], None]:
    def handler(machine: _Machine, _: Value) -> None:
        members = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(members)))

    return handler


def _set_item(machine: _Machine, _: Value) -> None:
    value, key = machine.pop(), machine.pop()
    machine.update([key, value])


def _frozen(machine: _Machine, _: Value) -> None:
    machine.call(Global("builtins", "frozenset"), (machine.to_mark(),))


_PUSHES: Final = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT"),
    }
)
_IGNORED: Final = frozenset({"PROTO", "FRAME", "STOP", "READONLY_BUFFER"})
_HANDLERS: Final[dict[str, Callable[[_Machine, Value], None]]] = {
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "NEXT_BUFFER": lambda m, _: m.push(Persistent(None)),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push(Pairs()),
    "EMPTY_SET": lambda m, _: m.call(Global("builtins", "set"), ()),
    "FROZENSET": _frozen,
    "MARK": lambda m, _: m.push(_MARK),
    "POP": lambda m, _: m.drop(),
    "POP_MARK": lambda m, _: m.drop_to_mark(),
    "DUP": lambda m, _: m.push(m.peek()),
    "LIST": lambda m, _: m.push(m.to_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "DICT": lambda m, _: _pairs(m, m.to_mark()),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.to_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.to_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.update(m.to_mark()),
    "GET": lambda m, a: m.recall(int(a)),
    "BINGET": lambda m, a: m.recall(a),
    "LONG_BINGET": lambda m, a: m.recall(a),
    "PUT": lambda m, a: m.store(int(a)),
    "BINPUT": lambda m, a: m.store(a),
    "LONG_BINPUT": lambda m, a: m.store(a),
    "MEMOIZE": lambda m, _: m.memoize(),
    "GLOBAL": lambda m, a: m.push(_global(a)),
    "STACK_GLOBAL": _stack_global,
    "EXT1": lambda m, a: m.push(Global("copyreg", f"extension {a}")),
    "EXT2": lambda m, a: m.push(Global("copyreg", f"extension {a}")),
    "EXT4": lambda m, a: m.push(Global("copyreg", f"extension {a}")),
    "REDUCE": _call_two,
    "NEWOBJ": _call_two,
    "NEWOBJ_EX": _call_three,
    "OBJ": _object,
    "INST": _instance,
    "BUILD": lambda m, _: m.build(),
    "PERSID": lambda m, a: m.push(Persistent(a)),
    "BINPERSID": lambda m, _: m.push(Persistent(m.pop())),
}
