"""What a check is: a name, the promise it holds a plugin to, and a function that breaks where it is not kept.

Never touches real records: a trial's are made up.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .trial import Trial


@dataclass(frozen=True, slots=True)
class Check:
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
    run: Callable[[Trial], None]
    needs: tuple[str, ...] = ()


def check(run: Callable[[Trial], None], *needs: str, is_privacy: bool = False) -> Check:
    """Return a check named like its function, its promise the first line of the docstring."""
    lines = (run.__doc__ or "").strip().splitlines()
    return Check(run.__name__.replace("_", "-"), lines[0], is_privacy, run, needs)
