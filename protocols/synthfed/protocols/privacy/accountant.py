"""Privacy loss: from frozen events to (epsilon, delta), by numerically composed loss distributions.

Never estimates optimistically, and never accepts an event it cannot bound.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import UnsupportedMechanism

# Width of the loss grid at noise 1; losses are rounded towards more loss, so coarser is only looser.
_INTERVAL: Final = 1e-3
_MIXTURE_INTERVAL: Final = 4e-3  # a mixture's distribution takes forty times as long to build
OVERFLOW_SHARE: Final = 0.1
"""The part of delta set aside for batches that exceed their slots; the accountant uses the rest."""


@dataclass(frozen=True, slots=True)
class SampledGaussian:
    """``count`` releases of a Poisson-sampled sum of norm-1 vectors with Gaussian noise.

    Attributes:
        sample_rate: probability that one unit takes part, in (0, 1].
        noise_multiplier: noise std over the sum's sensitivity to one unit at one site, above 0.
        count: number of independent releases, at least 0.
        sites: how many sites hold the unit; each tosses a coin of its own for it.
    """

    sample_rate: float
    noise_multiplier: float
    count: int
    sites: int = 1

    def __post_init__(self) -> None:
        """Refuse parameters outside the mechanism's domain."""
        is_noised = 0 < self.noise_multiplier < math.inf
        if not (0 < self.sample_rate <= 1 and is_noised and self.count >= 0 and self.sites >= 1):
            raise UnsupportedMechanism(
                "a sampled Gaussian needs 0 < sample_rate <= 1, noise_multiplier > 0, count >= 0, sites >= 1"
            )

    @property
    def is_mixture(self) -> bool:
        """Whether the number of the unit's contributions to one release varies beyond none and one."""
        return self.sites > 1 and self.sample_rate < 1


def epsilon(events: Sequence[SampledGaussian], delta: float) -> float:
    """Return the least provable epsilon of all events together, adding or removing one unit.

    The loss distributions are discretised pessimistically (connect-the-dots) and composed by
    convolution; both the adding and the removing direction are bounded (Doroshenko et al. 2022,
    doi:10.56553/popets-2022-0122, as implemented by dp-accounting). A unit that k sites hold adds as
    many vectors as coins come up, at worst in one direction: the mixture of Gaussians with means
    0 .. k weighted by Binomial(k, sample_rate) (Choquette-Choo et al. 2023, arXiv 2310.15526).

    Args:
        events: any order; the composition is adaptive.
        delta: total failure probability, in (0, 1); a tenth of it pays for slot overflow.

    Returns:
        epsilon, at least 0; infinity where no finite bound was found.

    Raises:
        UnsupportedMechanism: for an event that is not a SampledGaussian.

    >>> round(epsilon([SampledGaussian(0.01, 1.0, 1000)], 1e-5), 2)
    1.84
    >>> epsilon([], 1e-5)
    0.0
    """
    return _epsilon(tuple(_merged(events)), delta)


# A function of nothing but its arguments, which takes a tenth of a second and which planning, checks, gates and reports
# ask again and again about the same study.
@functools.lru_cache(maxsize=1024)
def _epsilon(merged: tuple[SampledGaussian, ...], delta: float) -> float:
    interval = _interval(merged)
    total = None
    for event in merged:
        loss = _distribution(event, interval)
        total = loss if total is None else total.compose(loss)
    if total is None:
        return 0.0
    return max(0.0, float(total.get_epsilon_for_delta(delta * (1 - OVERFLOW_SHARE))))


def _merged(events: Sequence[SampledGaussian]) -> list[SampledGaussian]:
    """Return the events with equal mechanisms counted together, in a fixed order."""
    counts: dict[tuple[float, float, int], int] = {}
    for event in events:
        if type(event) is not SampledGaussian:
            raise UnsupportedMechanism(f"cannot account for an event of type {type(event).__name__}")
        mechanism = (event.sample_rate, event.noise_multiplier, event.sites)
        counts[mechanism] = counts.get(mechanism, 0) + event.count
    return [
        SampledGaussian(rate, noise, count, sites) for (rate, noise, sites), count in sorted(counts.items()) if count
    ]


def _interval(events: Sequence[SampledGaussian]) -> float:
    """Return the loss grid's width: coarser where little noise makes losses large, so that memory is bounded."""
    weakest = min((event.noise_multiplier for event in events), default=1.0)
    finest = _MIXTURE_INTERVAL if any(event.is_mixture for event in events) else _INTERVAL
    return finest * max(1.0, 1 / weakest**2)


def _distribution(event: SampledGaussian, interval: float) -> Any:
    # Imported here so that reading a study or printing help does not load scipy.
    from dp_accounting.pld import privacy_loss_distribution

    if event.is_mixture:
        k, q = event.sites, event.sample_rate
        single = privacy_loss_distribution.from_mixture_gaussian_mechanism(
            event.noise_multiplier,
            sensitivities=range(k + 1),
            sampling_probs=[math.comb(k, held) * q**held * (1 - q) ** (k - held) for held in range(k + 1)],
            value_discretization_interval=interval,
            pessimistic_estimate=True,
            use_connect_dots=True,
        )
    else:
        single = privacy_loss_distribution.from_gaussian_mechanism(
            event.noise_multiplier / event.sites,
            sampling_prob=event.sample_rate,
            value_discretization_interval=interval,
            pessimistic_estimate=True,
            use_connect_dots=True,
        )
    return single.self_compose(event.count) if event.count > 1 else single


def overflow_probability(units: int, sample_rate: float, slots: int) -> float:
    """Return an upper bound on the chance that more than ``slots`` of ``units`` units are sampled.

    Chernoff's bound exp(-units * KL(x || sample_rate)) with x = (slots + 1) / units.

    >>> overflow_probability(10, 0.5, 10)
    0.0
    """
    if slots >= units:
        return 0.0
    share = (slots + 1) / units
    if share <= sample_rate:
        return 1.0
    divergence = share * math.log(share / sample_rate)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - sample_rate))
    return math.exp(-units * divergence)
