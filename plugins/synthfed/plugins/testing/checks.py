"""Every check of a model plugin, in the order in which they are told.

Never asks a check whose ground is missing: each names the checks it builds on.
"""

from typing import Final

from . import declaration, encoding, gradients, keeping, sampling, statistics, training
from .check import Check

__all__ = ["CHECKS", "Check"]

CHECKS: Final[tuple[Check, ...]] = (
    *declaration.CHECKS,
    *encoding.CHECKS,
    *statistics.CHECKS,
    *gradients.CHECKS,
    *keeping.CHECKS,
    *training.CHECKS,
    *sampling.CHECKS,
)
