"""What a plugin's module keeps of the records it saw: its state, looked at before and after.

Never finds what foreign code keeps outside its module: for that a site trusts the pinned code.
"""

import copy
from typing import Any, Final

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from synthfed.protocols.errors import UnsupportedMechanism

_OF_TORCH: Final = frozenset(vars(nn.Module()))
_OF_OPACUS: Final = frozenset({"autograd_grad_sample_hooks", "activations", "max_batch_len"})
"""Attributes that the library of the same name hangs on a module; each is emptied or made anew in every pass."""

State = dict[str, object]


class NoCoins(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations that draw from torch's generator, in this thread and block.

    A module or statistic that tosses coins would make a record's contribution depend on its place in the batch.
    Other generators, such as NumPy's, are not seen.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch's compiler, which nothing here uses, out of the process: to load it takes nearly a second."""
        return False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass an operation on, unless it draws."""
        if torch.Tag.nondeterministic_seeded in operation.tags:
            raise UnsupportedMechanism(f"a plugin drew random numbers while it saw records ({operation})")
        return operation(*args, **(kwargs or {}))


def state_of(module: nn.Module) -> State:
    """Return copies of everything that a module could remember by: parameters, buffers, attributes of every part."""
    found: State = {}
    for path, part in module.named_modules():
        tensors = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
        others = {name: value for name, value in vars(part).items() if name not in _OF_TORCH | _OF_OPACUS}
        for name, value in {**tensors, **others}.items():
            found[f"{path}.{name}".lstrip(".")] = _copied(value)
    return found


def changed(before: State, after: State) -> str:
    """Return the name of something that differs, empty where nothing does."""
    names = sorted(before.keys() ^ after.keys())
    return names[0] if names else next((name for name in before if not _are_alike(before[name], after[name])), "")


def _copied(value: object) -> object:
    return value.detach().clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)


def _are_alike(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if type(one) is type(other) and type(one).__eq__ is object.__eq__ and hasattr(one, "__dict__"):
        return changed(vars(one), vars(other)) == ""  # a copy is equal to its original only by its content
    return type(one) is type(other) and bool(one == other)
