"""What belongs to the whole process and is not a plugin's to change: random state and settings.

Never leaves them changed: what moved is noted and put back.
"""

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch

_START: Final = 715_517
"""What every global generator is seeded with before a watch: code that seeds one itself then shows, too."""


@contextlib.contextmanager
def noting_randomness() -> Iterator[list[str]]:
    """Give a list that holds, when the block ends, the global generators that were moved in it; puts them back."""
    moved: list[str] = []
    found = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(_START)
    np.random.seed(_START)
    torch.default_generator.manual_seed(_START)
    before = _states()
    try:
        yield moved
    finally:
        names = ("random", "numpy.random", "torch")
        moved += [name for name, one, other in zip(names, before, _states(), strict=True) if one != other]
        random.setstate(found[0])
        np.random.set_state(found[1])
        torch.set_rng_state(found[2])


def _states() -> tuple[Any, Any, Any]:
    state = np.random.get_state(legacy=False)
    inner = {name: each.tobytes() if isinstance(each, np.ndarray) else each for name, each in state["state"].items()}
    return random.getstate(), (inner, state["has_gauss"], state["gauss"]), torch.get_rng_state().numpy().tobytes()


_SETTINGS: Final[dict[str, tuple[Callable[[], Any], Callable[[Any], object], Any]]] = {
    "torch's default type": (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    "torch's recording of gradients": (torch.is_grad_enabled, torch.set_grad_enabled, True),
    "torch's use of deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        False,
    ),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads, None),
    "numpy's handling of errors": (
        np.geterr,
        lambda value: np.seterr(**value),
        {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
    "numpy's printing": (
        lambda: np.get_printoptions()["precision"],
        lambda value: np.set_printoptions(precision=value),
        8,
    ),
    "the depth of recursion": (sys.getrecursionlimit, sys.setrecursionlimit, None),
    "the working directory": (os.getcwd, os.chdir, None),
}
"""By what a setting is called: how to read it, how to set it, and what it is before a watch; None for what it is."""


@contextlib.contextmanager
def noting_settings() -> Iterator[list[str]]:
    """Give a list that holds, when the block ends, the settings that were changed in it; puts them back."""
    changed: list[str] = []
    found = {name: get() for name, (get, _, _) in _SETTINGS.items()}
    started = {name: found[name] if usual is None else usual for name, (_, _, usual) in _SETTINGS.items()}
    for name, (_, put, _) in _SETTINGS.items():
        put(started[name])
    try:
        yield changed
    finally:
        changed += [name for name, (get, _, _) in _SETTINGS.items() if get() != started[name]]
        for name, (_, put, _) in _SETTINGS.items():
            put(found[name])
