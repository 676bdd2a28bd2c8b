"""How an attacker who sees all released sums, or the released weights alone, guesses which canaries were there."""

import numpy as np
import numpy.typing as npt
from tests.privacy.marked import CANARIES, RATE, Seen

from synthfed.plugins.audits.one_run import Guesses, guess

_MOST = 300.0  # of an exponent: certainty enough, and no overflow


def likelihoods(seen: Seen) -> npt.NDArray[np.float64]:
    """Return how much likelier each canary's released sums are with it than without, as logarithms."""
    total = np.zeros(CANARIES)
    for answer in seen.answers:
        own, rate = answer.total[1 : CANARIES + 1], RATE if answer.sum == "steps" else 1.0
        ratio = np.clip((own - 0.5) / max(answer.noise_std, 1e-9) ** 2, -_MOST, _MOST)
        total += np.log1p(rate * np.expm1(ratio))
    return total


def guesses_by_sums(seen: Seen) -> Guesses:
    """Guess by the likelihood of all released sums, the best that anybody who sees them can do."""
    return guess(likelihoods(seen), seen.was_in)


def guesses_by_weights(seen: Seen) -> Guesses:
    """Guess by the released model alone, as somebody who was not there while it was trained."""
    return guess(seen.weights[1 : CANARIES + 1], seen.was_in)
