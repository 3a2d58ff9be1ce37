"""Interprets the pickle of a `torch.save`d state dict without running anything that it names.

Unlike `torch.load(weights_only=True)`, this trusts nothing in the file: offsets into the data are
returned for checking, where torch maps them, and keys must be short strings or numbers.
`pickle.Unpickler` would reserve any memory that a file asks for and hash any key.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_MOST_AXES = 32
_LONGEST_KEY = 500


class Unreadable(Exception):
    """The reason why a pickle is not a state dict, phrased to follow a colon."""


@dataclasses.dataclass(frozen=True)
class StorageType:
    """A storage class, such as `FloatStorage`.

    Attributes:
        name: name of the class, without its module.
    """

    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """A member of the archive that holds numbers.

    Attributes:
        type: class of the storage, which determines the type of its numbers.
        key: name of the member in the folder `data`.
        items: number of its entries.
    """

    type: StorageType
    key: str
    items: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """A view of a storage; all numbers are non-negative, but may reach beyond the storage.

    Attributes:
        storage: storage that is viewed.
        offset: index of the first entry in the storage.
        shape: shape of the tensor.
        strides: strides of the axes, in entries.
        is_negated: whether the entries are those of the storage with opposite sign.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    is_negated: bool


def unpickle(pickled: bytes) -> Any:
    """Returns the content of a pickle: dicts, lists, tuples, plain values and `Tensor`s.

    Raises:
        Unreadable: the pickle is damaged, or contains more than tensors and plain values.
    """
    machine = _Machine()
    for name, argument in _operations(pickled):
        if name == "STOP":
            return machine.pop()
        if name in _PUSHED:
            machine.stack.append(argument)
        elif name in _CONSTANTS:
            machine.stack.append(_CONSTANTS[name]())
        elif name in _OPERATIONS:
            _OPERATIONS[name](machine, argument)
        elif name not in _IGNORED:
            _fail(f"its pickle has the operation {name}, which state dicts do not need")
    _fail("its pickle does not end")


def _operations(pickled: bytes) -> Iterator[tuple[str, Any]]:
    try:
        yield from ((code.name, argument) for code, argument, _ in pickletools.genops(pickled))
    except ValueError as error:
        raise Unreadable("its pickle is damaged") from error


def _fail(reason: str) -> NoReturn:
    raise Unreadable(reason)


class _Machine:
    """The state of the interpreter: the stack, the marks on it, and the memo."""

    def __init__(self):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            _fail("its pickle is damaged")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            _fail("its pickle is damaged")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def get(self, key: int) -> None:
        if key not in self.memo:
            _fail("its pickle is damaged")
        self.stack.append(self.memo[key])

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.top(), list):
            _fail("its pickle is damaged")
        self.top().extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            _fail("its pickle is damaged")
        target |= zip(map(_key, items[::2]), items[1::2], strict=True)

    def find(self, module: Any, name: Any) -> None:
        if (module, name) in _FUNCTIONS:
            self.stack.append(_FUNCTIONS[module, name])
        elif (module, name) in _CLASSES or _is_storage(module, name):
            self.stack.append(StorageType(name))
        else:
            _fail(f"it names {module}.{name}, which is not run; save a dict of tensors alone")

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(_call(function, arguments))

    def build(self) -> None:
        """Ignores attributes, which only the ordered dicts of modules have."""
        self.pop()
        if not isinstance(self.top(), dict):
            _fail("its pickle is damaged")

    def load_storage(self) -> None:
        match self.pop():
            case ("storage", StorageType() as kind, str(key), _, int(items)) if 0 <= items < 2**63:
                self.stack.append(Storage(type=kind, key=key, items=items))
            case _:
                _fail("one of its storages is damaged")

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            _fail("its pickle is damaged")
        self.find(module, name)


def _key(value: Any) -> str:
    if isinstance(value, str) and len(value) <= _LONGEST_KEY:
        return value
    if isinstance(value, int) and value.bit_length() < 64:
        return str(value)
    _fail("one of its keys is not a short string")


def _call(function: Any, arguments: Any) -> Any:
    if function not in _FUNCTIONS.values() or not isinstance(arguments, tuple):
        _fail("its pickle is damaged")
    return function(arguments)


def _ordered_dict(arguments: tuple) -> dict[str, Any]:
    return {} if not arguments else _fail("its pickle is damaged")


def _size(arguments: tuple) -> tuple:
    match arguments:
        case (list() | tuple() as sizes,):
            return tuple(sizes)
    _fail("a shape in it is damaged")


def _rebuild_tensor(arguments: tuple) -> Tensor:
    """Takes storage, offset, shape and strides, followed by training flags and metadata."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *rest):
            pass
        case _:
            _fail("one of its tensors is damaged")
    metadata = rest[2] if len(rest) > 2 else None
    if metadata and not (isinstance(metadata, dict) and metadata.keys() <= {"neg"}):
        _fail("one of its tensors is a view that cannot be read (conjugated, for instance)")
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        _fail("one of its tensors has an invalid shape or strides")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
        _fail("one of its tensors has an offset, size or stride that is not a number from 0")
    is_negated = bool(metadata and metadata.get("neg"))
    return Tensor(
        storage=storage, offset=offset, shape=shape, strides=strides, is_negated=is_negated
    )


def _rebuild_parameter(arguments: tuple) -> Tensor:
    match arguments:
        case (Tensor() as tensor, *_):
            return tensor
    _fail("one of its parameters is damaged")


def _rebuild_from_type(arguments: tuple) -> Any:
    """Takes function, class, arguments and attributes of a tensor with its own attributes."""
    match arguments:
        case (function, StorageType(), tuple() as inner, _) if function is not _rebuild_from_type:
            return _call(function, inner)
    _fail("one of its tensors is damaged")


def _rebuild_of_other_type(arguments: tuple) -> NoReturn:
    _fail("one of its tensors has a dtype that cannot be converted")


_Function = Callable[[tuple], Any]
_FUNCTIONS: dict[tuple[str, str], _Function] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_of_other_type,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
}
# Classes of tensors with attributes; they may only be arguments.
_CLASSES = {("torch", "Tensor"), ("torch.nn.parameter", "Parameter")}


def _is_storage(module: str, name: str) -> bool:
    return module in ("torch", "torch.storage") and name.isidentifier() and name.endswith("Storage")


_IGNORED = {"PROTO", "FRAME"}
_PUSHED = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "BINPUT": lambda m, key: m.memo.__setitem__(key, m.top()),
    "LONG_BINPUT": lambda m, key: m.memo.__setitem__(key, m.top()),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.top()),
    "BINGET": lambda m, key: m.get(key),
    "LONG_BINGET": lambda m, key: m.get(key),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "GLOBAL": lambda m, names: m.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.load_storage(),
}
