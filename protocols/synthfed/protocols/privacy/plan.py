"""From a study's promise (epsilon, delta) to the noise of every sum, and what happens if it fails.

Never uses anything but declared constants: a plan is the same at every party.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import ConfigError
from ..study import Study
from ..sums import GRID, Kind, Sum, noise_shares
from .accountant import OVERFLOW_SHARE, SampledGaussian, epsilon, overflow_probability

_SLOT_MULTIPLE: Final = 64  # whole tiles only, so that a row's arithmetic does not depend on its slot
_LEAST_NOISE: Final = 0.3  # below this no mechanism deserves the name private
_LARGEST_NOISE: Final = 1e4
_UNIT_ROUNDOFF: Final = 2.0**-53


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study's terms amount to.

    Attributes:
        kinds: every sum with its noise multiplier, slots and ring.
        epsilon: of all caps together, towards the coordinator with the tolerated bad sites.
        epsilon_if_secagg_fails: the same when every other site's noise is known to the adversary.
        curve: epsilon when ``k`` sites are bad, for k = tolerated .. sites - 1.
    """

    kinds: tuple[Kind, ...]
    epsilon: float
    epsilon_if_secagg_fails: float
    curve: tuple[tuple[int, float], ...]

    def kind(self, name: str) -> Kind | None:
        """Return the kind of that name, or None."""
        return next((kind for kind in self.kinds if kind.sum.name == name), None)


def accounted_multiplier(kind: Kind, study: Study) -> float:
    """Return the noise multiplier to account for: what is left of it on the integer grid, in floats.

    The sum's sensitivity is ``f * clip_norm`` with f = 1 + float rounding + grid rounding, at the
    smallest cohort; a discrete Gaussian of std S is at most a post-processing of a continuous one
    of variance S^2 - 16 (regularity of the grid; both effects bounded in docs/adr/0003).
    """
    shares = noise_shares(study, study.cohort.quorum)
    floats = (2 * kind.sum.dim + 2 * kind.slots**2) * _UNIT_ROUNDOFF
    grid = kind.noise_multiplier * math.sqrt(kind.sum.dim) / (math.sqrt(shares) * GRID)
    return kind.noise_multiplier * math.sqrt(1 - 16 / GRID**2) / (1 + floats + grid)


def event(kind: Kind, study: Study, count: int) -> SampledGaussian:
    """Return the privacy event of ``count`` rounds of a kind."""
    return SampledGaussian(kind.sum.sample_rate, accounted_multiplier(kind, study), count)


def make_plan(study: Study, sums: Sequence[Sum]) -> Plan:
    """Return the plan that spends the study's epsilon on the sums in proportion to their shares.

    Each sum is first given the noise at which it alone would spend its share; one common factor
    then brings the composition of all caps just under epsilon.

    Raises:
        ConfigError: the promise cannot be met, or falls too far if secure aggregation fails.
    """
    promise, delta = study.privacy.epsilon, study.privacy.delta
    whole = sum(each.share for each in sums)
    alone = [
        _least(lambda noise, each=each: _total(study, [each], [noise]) <= promise * each.share / whole)  # type: ignore[misc]
        for each in sums
    ]
    factor = _least(lambda scale: _total(study, sums, [scale * noise for noise in alone]) <= promise)
    kinds = _kinds(study, sums, [_round_up(factor * noise) for noise in alone])
    reached = _epsilon_of(study, kinds, 1.0)
    if not reached <= promise:
        raise ConfigError(f"privacy.epsilon = {promise} with delta = {delta} cannot be met; allow more, or fewer steps")
    plan = Plan(kinds, reached, *_failures(study, kinds, reached))
    ceiling = study.cohort.epsilon_if_secagg_fails_at_most
    if ceiling is not None and plan.epsilon_if_secagg_fails > ceiling:
        raise ConfigError(
            f"epsilon would be {plan.epsilon_if_secagg_fails:.3g} if secure aggregation failed, above "
            f'cohort.epsilon_if_secagg_fails_at_most = {ceiling}; use mode = "local" or a smaller epsilon'
        )
    return plan


def slots(study: Study, each: Sum, allowance: float) -> int:
    """Return the fixed number of slots whose overflow costs at most ``allowance`` of delta per round."""
    units, rate = study.privacy.units_per_site, each.sample_rate
    if rate == 1:
        return _whole_tiles(units)
    low, high = math.floor(units * rate), units
    while low < high:
        middle = (low + high) // 2
        if overflow_probability(units, rate, middle) <= allowance:
            high = middle
        else:
            low = middle + 1
    return _whole_tiles(low)


def _whole_tiles(count: int) -> int:
    return -(-max(count, 1) // _SLOT_MULTIPLE) * _SLOT_MULTIPLE


def _kinds(study: Study, sums: Sequence[Sum], noises: Sequence[float]) -> tuple[Kind, ...]:
    rounds = sum(each.rounds for each in sums)
    return tuple(_kind(study, each, noise, rounds) for each, noise in zip(sums, noises, strict=True))


def _kind(study: Study, each: Sum, noise: float, rounds: int) -> Kind:
    # An overflowing batch is cut; each such round costs (1 + e^epsilon) times its chance (arXiv 2411.04205).
    spare = study.privacy.delta * OVERFLOW_SHARE / (rounds * (1 + math.exp(study.privacy.epsilon)))
    count = slots(study, each, spare)
    draft = Kind(each, noise, count, 32)
    return Kind(each, noise, count, 32 if _fits(study, draft, 32) else 64)


def _fits(study: Study, kind: Kind, bits: int) -> bool:
    return box(study, bits) >= largest_entry(study, kind)


def box(study: Study, bits: int) -> float:
    """Return the largest grid value one site may submit so that the sum of all cannot wrap around."""
    sites = len(study.cohort.sites)
    return min((2 ** (bits - 1) - 1 - 16 * GRID * math.sqrt(sites)) / sites, 2**52)


def largest_entry(study: Study, kind: Kind) -> float:
    """Return the largest grid value a site's clipped sum can reach: all slots at the clip norm."""
    step = kind.grid_step(noise_shares(study, len(study.cohort.sites)))
    return kind.slots * kind.sum.clip_norm / step


def _total(study: Study, sums: Sequence[Sum], noises: Sequence[float]) -> float:
    return _epsilon_of(study, _kinds(study, sums, noises), 1.0)


def _epsilon_of(study: Study, kinds: Sequence[Kind], strength: float) -> float:
    events = [event(kind, study, kind.sum.rounds) for kind in kinds]
    weakened = [SampledGaussian(e.sample_rate, e.noise_multiplier * strength, e.count) for e in events]
    return epsilon(weakened, study.privacy.delta)


def _failures(study: Study, kinds: Sequence[Kind], reached: float) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Return epsilon with all other sites bad, and the curve over the number of bad sites."""
    sites, tolerated = len(study.cohort.sites), study.cohort.tolerated
    if study.privacy.mode == "local":
        return reached, tuple((bad, reached) for bad in range(tolerated, sites))
    curve = [(tolerated, reached)]
    curve += [
        (bad, _epsilon_of(study, kinds, math.sqrt((sites - bad) / (sites - tolerated))))
        for bad in range(tolerated + 1, sites)
    ]
    return curve[-1][1], tuple(curve)


def _least(good: Callable[[float], bool]) -> float:
    """Return the least noise in [0.3, 1e4] for which ``good`` holds, to a relative 1e-3."""
    low = high = _LEAST_NOISE
    while not good(high):
        low, high = high, high * 2
        if high > _LARGEST_NOISE:
            raise ConfigError("privacy.epsilon is too small to be met with any reasonable noise; allow more epsilon")
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def _round_up(noise: float) -> float:
    return math.ceil(noise * 1e4) / 1e4
