"""What an object remembers: everything reachable from it, as text that can be compared before and after.

Never finds what an extension module keeps in memory of its own.
"""

import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch

DEPTH: Final = 12
_OPAQUE: Final = (type, types.ModuleType, types.BuiltinFunctionType)
_PLAIN: Final = (int, float, complex, str, bytes, bytearray, bool, type(None))
_KIT: Final = __name__.rpartition(".")[0]


def memory_of(thing: object) -> dict[str, str]:
    """Return a digest of every value reachable from an object, by the path to it."""
    return dict(_walk(thing, "", set(), DEPTH))


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return the path of something that appeared, vanished or changed; empty where nothing did."""
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return paths[0] or "itself" if paths else ""


def _walk(thing: object, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(thing, _PLAIN):
        yield path, repr(thing)
        return
    if isinstance(thing, np.ndarray | torch.Tensor):
        array = np.asarray(thing.detach().cpu() if isinstance(thing, torch.Tensor) else thing)
        yield path, f"{array.dtype}{array.shape}{hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"
        return
    # The kit's own trials change while they run, and an author's tests may lie beside the plugin.
    if isinstance(thing, _OPAQUE) or type(thing).__module__.startswith(_KIT) or id(thing) in seen or depth == 0:
        return
    seen.add(id(thing))
    yield path, type(thing).__qualname__
    for name, part in _parts(thing):
        yield from _walk(part, f"{path}.{name}".lstrip("."), seen, depth - 1)


def _parts(thing: object) -> Iterator[tuple[str, object]]:
    if isinstance(thing, Mapping):
        yield from ((repr(key), value) for key, value in thing.items())
    elif isinstance(thing, set | frozenset):
        yield "members", repr(sorted(map(repr, thing)))
    elif isinstance(thing, list | tuple):
        yield "length", len(thing)
        yield from ((f"[{i}]", value) for i, value in enumerate(thing))
    elif isinstance(thing, types.FunctionType):
        cells = thing.__closure__ or ()
        yield from ((f"closure[{i}]", cell.cell_contents) for i, cell in enumerate(cells) if _is_filled(cell))
        yield "defaults", thing.__defaults__
        yield "keyword defaults", thing.__kwdefaults__
        yield from vars(thing).items()
    elif isinstance(thing, types.MethodType | classmethod | staticmethod):
        yield "function", thing.__func__
        yield "object", getattr(thing, "__self__", None)
    elif isinstance(thing, property):
        yield "getter", thing.fget
    elif isinstance(thing, torch.Generator):
        yield "state", thing.get_state()
    elif isinstance(thing, np.random.Generator):
        yield "state", repr(thing.bit_generator.state)
    elif callable(getattr(thing, "cache_info", None)):
        info = thing.cache_info()  # type: ignore[attr-defined]  # hits may grow: they leave nothing behind
        yield "cache", f"{info.misses} misses, {info.currsize} kept"
    else:
        yield from dict(getattr(thing, "__dict__", {})).items()
        for kind in type(thing).__mro__:
            slots: Any = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(thing, name):
                    yield name, getattr(thing, name)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (reading an empty cell is the only way to know)
    except ValueError:
        return False
    return True
