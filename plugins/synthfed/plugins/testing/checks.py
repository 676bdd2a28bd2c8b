"""Every check of a model plugin, in the order in which they are told.

Never asks a check whose ground is missing: each names the checks it builds on.
"""

from typing import Final

from . import declaration, encoding, gradients, keeping, sampling, statistics, training
from .check import Check
from .trial import Trial

__all__ = ["CHECKS"]

CHECKS: Final[tuple[Check[Trial], ...]] = (
    *declaration.CHECKS,
    *encoding.CHECKS,
    *statistics.CHECKS,
    *gradients.CHECKS,
    *keeping.CHECKS,
    *training.CHECKS,
    *sampling.CHECKS,
)
