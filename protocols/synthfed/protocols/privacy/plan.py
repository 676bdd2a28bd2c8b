"""From a study's promise (epsilon, delta) to the noise of every sum, and what happens if it fails.

Never uses anything but declared constants: a plan is the same at every party.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import ConfigError, UnsupportedMechanism
from ..study import Study
from ..sums import GRID, SLOTS_AT_ONCE, TILE, Kind, Sum, noise_shares
from .accountant import OVERFLOW_SHARE, SampledGaussian, epsilon, overflow_probability
from .limits import check_ceiling, check_coins, check_floor, check_frames, check_steps

_LEAST_NOISE: Final = 0.3  # below this no mechanism deserves the name private
_LEAST_MU: Final = 1e-4
_TOLERANCE: Final = 2e-3
_SLACK: Final = 1e-6  # what a few more slots may add through float rounding
_LARGEST_EXPONENT: Final = 600.0
_UNIT_ROUNDOFF: Final = 2.0**-53


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study's terms amount to.

    Attributes:
        kinds: every sum with its noise multiplier, slots and ring.
        epsilon: of all caps together, towards the coordinator with the tolerated bad sites.
        epsilon_if_secagg_fails: the same when every other site's noise is known to the adversary.
        curve: epsilon when ``k`` sites are bad, for k = tolerated .. sites - 1, in the cohort that is
            worst for that k.
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


def charge(kind: Kind, study: Study, count: int) -> SampledGaussian:
    """Return what ``count`` rounds of a kind cost one unit at one site, as that site's ledger counts it.

    Each local step is a release of its own: that only the sum of them leaves makes a round no cheaper.
    """
    return SampledGaussian(kind.sum.sample_rate, accounted_multiplier(kind, study), count * kind.sum.steps)


def epsilon_by_sites(study: Study, plan: Plan, most: int = 3) -> tuple[tuple[int, float], ...]:
    """Return epsilon of all caps together to a unit that k sites hold, for k = 1 .. ``most``.

    Infinity where the slots, sized for the declared number of sites, overflow too often for k of them.
    """
    found = []
    for sites in range(1, most + 1):
        value = _epsilon_of(study, plan.kinds, 1.0, sites)
        spare = _spare(study, plan.kinds, value, sites)
        is_roomy = all(
            overflow_probability(study.privacy.units_per_site, kind.sum.sample_rate, kind.slots) <= spare
            for kind in plan.kinds
        )
        found.append((sites, value if is_roomy else math.inf))
    return tuple(found)


def make_plan(study: Study, sums: Sequence[Sum]) -> Plan:
    """Return the plan that spends the study's epsilon on the sums in proportion to their shares.

    Shares divide the squared parameter mu^2 of Gaussian differential privacy, which adds up over
    releases; the mu at which all caps together, accounted numerically, come just under epsilon is
    found by bisection.

    Raises:
        ConfigError: the promise cannot be met, falls too far if secure aggregation fails, or leaves one
            site's own noise below the study's floor; or a round has several steps and the mode is not `local`.
        UnsupportedMechanism: there is no sum, two have one name, or one's messages or coins are too many.
    """
    names = [each.name for each in sums]
    if not names or len(set(names)) != len(names):
        raise UnsupportedMechanism("a model must declare at least one sum, each under a name of its own")
    check_steps(study, sums)
    promise, delta = study.privacy.epsilon, study.privacy.delta
    kinds = _strongest(study, sums)
    check_frames(kinds)
    # An overflowing batch costs more where epsilon is larger: room for the worst case that is reported.
    kinds = _roomy(study, kinds, _epsilon_of(study, kinds, math.sqrt(_left(study)[-1][1])))
    reached = _epsilon_of(study, kinds, 1.0)
    if not reached <= promise:
        raise ConfigError(
            f"privacy.epsilon = {promise} with privacy.delta = {delta} cannot be met by any noise; promise a larger "
            "epsilon, or ask for fewer steps"
        )
    check_coins(kinds)
    curve = _curve(study, kinds)
    check_ceiling(study, curve[-1][1])
    check_floor(study, kinds)
    return Plan(kinds, reached, curve[-1][1], curve)


def slots(study: Study, each: Sum, allowance: float) -> int:
    """Return the fixed number of slots whose overflow costs at most ``allowance`` of delta per step."""
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
    """Return a count rounded up so that all batches of a kind have one shape.

    A matrix product may round a row differently in a batch of another height, and a unit that moves
    from one batch to the next must not change by that (docs/adr/0004).
    """
    multiple = TILE if count <= SLOTS_AT_ONCE else SLOTS_AT_ONCE
    return -(-max(count, 1) // multiple) * multiple


def _roomy(study: Study, kinds: Sequence[Kind], worst: float) -> tuple[Kind, ...]:
    """Return the kinds with slots whose overflow costs a tenth of delta even at the worst epsilon.

    A batch that exceeds its slots is cut; each such step costs (1 + e^epsilon) times its chance
    (arXiv 2411.04205).
    """
    spare = _spare(study, kinds, 1.01 * worst, study.privacy.sites_per_unit)
    return tuple(_kind(study, kind.sum, kind.noise_multiplier, spare) for kind in kinds)


def _spare(study: Study, kinds: Sequence[Kind], level: float, sites: int) -> float:
    """Return how often a batch may overflow so that all of them cost a tenth of delta at this epsilon."""
    chances = sites * sum(kind.sum.rounds * kind.sum.steps for kind in kinds)
    return study.privacy.delta * OVERFLOW_SHARE / (chances * (1 + math.exp(min(level, _LARGEST_EXPONENT))))


def _kind(study: Study, each: Sum, noise: float, spare: float) -> Kind:
    count = slots(study, each, spare)
    draft = Kind(each, noise, count, 32)
    return Kind(each, noise, count, 32 if _fits(study, draft, 32) else 64)


def _fits(study: Study, kind: Kind, bits: int) -> bool:
    return box(study, bits, kind.sum.steps) >= largest_entry(study, kind) / kind.sum.steps


def box(study: Study, bits: int, steps: int = 1) -> int:
    """Return the largest whole grid value of one site in one step so that the sum of all cannot wrap around.

    Args:
        study: the terms.
        bits: width of a word.
        steps: of a round, which are added up before they leave.
    """
    parts = len(study.cohort.sites) * steps
    return math.floor(min(((1 << (bits - 1)) - 1 - 16 * GRID * math.sqrt(parts)) / parts, 2**52))


def largest_entry(study: Study, kind: Kind) -> float:
    """Return the largest grid value a site's clipped sum of a round can reach: all slots at the clip norm."""
    step = kind.grid_step(noise_shares(study, len(study.cohort.sites)))
    return kind.sum.steps * kind.slots * kind.sum.clip_norm / step


def _epsilon_of(study: Study, kinds: Sequence[Kind], strength: float, sites: int | None = None) -> float:
    """Return epsilon of all caps to a unit that so many sites hold (the declared number if none is given)."""
    held = study.privacy.sites_per_unit if sites is None else sites
    costs = [charge(kind, study, kind.sum.rounds) for kind in kinds]
    events = [SampledGaussian(e.sample_rate, e.noise_multiplier * strength, e.count, held) for e in costs]
    return epsilon(events, study.privacy.delta)


def _curve(study: Study, kinds: Sequence[Kind]) -> tuple[tuple[int, float], ...]:
    """Return epsilon over the number of bad sites."""
    points = _left(study)
    known = {left: _epsilon_of(study, kinds, math.sqrt(left)) for left in {left for _, left in points}}
    return tuple((bad, known[left]) for bad, left in points)


def _left(study: Study) -> list[tuple[int, float]]:
    """Return the part of the noise's variance that is left among the others, over the number of bad sites.

    It is (cohort - bad) / (cohort - tolerated), least in the smallest cohort, which the coordinator may choose.
    """
    tolerated, points = study.cohort.tolerated, []
    for bad in range(tolerated, len(study.cohort.sites)):
        cohort = max(study.cohort.quorum, bad + 1)
        left = 1.0 if study.privacy.mode == "local" else (cohort - bad) / (cohort - tolerated)
        points.append((bad, left))
    return points


def _strongest(study: Study, sums: Sequence[Sum]) -> tuple[Kind, ...]:
    """Return the kinds with the least noise, to 0.2 %, whose composition keeps the promise."""
    promise = study.privacy.epsilon * (1 - _SLACK)
    guess = _gaussian_mu(promise, study.privacy.delta) / study.privacy.sites_per_unit
    low, high = guess / 2, guess * 1.2  # accounting for sampling and rounding moves it by less
    kinds = _with_mu(study, sums, low)
    while _epsilon_of(study, kinds, 1.0) > promise and low > _LEAST_MU:
        low, high = low / 2, low
        kinds = _with_mu(study, sums, low)
    while high - low > _TOLERANCE * high:
        middle = (low + high) / 2
        tried = _with_mu(study, sums, middle)
        if _epsilon_of(study, tried, 1.0) <= promise:
            low, kinds = middle, tried
        else:
            high = middle
    return kinds


def _with_mu(study: Study, sums: Sequence[Sum], mu: float) -> tuple[Kind, ...]:
    whole = sum(each.share for each in sums)
    drafts = [Kind(each, _noise_for(each, mu * math.sqrt(each.share / whole)), 1, 32) for each in sums]
    return _roomy(study, drafts, study.privacy.epsilon)


def _noise_for(each: Sum, mu: float) -> float:
    """Return the noise multiplier at which all steps of a sum together are about mu-Gaussian private.

    Exact without sampling; with sampling the central limit theorem of Bu, Dong, Long and Su (2020,
    doi:10.1162/99608f92.cfc5dd25): mu = q sqrt(steps (exp(1 / noise^2) - 1)). It only divides the
    budget; what is promised is accounted for numerically.
    """
    steps = each.rounds * each.steps
    if each.sample_rate == 1:
        noise = math.sqrt(steps) / mu
    else:
        noise = 1 / math.sqrt(math.log1p((mu / each.sample_rate) ** 2 / steps))
    return _round_up(max(noise, _LEAST_NOISE))


def _gaussian_mu(promise: float, delta: float) -> float:
    """Return mu such that mu-Gaussian privacy is just (promise, delta): Dong, Roth, Su (2022), corollary 2.13."""

    def spare(mu: float) -> float:
        upper, lower = -promise / mu + mu / 2, -promise / mu - mu / 2
        return delta - _normal(upper) + math.exp(promise) * _normal(lower)

    low, high = _LEAST_MU, 100.0
    while high - low > _TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if spare(middle) >= 0 else (low, middle)
    return low


def _normal(value: float) -> float:
    """Return the standard normal distribution function."""
    return math.erfc(-value / math.sqrt(2)) / 2


def _round_up(noise: float) -> float:
    return math.ceil(noise * 1e4) / 1e4
