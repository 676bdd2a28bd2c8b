"""Poisson coins, uniform integers and secret subsets; keys are fixed, false alarms stated for random ones."""

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from synthfed.protocols.ids import digest
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.sampling import (
    poisson_sample,
    random_places,
    secret_subset,
    uniform_below,
    uniform_numbers,
)

FALSE_ALARM = 1e-6


def stream(name: str) -> KeyStream:
    return KeyStream(digest("test-sampling", name.encode()))


class Words(KeyStream):
    """A stream that returns the given words."""

    def __init__(self, *batches: list[int]) -> None:
        self._batches = list(batches)

    def words(self, count: int) -> np.ndarray:
        batch = self._batches.pop(0)
        assert len(batch) == count
        return np.array(batch, dtype=np.uint64)


def test_at_rate_one_every_unit_is_taken_without_a_coin() -> None:
    assert poisson_sample(Words(), 5, 1.0).tolist() == [0, 1, 2, 3, 4]


def test_at_a_rate_below_the_grid_no_unit_is_ever_taken() -> None:
    assert poisson_sample(Words([0, 1, 2**64 - 1]), 3, 2.0**-65).tolist() == []


def test_a_unit_is_taken_exactly_when_its_word_is_below_the_rate() -> None:
    half = 2**63
    assert poisson_sample(Words([0, half - 1, half, 2**64 - 1]), 4, 0.5).tolist() == [0, 1]


def test_the_largest_rate_below_one_still_leaves_units_out() -> None:
    rate = 1 - 2.0**-53
    assert poisson_sample(Words([2**64 - 2049, 2**64 - 2048]), 2, rate).tolist() == [0]


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_the_number_taken_is_binomial_and_the_units_are_alike(rate: float) -> None:
    """Two tests of false alarm 1e-6 each: the total, and chi-squared over ten blocks of units."""
    taken = poisson_sample(stream(str(rate)), 200_000, rate)
    assert stats.binomtest(len(taken), 200_000, rate).pvalue > FALSE_ALARM
    assert stats.chisquare(np.bincount(taken // 20_000, minlength=10)).pvalue > FALSE_ALARM
    assert (np.diff(taken) > 0).all()


def test_a_sample_is_a_function_of_the_key() -> None:
    one, again, other = (poisson_sample(stream(name), 1000, 0.5).tolist() for name in ("a", "a", "b"))
    assert one == again != other


def test_no_units_give_no_sample() -> None:
    assert poisson_sample(stream("none"), 0, 0.5).tolist() == []
    assert uniform_below(stream("none"), np.empty(0, dtype=np.int64)).tolist() == []


def test_words_that_would_favour_small_results_are_drawn_again() -> None:
    last = 2**64 - 1  # 2**64 is 1 modulo 3 and 0 modulo 4: only the first bound refuses it
    assert uniform_below(Words([last, last, 5], [last], [4]), np.array([3, 4, 1])).tolist() == [1, 3, 0]


@pytest.mark.parametrize("bound", [1, 2, 7, 2**62 + 1])
def test_integers_below_a_bound_are_uniform(bound: int) -> None:
    """Chi-squared over at most seven cells, false alarm 1e-6; at 2**62 + 1 plain remainders would fail it."""
    drawn = uniform_below(stream(str(bound)), np.full(100_000, bound, dtype=np.int64))
    assert drawn.min() >= 0
    assert drawn.max() < bound
    cells = min(bound, 7)
    counts = np.bincount([value * cells // bound for value in drawn.tolist()], minlength=cells)
    assert cells == 1 or stats.chisquare(counts).pvalue > FALSE_ALARM


def test_a_sample_that_fits_its_slots_is_kept_whole() -> None:
    chosen = np.array([3, 5, 9])
    assert secret_subset(Words(), chosen, 3).tolist() == [3, 5, 9]


def test_a_sample_beyond_its_slots_is_cut_in_secret_order_and_stays_sorted() -> None:
    assert secret_subset(Words([30, 10, 20, 40]), np.array([3, 5, 9, 11]), 2).tolist() == [5, 9]


def test_every_unit_is_cut_alike() -> None:
    """Chi-squared over the units kept in 4,000 cuts of 3 out of 8; false alarm below 1e-6."""
    coins, kept = stream("cut"), np.zeros(8)
    for _ in range(4000):
        kept[secret_subset(coins, np.arange(8), 3)] += 1
    assert stats.chisquare(kept).pvalue > FALSE_ALARM


def test_uniform_numbers_lie_strictly_inside_and_pass_a_test_of_uniformity() -> None:
    numbers = uniform_numbers(stream("numbers"), 5000, 4)
    assert numbers.shape == (5000, 4)
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > FALSE_ALARM


def test_the_least_and_the_greatest_word_give_numbers_inside_the_unit_interval() -> None:
    low, high = uniform_numbers(Words([0, 2**64 - 1]), 1, 2)[0]
    assert low == 2.0**-53
    assert high == 1 - 2.0**-53 < 1


def test_places_are_all_ways_to_put_units_into_slots_alike() -> None:
    """Chi-squared over the twelve ways to put two units into four slots; false alarm 1e-6."""
    source = stream("places")
    drawn = [tuple(random_places(source, 2, 4).tolist()) for _ in range(12_000)]
    ways, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(ways) == 12
    assert (ways[:, 0] != ways[:, 1]).all()
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_every_slot_is_taken_where_there_are_as_many_units() -> None:
    assert sorted(random_places(stream("full"), 64, 64).tolist()) == list(range(64))
    assert random_places(stream("none"), 0, 64).tolist() == []
