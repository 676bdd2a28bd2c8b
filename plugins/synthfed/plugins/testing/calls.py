"""What a package's own functions call: which functions, how often, and what shapes their tensors have.

Never looks into the packages that it calls in turn, and changes nothing: it is Python's profiling hook, for a block.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Package:
    """The modules that a plugin's pin covers: the plugin's own, those beside it, and those below."""

    def __init__(self, module: str) -> None:
        """Take the name of the plugin's module."""
        self._module, self._folder = module, getattr(sys.modules.get(module), "__package__", "") or ""

    def holds(self, module: str) -> bool:
        """Return whether a module, by its name, is one of the package."""
        inside = bool(self._folder) and (module == self._folder or module.startswith(f"{self._folder}."))
        return inside or module == self._module

    def modules(self) -> list[str]:
        """Return the names of the package's modules that are loaded."""
        return sorted(name for name in sys.modules if self.holds(name))


@contextlib.contextmanager
def noting_calls(package: Package) -> Iterator[list[str]]:
    """Give a list that fills with what functions of the package call, by full names, in order."""
    calls: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and package.holds(_module_of(frame)):
            calls.append(_name_of_builtin(argument))
        elif event == "call" and frame.f_back is not None and package.holds(_module_of(frame.f_back)):
            where = "os.environ" if frame.f_locals.get("self") is os.environ else _module_of(frame)
            calls.append(f"{where}.{frame.f_code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _name_of_builtin(function: Any) -> str:
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None) or getattr(owner, "__module__", None) or type(owner).__module__
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every tensor operation of this thread and block with the shapes that it gives."""

    def __init__(self) -> None:
        """Start with none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.noted: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch's compiler, which nothing here uses, out of the process: to load it takes nearly a second."""
        return False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass an operation on and note it."""
        result = operation(*args, **(kwargs or {}))
        shape = tuple(result.shape) if isinstance(result, torch.Tensor) else ()
        self.noted.append(f"{operation}{shape}")
        return result
