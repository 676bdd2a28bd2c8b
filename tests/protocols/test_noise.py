"""The discrete Gaussian against exact probabilities.

All keys are fixed, so nothing here fails by chance; were the keys random, each statistical test
would raise a false alarm with the chance stated beside it.
"""

import math

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from synthfed.protocols.ids import digest
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import (
    _discrete_laplace,
    _exp_coins,
    _fraction_coins,
    _geometric,
    _one_in,
    discrete_gaussian,
)

ONE = 2**37  # the exponent 1 of `_exp_coins`
FALSE_ALARM = 1e-6


def stream(name: str) -> KeyStream:
    return KeyStream(digest("test-noise", name.encode()))


class Scripted(KeyStream):
    """A stream whose first words are given; then it goes on as its key says."""

    def __init__(self, *batches: list[int]) -> None:
        super().__init__(bytes(32))
        self._batches = list(batches)

    def words(self, count: int) -> np.ndarray:
        if not self._batches:
            return super().words(count)
        batch = np.array(self._batches.pop(0), dtype=np.uint64)
        assert len(batch) == count
        batch.flags.writeable = False  # as the words of a real stream are
        return batch


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


def test_draws_at_scale_eight_have_the_exact_probabilities() -> None:
    x = np.arange(-100, 101)
    weights = folded(np.exp(-(x**2) / (2 * 8.0**2)), 100, 28)
    assert fits(discrete_gaussian(stream("chi"), 400_000, 3), weights, 28) > FALSE_ALARM


def test_the_laplace_proposals_at_scale_eight_have_the_exact_probabilities() -> None:
    x = np.arange(-300, 301)
    weights = folded(np.exp(-np.abs(x) / 8.0), 300, 60)
    assert fits(_discrete_laplace(stream("laplace"), 400_000, 3), weights, 60) > FALSE_ALARM


def test_draws_at_the_working_scale_have_the_moments_of_the_gaussian() -> None:
    """Mean, variance, kurtosis and the law itself, each with false alarm below 1e-6 (5 standard errors)."""
    count = 400_000
    scaled = discrete_gaussian(stream("moments"), count, 18) / 2**18
    assert abs(scaled.mean()) < 5 / math.sqrt(count)
    assert abs(scaled.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((scaled**4).mean() - 3) < 5 * math.sqrt(96 / count)
    assert stats.kstest(scaled, "norm").pvalue > FALSE_ALARM


def test_draws_are_symmetric() -> None:
    draws = discrete_gaussian(stream("symmetry"), 200_000, 3)
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


@pytest.mark.parametrize("bits", [2, 19, 0, -1])
def test_a_scale_outside_the_exact_arithmetic_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="between 3 and 18"):
        discrete_gaussian(stream("scale"), 1, bits)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_exponential_coins_come_up_with_probability_exp_minus_x(share: float) -> None:
    coins = _exp_coins(stream(f"exp {share}"), np.full(200_000, int(share * ONE)))
    assert stats.binomtest(int(coins.sum()), len(coins), math.exp(-share)).pvalue > FALSE_ALARM


def test_fraction_coins_compare_with_the_words_top_bits_exactly() -> None:
    top = 1 << 27
    words = [4 * top, 5 * top - 1, 5 * top, 2**64 - 1]
    assert _fraction_coins(Scripted(words), np.array([5, 5, 5, ONE])).tolist() == [True, True, False, True]


def test_geometric_draws_have_the_exact_probabilities() -> None:
    draws = _geometric(stream("geometric"), 200_000)
    counts = np.bincount(np.minimum(draws, 8), minlength=9)
    exact = np.exp(-np.arange(9.0)) * (1 - np.exp(-1))
    exact[8] = np.exp(-8.0)
    assert stats.chisquare(counts, exact * len(draws)).pvalue > FALSE_ALARM


def test_a_coin_of_one_side_always_comes_up_and_takes_no_words() -> None:
    assert _one_in(Scripted([1]), 1, 5).tolist() == [True] * 5


def test_a_coin_of_three_sides_draws_the_uneven_last_word_again() -> None:
    uneven = 2**64 - 1  # 2**64 is 1 modulo 3, so this one word would favour the side 0
    assert _one_in(Scripted([3, uneven, 4], [uneven], [6]), 3, 3).tolist() == [True, True, False]


@pytest.mark.parametrize("sides", [2, 3, 7])
def test_a_coin_of_k_sides_comes_up_once_in_k(sides: int) -> None:
    heads = int(_one_in(stream(f"sides {sides}"), sides, 200_000).sum())
    assert stats.binomtest(heads, 200_000, 1 / sides).pvalue > FALSE_ALARM
