"""The core's own functions, as a site runs them, by the entry point group ``synthfed.core``.

Never imports the client, and never stands in for it: without the core nothing is checked.
"""

import functools
from collections.abc import Callable
from importlib import metadata
from typing import Any, Final

from synthfed.protocols.errors import ConfigError

from ..api import Array

GROUP: Final = "synthfed.core"


def clipped_sum() -> Callable[..., Array]:
    """Return the core's function that clips and sums; ConfigError where the client is not installed."""
    return _of_core("clipped-sum")


def module_faults() -> Callable[..., list[str]]:
    """Return the core's function that says why Opacus would refuse a module."""
    return _of_core("module-faults")


@functools.cache
def _of_core(name: str) -> Callable[..., Any]:
    points = metadata.entry_points(group=GROUP, name=name)
    if not points:
        raise ConfigError("the core is not installed; reinstall synthfed")
    found: Callable[..., Any] = next(iter(points)).load()
    return found
