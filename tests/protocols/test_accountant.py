"""Privacy loss against known values, other accountants and exact tails."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from synthfed.protocols.errors import UnsupportedMechanism
from synthfed.protocols.privacy.accountant import (
    OVERFLOW_SHARE,
    SampledGaussian,
    _merged,
    epsilon,
    overflow_probability,
)

BASE = SampledGaussian(0.01, 1.0, 1000)
DELTA = 1e-5
WHOLE = DELTA / (1 - OVERFLOW_SHARE)  # so that the accountant itself works at DELTA


@pytest.fixture(scope="module")
def base() -> float:
    return epsilon([BASE], WHOLE)


def renyi_bound(event: SampledGaussian, delta: float) -> float:
    """Return an upper bound on epsilon by Renyi divergence at whole orders (Mironov, Talwar, Zhang 2019)."""

    def divergence(order: int) -> float:
        q, variance = event.sample_rate, event.noise_multiplier**2
        terms = [
            math.log(math.comb(order, k)) + k * math.log(q) + (order - k) * math.log1p(-q) + (k * k - k) / 2 / variance
            for k in range(order + 1)
        ]
        top = max(terms)
        return (top + math.log(sum(math.exp(term - top) for term in terms))) / (order - 1)

    return min(
        event.count * divergence(order) + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        for order in range(2, 64)
    )


def test_the_base_case_has_the_published_epsilon(base: float) -> None:
    assert base == pytest.approx(1.828, abs=0.005)


def test_a_tenth_of_delta_is_set_aside(base: float) -> None:
    assert epsilon([BASE], DELTA) > base
    assert epsilon([BASE], DELTA) == pytest.approx(1.843, abs=0.005)


@pytest.mark.parametrize("event", [BASE, SampledGaussian(0.05, 1.0, 500)])
def test_epsilon_stays_below_the_renyi_bound_and_near_it(event: SampledGaussian) -> None:
    ours, bound = epsilon([event], WHOLE), renyi_bound(event, DELTA)
    assert 0.8 * bound < ours < bound


def test_epsilon_agrees_with_opacus(base: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other library's own
        from opacus.accountants import PRVAccountant

        prv = PRVAccountant()
        prv.history = [(BASE.noise_multiplier, BASE.sample_rate, BASE.count)]
        theirs = prv.get_epsilon(DELTA)
    assert base == pytest.approx(theirs, abs=0.03)


def test_one_release_without_sampling_is_the_exact_gaussian_mechanism() -> None:
    found = epsilon([SampledGaussian(1.0, 2.0, 1)], WHOLE)

    def delta_at(level: float) -> float:  # Balle and Wang 2018, theorem 8
        upper, lower = 0.25 - 2 * level, -0.25 - 2 * level
        return float(stats.norm.cdf(upper) - math.exp(level) * stats.norm.cdf(lower))

    assert delta_at(found) <= DELTA * (1 + 1e-6)
    assert delta_at(found - 0.01) > DELTA


def test_releases_without_sampling_add_up_as_one_with_less_noise() -> None:
    many, one = epsilon([SampledGaussian(1.0, 4.0, 16)], WHOLE), epsilon([SampledGaussian(1.0, 1.0, 1)], WHOLE)
    assert many == pytest.approx(one, rel=0.01)


@pytest.mark.parametrize("rate", [0.01, 0.5, 0.9])
def test_one_sampled_release_is_private_in_both_directions_and_not_much_looser_than_the_worse(rate: float) -> None:
    noise, delta = 0.7, 1e-3
    found = epsilon([SampledGaussian(rate, noise, 1)], delta / (1 - OVERFLOW_SHARE))

    def deltas_at(level: float) -> tuple[float, float]:
        """Return the hockey-stick divergences for removing and adding the unit, integrated numerically."""
        x, step = np.linspace(-15, 16, 400_001, retstep=True)
        without = stats.norm.pdf(x, 0, noise)
        present = (1 - rate) * without + rate * stats.norm.pdf(x, 1, noise)
        removing = np.maximum(present - math.exp(level) * without, 0).sum() * step
        adding = np.maximum(without - math.exp(level) * present, 0).sum() * step
        return float(removing), float(adding)

    assert max(deltas_at(found)) <= delta * (1 + 1e-3)
    assert max(deltas_at(found - 0.01)) > delta


def test_many_releases_are_accounted_in_the_worse_direction(base: float) -> None:
    from dp_accounting.pld import privacy_loss_distribution

    single = privacy_loss_distribution.from_gaussian_mechanism(
        BASE.noise_multiplier, sampling_prob=BASE.sample_rate, value_discretization_interval=1e-3
    )
    one_way = [loss.self_compose(BASE.count) for loss in (single._pmf_remove, single._pmf_add)]
    remove, add = (float(loss.get_epsilon_for_delta(DELTA)) for loss in one_way)
    assert add == pytest.approx(1.418, abs=0.005)
    assert base == pytest.approx(max(remove, add), rel=1e-6)


def test_epsilon_rises_with_the_count_and_falls_with_the_noise(base: float) -> None:
    assert epsilon([SampledGaussian(0.01, 1.0, 500)], WHOLE) < base < epsilon([SampledGaussian(0.01, 1.0, 1500)], WHOLE)
    assert epsilon([SampledGaussian(0.01, 1.2, 1000)], WHOLE) < base
    assert epsilon([SampledGaussian(0.02, 1.0, 1000)], WHOLE) > base
    assert epsilon([BASE], DELTA / 10) > base


def test_equal_events_are_merged_and_their_order_does_not_matter(base: float) -> None:
    parts = [SampledGaussian(0.01, 1.0, count) for count in (300, 0, 700)]
    assert _merged(parts) == [BASE]
    assert epsilon(parts, WHOLE) == base
    two = [SampledGaussian(0.1, 2.0, 5), SampledGaussian(1.0, 3.0, 1)]
    assert _merged(two) == _merged(two[::-1])
    assert epsilon(two, DELTA) > max(epsilon(two[:1], DELTA), epsilon(two[1:], DELTA))


def test_nothing_costs_nothing() -> None:
    assert epsilon([], DELTA) == 0.0
    assert epsilon([SampledGaussian(0.1, 1.0, 0)], DELTA) == 0.0


def test_an_event_of_an_unknown_type_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Cheaper(SampledGaussian):
        """A subclass may mean anything, so it is unknown too."""

    for event in ("gaussian", Cheaper(0.1, 1.0, 1)):
        with pytest.raises(UnsupportedMechanism, match=f"type {type(event).__name__}"):
            epsilon([event], DELTA)  # type: ignore[list-item]


@pytest.mark.parametrize(
    "parameters",
    [(0.0, 1.0, 1), (1.1, 1.0, 1), (-0.1, 1.0, 1), (0.1, 0.0, 1), (0.1, -1.0, 1), (0.1, math.inf, 1), (0.1, 1.0, -1),
     (math.nan, 1.0, 1), (0.1, math.nan, 1)],
)  # fmt: skip
def test_parameters_outside_the_mechanism_are_refused(parameters: tuple[float, float, int]) -> None:
    with pytest.raises(UnsupportedMechanism, match="sampled Gaussian needs"):
        SampledGaussian(*parameters)


@pytest.mark.parametrize("units", [1, 10, 1000, 100_000])
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.999])
def test_the_overflow_bound_is_above_the_true_binomial_tail(units: int, rate: float) -> None:
    deviation = math.sqrt(units * rate * (1 - rate))
    for away in (-2, 0, 1, 3, 7, 10):
        slots = min(max(int(units * rate + away * deviation), 0), units)
        bound, exact = overflow_probability(units, rate, slots), float(stats.binom.sf(slots, units, rate))
        assert exact <= bound * (1 + 1e-9) <= 1 + 1e-9


def test_the_overflow_bound_is_zero_where_all_units_fit_and_exact_where_all_but_one_do() -> None:
    assert overflow_probability(10, 0.5, 10) == 0.0
    assert overflow_probability(10, 0.5, 9) == pytest.approx(0.5**10)
    assert overflow_probability(10, 1.0, 9) == 1.0


# A unit that several sites hold.


@pytest.mark.parametrize(("sites", "published"), [(2, 3.98), (3, 6.34)])
def test_a_unit_at_several_sites_has_the_computed_epsilon(sites: int, published: float) -> None:
    found = epsilon([SampledGaussian(0.01, 1.0, 1000, sites)], WHOLE)
    assert found == pytest.approx(published, abs=0.02)


@pytest.mark.parametrize(("rate", "noise", "sites"), [(0.1, 1.0, 2), (0.3, 2.0, 3), (0.05, 0.7, 4)])
def test_one_release_of_a_unit_at_several_sites_is_bounded_tightly_in_both_directions(
    rate: float, noise: float, sites: int
) -> None:
    """Compared with the hockey-stick divergence by quadrature, without any library for privacy."""
    found = epsilon([SampledGaussian(rate, noise, 1, sites)], WHOLE)
    x = np.linspace(-20 * noise, sites + 20 * noise, 400_001)
    held = np.arange(sites + 1)
    weights = stats.binom.pmf(held, sites, rate)
    present = (stats.norm.pdf(x[:, None], held, noise) * weights).sum(1)
    absent = stats.norm.pdf(x, 0, noise)

    def delta_at(level: float) -> float:
        gaps = (present - math.exp(level) * absent, absent - math.exp(level) * present)
        return max(float(np.trapezoid(np.maximum(gap, 0), x)) for gap in gaps)

    assert delta_at(found) <= DELTA
    assert delta_at(found - 0.05) > DELTA


def test_without_sampling_a_unit_at_two_sites_counts_twice() -> None:
    held, doubled = SampledGaussian(1.0, 4.0, 5, 2), SampledGaussian(1.0, 2.0, 5)
    assert epsilon([held], WHOLE) == pytest.approx(epsilon([doubled], WHOLE), rel=1e-9)


def test_one_coin_more_costs_more_but_a_coin_at_one_site_is_the_plain_mechanism() -> None:
    alone = SampledGaussian(0.1, 2.0, 50, 1)
    assert epsilon([alone], WHOLE) == epsilon([SampledGaussian(0.1, 2.0, 50)], WHOLE)
    epsilons = [epsilon([SampledGaussian(0.1, 2.0, 50, sites)], WHOLE) for sites in (1, 2, 3)]
    assert epsilons == sorted(epsilons)
    assert epsilons[2] > 2 * epsilons[0]


def test_a_unit_at_no_site_is_refused() -> None:
    with pytest.raises(UnsupportedMechanism, match="sites >= 1"):
        SampledGaussian(0.1, 1.0, 1, 0)
