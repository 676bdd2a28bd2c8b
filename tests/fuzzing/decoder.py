"""What a decoder is to the fuzzer."""

import random
from collections.abc import Callable
from dataclasses import dataclass


class BrokenPromise(Exception):
    """A decoder accepted what it must not."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """One decoder of outside bytes.

    Attributes:
        name: for the report.
        share: of all cases, relative; slow decoders get fewer.
        make: returns one case for a generator of random numbers.
        run: decodes a case and raises BrokenPromise where the result must not be.
        declared: the only errors that may come.
    """

    name: str
    share: int
    make: Callable[[random.Random], bytes]
    run: Callable[[bytes], object]
    declared: tuple[type[Exception], ...]


def promise(is_kept: bool, what: str) -> None:
    if not is_kept:
        raise BrokenPromise(what)
