"""What is dear to make is made once for the same origin, not at every question.

Never compares what an origin says: only the very same object counts as the same.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Something made of other things, kept until it is wanted of others."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._of: tuple[object, ...] = ()
        self._held: list[T] = []

    def __call__(self, make: Callable[[], T], *of: object) -> T:
        """Return what ``make`` gives, or gave when it was last called for the very same objects ``of``."""
        if not self._held or any(old is not new for old, new in zip(self._of, of, strict=True)):
            self._of, self._held = of, [make()]
        return self._held[0]
