"""What a single training proves about its own epsilon: the audit in one run, by canaries that are there or not.

Never claims more than guesses prove: a bound far below the promise says that no attack of this strength was found.

Steinke, Nasr and Jagielski 2023, Privacy Auditing with One (1) Training Run, arXiv:2305.08846. Each of m canaries takes
part or not by a fair coin of its own. Whoever sees the outcome guesses some of the coins and may abstain from the rest.
If the training is (epsilon, delta)-private under adding or removing one canary, guesses cannot be right much more often
than each alone with probability e^epsilon / (1 + e^epsilon) (their theorem 5.2), however they are made.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

LEVEL: Final = 0.95
_LARGEST: Final = 100.0  # a study's promise is at most this
_PASSES: Final = 60  # of a bisection: its last step is below 1e-15


@dataclass(frozen=True, slots=True)
class Guesses:
    """How a run's canaries were guessed.

    Attributes:
        canaries: how many there were, each of which was in by a fair coin.
        made: how many of them were guessed.
        right: how many of the guesses were right.
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        """Refuse numbers that no guessing gives."""
        if not 0 <= self.right <= self.made <= self.canaries:
            raise ValueError(
                f"{self.right} right of {self.made} guesses on {self.canaries} canaries: each at most the next"
            )

    def lower_bound(self, delta: float, level: float = LEVEL) -> float:
        """Return the epsilon that these guesses prove at ``level``: whatever is smaller makes them too unlikely.

        Args:
            delta: of the promise.
            level: probability, over coins and training, with which the bound holds; in (0, 1).
        """
        low, high = 0.0, _LARGEST
        for _ in range(_PASSES):
            middle = (low + high) / 2
            low, high = (middle, high) if self.chance(middle, delta) < 1 - level else (low, middle)
        return low

    def ceiling(self, delta: float, level: float = LEVEL) -> float:
        """Return what the same number of guesses would have proven had all been right: beyond it the audit is blind."""
        return Guesses(self.canaries, self.made, self.made).lower_bound(delta, level)

    def chance(self, epsilon: float, delta: float) -> float:
        """Return the most likely that so many right guesses can be under an (epsilon, delta)-private training."""
        from scipy import stats  # type: ignore[import-untyped]  # a slow import, and only audits need it

        each = 1 / (1 + np.exp(-epsilon))
        beyond = float(stats.binom.sf(self.right - 1, self.made, each))
        # Where delta fails it may push a run that was i guesses short over the bar, at the price of i of them.
        short = np.arange(1, self.right + 1)
        nearly = np.cumsum(stats.binom.pmf(self.right - short, self.made, each))
        worst = float((nearly / short).max()) if len(short) else 0.0
        return min(beyond + 2 * self.canaries * delta * worst, 1.0)


def guess(scores: npt.NDArray[np.float64], was_in: npt.NDArray[np.bool_], part: float = 0.1) -> Guesses:
    """Return the guesses that the highest scores were in and the lowest out.

    Args:
        scores: of every canary, the higher the likelier it was in, shape ``(canaries,)``.
        was_in: the coins, shape ``(canaries,)``.
        part: of the canaries that are guessed at either end, in (0, 0.5]; fixed before the scores are seen.
    """
    order, each = np.argsort(scores, kind="stable"), max(int(part * len(scores)), 1)
    right = int(was_in[order[-each:]].sum() + (~was_in[order[:each]]).sum())
    return Guesses(len(scores), 2 * each, right)
