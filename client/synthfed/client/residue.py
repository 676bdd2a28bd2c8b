"""What a plugin's module keeps of the records it saw: its state, looked at before and after.

Never finds what foreign code keeps outside its module: for that a site trusts the pinned code.
"""

import copy
from typing import Final

import torch
from torch import nn

_OF_TORCH: Final = frozenset(vars(nn.Module()))
_OF_OPACUS: Final = frozenset({"autograd_grad_sample_hooks", "activations", "max_batch_len"})
"""Attributes that the library of the same name hangs on a module; each is emptied or made anew in every pass."""

State = dict[str, object]


def state_of(module: nn.Module) -> State:
    """Return copies of everything that a module could remember by, torch's random generator among it.

    Parameters and buffers (those that are not saved, too) and every attribute of every part; a module
    that tosses coins would make a record's contribution depend on its place in the batch.
    """
    found: State = {"torch's random generator": torch.get_rng_state()}
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
