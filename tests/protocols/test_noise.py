"""The discrete Gaussian against exact probabilities.

All keys are fixed but in the comparison with opendp, so nothing else here fails by chance; were the keys
random, each statistical test would raise a false alarm with the chance stated beside it.
"""

import math
import os
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import opendp.prelude as opendp
import pytest
from scipy import stats  # type: ignore[import-untyped]

from synthfed.protocols.ids import digest
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy import noise
from synthfed.protocols.privacy.noise import _cells, _exp, _exp_coins, _staircase, discrete_gaussian

FALSE_ALARM = 1e-6


def stream(name: str) -> KeyStream:
    return KeyStream(digest("test-noise", name.encode()))


class Scripted(KeyStream):
    """A stream that has these further bits to give, and no others."""

    def __init__(self, *bits: int) -> None:
        super().__init__(bytes(32))
        self._bits = list(bits)

    def read(self, size_bytes: int) -> bytes:
        return self._bits.pop(0).to_bytes(size_bytes, "little")


def fits(draws: np.ndarray, weights: np.ndarray, reach: int) -> float:
    """Return the chi-squared p-value of integers in -reach .. reach; what lies beyond joins the ends."""
    counts = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=2 * reach + 1)
    return float(stats.chisquare(counts, weights / weights.sum() * len(draws)).pvalue)


def folded(weight: np.ndarray, middle: int, reach: int) -> np.ndarray:
    """Return the weights of -reach .. reach, with all that lies beyond added to the ends."""
    inner = weight[middle - reach : middle + reach + 1].copy()
    inner[0] += weight[: middle - reach].sum()
    inner[-1] += weight[middle + reach + 1 :].sum()
    return inner


@pytest.mark.parametrize("bits", [4, 5])
def test_draws_at_a_small_scale_have_the_exact_probabilities(bits: int) -> None:
    scale, x = 2**bits, np.arange(-400, 401)
    weights = folded(np.exp(-(x**2) / (2.0 * scale**2)), 400, 4 * scale)
    assert fits(discrete_gaussian(stream("chi"), 400_000, bits), weights, 4 * scale) > FALSE_ALARM


@pytest.mark.parametrize("bits", [4, 18])
def test_draws_have_the_law_of_the_slow_exact_sampler_of_opendp(bits: int) -> None:
    """The other sampler draws from the operating system: false alarm below 1e-6 on each run."""
    count = 20_000
    domain, metric = opendp.vector_domain(opendp.atom_domain(T="i64")), opendp.l2_distance(T=float)
    opendp.enable_features("contrib")  # where opendp keeps what nobody has audited for it
    theirs = np.array(opendp.m.make_gaussian(domain, metric, scale=float(2**bits))([0] * count))
    ours = discrete_gaussian(KeyStream(os.urandom(32)), count, bits)
    cuts = np.quantile(ours, np.linspace(0, 1, 41)[1:-1])
    table = [np.bincount(np.searchsorted(cuts, draws), minlength=40) for draws in (ours, theirs)]
    occupied = np.sum(table, axis=0) > 0
    assert stats.chi2_contingency(np.array(table)[:, occupied]).pvalue > FALSE_ALARM


def test_draws_at_the_working_scale_have_the_moments_of_the_gaussian() -> None:
    """Mean, variance, kurtosis and the law itself, each with false alarm below 1e-6 (5 standard errors)."""
    count = 400_000
    scaled = discrete_gaussian(stream("moments"), count, 18) / 2**18
    assert abs(scaled.mean()) < 5 / math.sqrt(count)
    assert abs(scaled.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((scaled**4).mean() - 3) < 5 * math.sqrt(96 / count)
    assert stats.kstest(scaled, "norm").pvalue > FALSE_ALARM


def test_draws_are_symmetric() -> None:
    draws = discrete_gaussian(stream("symmetry"), 200_000, 4)
    positive, negative = int((draws > 0).sum()), int((draws < 0).sum())
    assert stats.binomtest(positive, positive + negative).pvalue > FALSE_ALARM
    assert stats.ks_2samp(draws[draws > 0], -draws[draws < 0]).pvalue > FALSE_ALARM


def test_neighbouring_draws_are_not_correlated() -> None:
    draws = discrete_gaussian(stream("lag"), 200_000, 18) / 2**18
    assert abs(float((draws[1:] * draws[:-1]).mean())) < 5 / math.sqrt(len(draws))


def test_draws_are_a_function_of_the_key() -> None:
    one, again, other = (discrete_gaussian(stream(name), 1000, 18) for name in ("one", "one", "other"))
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.99


@pytest.mark.parametrize("count", [0, 1, 63, 65, 40_000])
def test_as_many_draws_come_as_were_asked_for(count: int) -> None:
    draws = discrete_gaussian(stream("count"), count, 10)
    assert draws.shape == (count,)
    assert draws.dtype == np.int64


@pytest.mark.parametrize("bits", [3, 19, 0, -1])
def test_a_scale_outside_the_exact_arithmetic_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="between 4 and 18"):
        discrete_gaussian(stream("scale"), 1, bits)


@pytest.mark.parametrize(("numerator", "unit_bits"), [(0, 3), (1, 37), (13 * 13, 9), (511 * 511, 9), (2**38, 37)])
def test_the_exponential_is_right_to_its_last_bit(numerator: int, unit_bits: int) -> None:
    with localcontext(prec=300):
        exact = (Decimal(-numerator) / Decimal(2**unit_bits)).exp() * Decimal(2) ** 640
    assert abs(_exp(numerator, unit_bits) - int(exact)) <= 1


def test_the_staircase_gives_every_cell_its_exact_share() -> None:
    table = _staircase()
    full = 1 << 55 + 640
    own = [(int(top) << 640) + rest for top, rest in zip(table.tops, table.rests, strict=True)]
    shares = dict.fromkeys(range(512), 0)
    for column, mass in enumerate(own):
        assert 0 <= mass <= full
        shares[column] += mass
        shares[int(table.aliases[column])] += full - mass
    weights = [_exp(cell * cell, 9) for cell in range(512)]
    for cell, share in shares.items():
        assert abs(Fraction(share, 512 * full) - Fraction(weights[cell], sum(weights))) < Fraction(1, 2**690)


@pytest.mark.parametrize(("rest", "is_own"), [(-1, True), (0, False)])
def test_a_choice_that_ties_is_settled_by_the_bits_that_follow(rest: int, is_own: bool) -> None:
    table = _staircase()
    column = next(i for i, rest_ in enumerate(table.rests) if rest_ and table.aliases[i] != i)
    word = (column << 55) + int(table.tops[column])
    (cell,) = _cells(Scripted(table.rests[column] + rest), np.array([word], dtype=np.uint64))
    assert bool(cell == column) is is_own


@pytest.mark.parametrize(("rest", "is_up"), [(-1, True), (0, False)])
def test_a_coin_that_ties_is_settled_by_the_bits_that_follow(rest: int, is_up: bool) -> None:
    top, bottom = divmod(_exp(2**36, 37) << 49, 2**640)
    up = _exp_coins(Scripted(bottom + rest), np.array([top]), np.array([2**36]), 37)
    assert up.tolist() == [is_up]


@pytest.mark.parametrize(("off", "is_up"), [(-1025, True), (1026, False)])
def test_a_coin_that_is_clear_takes_no_further_bits(off: int, is_up: bool) -> None:
    top = _exp(2**36, 37) >> 640 - 49
    assert _exp_coins(Scripted(), np.array([top + off]), np.array([2**36]), 37).tolist() == [is_up]


def test_the_law_is_the_same_where_integers_settle_every_coin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_MARGIN", math.inf)
    x = np.arange(-200, 201)
    weights = folded(np.exp(-(x**2) / (2 * 64.0**2)), 200, 150)
    draws = discrete_gaussian(stream("late"), 20_000, 6)
    edges = np.arange(-150, 151) // 15 + 10
    counts = np.bincount(edges[np.clip(draws, -150, 150) + 150])
    expected = np.bincount(edges, weights=weights)
    assert stats.chisquare(counts, expected / expected.sum() * len(draws)).pvalue > FALSE_ALARM


def test_the_float_exponential_errs_less_than_a_thousandth_of_the_margin() -> None:
    exponents = np.random.default_rng(5).integers(0, 2**38, 2000)
    floats = np.exp(exponents * -(2.0**-37)) * 2.0**49
    exact = [_exp(int(exponent), 37) / 2**591 for exponent in exponents]
    assert np.abs(floats - exact).max() < 1
