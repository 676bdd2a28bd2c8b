"""A line of the preflight, and how a look becomes one.

Never lets a fault that a person can mend end the other looks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from synthfed.protocols.errors import SynthfedError

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the preflight: what was looked at, whether it is well, and what was seen or must be done."""

    topic: str
    is_ok: bool
    detail: str


def attempt(topic: str, look: Callable[[], _Result], well: str) -> tuple[_Result | None, Finding]:
    """Return what a look gives, None where it fails, and the finding: ``well``, or the error's words."""
    try:
        return look(), Finding(topic, True, well)
    except SynthfedError as error:
        return None, Finding(topic, False, str(error))
