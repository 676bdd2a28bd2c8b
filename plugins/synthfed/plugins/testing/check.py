"""What a check is: a name, the promise it holds a plugin to, and a function that breaks where it is not kept.

Never touches real records: whatever a check looks at is made up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Broken(Exception):
    """A promise of the contract that a plugin does not keep; its text says which and how to mend it."""


def promise(kept: object, otherwise: str) -> None:
    """Raise `Broken` unless something holds."""
    if not kept:
        raise Broken(otherwise)


@dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    """One check.

    Attributes:
        name: a slug, as waivers use it.
        promise: the sentence that holds where it passes.
        is_privacy: whether breaking it could show more of a record than was promised.
        run: raises `Broken` where the promise is not kept.
        needs: names of the checks that must hold before it makes sense.
    """

    name: str
    promise: str
    is_privacy: bool
    run: Callable[[T], None]
    needs: tuple[str, ...] = ()


def check(run: Callable[[Any], None], *needs: str, is_privacy: bool = False) -> Check[Any]:
    """Return a check named like its function, its promise the first line of the docstring."""
    lines = (run.__doc__ or "").strip().splitlines()
    return Check(run.__name__.replace("_", "-"), lines[0], is_privacy, run, needs)
