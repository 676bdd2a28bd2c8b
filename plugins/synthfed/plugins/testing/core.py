"""The core's own functions, as a site runs them, by the entry point group ``synthfed.core``.

Never imports the client, and never stands in for it: without the core nothing is checked.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, Final

from synthfed.protocols.errors import ConfigError

from ..api import Array
from ..distributions import CORE, points

GROUP: Final = "synthfed.core"


def clipped_sum() -> Callable[..., Array]:
    """Return the core's function that clips and sums; ConfigError where the client is not installed."""
    return _of_core("clipped-sum")


def module_faults() -> Callable[..., list[str]]:
    """Return the core's function that says why Opacus would refuse a module."""
    return _of_core("module-faults")


def check_uncoupled() -> Callable[..., None]:
    """Return the core's function that tries on made-up rows whether a gradient keeps the records of a batch apart."""
    return _of_core("uncoupled")


@functools.cache
def _of_core(name: str) -> Callable[..., Any]:
    declared = [point for point in points(GROUP) if point.name == name and point.distribution == CORE]
    if not declared:
        raise ConfigError("the core is not installed; reinstall synthfed")
    module, _, attribute = declared[0].target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
