"""What finds a broken build: questions to all that a study left, each of which a sound build fails once in a million.

None looks into the build's code: they read released sums, site a's ledger, and which marks its computations met.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
from scipy import stats  # type: ignore[import-untyped]
from tests.privacy.marked import CANARIES, DELTA, RATE, Seen
from tests.privacy.one_run import guesses_by_sums

from synthfed.plugins.api import Array

ALARM = 1e-6
"""How often a check is wrong about a sound build."""


def audit(seen: Seen, claimed: float) -> str:
    """Whether guesses prove more than the claim; at epsilon 1 those of a sound build prove 0.10, deviation 0.12."""
    proven = guesses_by_sums(seen).lower_bound(DELTA)
    return f"guesses prove epsilon {proven:.2f}" if proven > claimed else ""


def noise_size(seen: Seen, claimed: float) -> str:
    """Whether the coordinates of nobody hold as much noise as the study says of each release."""
    blank = np.concatenate([_blank(answer.total) / answer.noise_std for answer in seen.answers])
    # Of a rounding to the grid, at most half a step of 2^18 to the deviation, nothing shows at this level.
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], len(blank))
    return "" if low < (blank**2).sum() < high else f"noise has {math.sqrt((blank**2).mean()):.2f} of its deviation"


def noise_is_fresh(seen: Seen, claimed: float) -> str:
    """Whether the noise of two releases of a sum has nothing in common."""
    most = 0.0
    for one, other in pairwise(seen.answers):
        first, second = _blank(one.total), _blank(other.total)
        lengths = math.sqrt(float((first**2).sum() * (second**2).sum()))
        most = max(most, abs(float(first @ second)) / max(lengths, 1e-300))
    # The correlation of two independent normal vectors, as often as there are pairs of releases.
    bound = float(stats.norm.isf(ALARM / (2 * len(seen.answers)))) / math.sqrt(len(_blank(seen.answers[0].total)))
    return f"the noise of two releases goes together by {most:.2f}" if most > bound else ""


def sampling(seen: Seen, claimed: float) -> str:
    """Whether units took part at the rate that was charged, each by a coin of its own."""
    marks = np.flatnonzero(seen.was_in) + 1
    # A round at rate 1 meets them all; they are the statistics, whatever the build.
    rounds = [met for met in seen.met if len(met) < len(marks)]
    taken = np.array([[mark in met for mark in marks] for met in rounds])
    units = taken.size
    low, high = stats.binom.ppf([ALARM / 4, 1 - ALARM / 4], units, RATE)
    if not low <= taken.sum() <= high:
        return f"units took part at rate {taken.mean():.3f}, not {RATE}"
    # Two rounds have taken the same unit with probability RATE^2: shuffled lots never before an epoch is over.
    both, places = (taken[1:] & taken[:-1]).sum(), taken[1:].size
    low, high = stats.norm.interval(1 - ALARM / 2, places * RATE**2, _spread(taken.shape[0] - 1, len(marks)))
    return "" if low < both < high else f"{both} of {places} units took part twice running, not {RATE**2:.3f} of them"


def charges(seen: Seen, claimed: float) -> str:
    """Whether the ledger holds every computation on records."""
    return "" if seen.charged >= len(seen.met) else f"{len(seen.met)} computations on records, {seen.charged} charges"


CHECKS: Mapping[str, Callable[[Seen, float], str]] = {
    check.__name__: check for check in (audit, noise_size, noise_is_fresh, sampling, charges)
}


def findings(seen: Seen, claimed: float) -> dict[str, str]:
    """Return what each check that found something says."""
    said = {name: check(seen, claimed) for name, check in CHECKS.items()}
    return {name: each for name, each in said.items() if each}


def _blank(total: Array) -> Array:
    return total[CANARIES + 1 :]


def _spread(pairs: int, units: int) -> float:
    """Return a deviation of the number of units that took part twice running; neighbouring pairs share a round."""
    rate = RATE**2
    return math.sqrt(units * (pairs * rate * (1 - rate) + 2 * max(pairs - 1, 0) * (RATE**3 - rate**2)))
