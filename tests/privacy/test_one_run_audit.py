"""The audit in one run of a whole federation: what sums and weights prove about epsilon, beside what is claimed."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]
from tests.privacy.marked import DELTA, audited
from tests.privacy.one_run import guesses_by_sums, guesses_by_weights

from synthfed.plugins.api import Array
from synthfed.plugins.audits.one_run import Guesses, guess


@pytest.mark.parametrize(("claimed", "fair"), [(1.0, 0.0), (8.0, 0.25)])
def test_neither_sums_nor_weights_prove_more_than_is_claimed_and_sums_prove_a_fair_part_of_it(
    tmp_path: Path, claimed: float, fair: float, record_property: Callable[[str, object], None]
) -> None:
    """In 12 runs the sums proved 1.69 of 8, deviation 0.32, and 0.10 of 1, deviation 0.12: 4 from the ends."""
    with audited(tmp_path / "study", claimed) as federation:
        federation.train()
        seen = federation.seen()
    for source, found in (("sums", guesses_by_sums(seen)), ("weights", guesses_by_weights(seen))):
        proven, ceiling = found.lower_bound(DELTA), found.ceiling(DELTA)
        record_property("audit", f"{source}: claimed {claimed:g}, proven {proven:.2f} of at most {ceiling:.2f}")
        assert proven <= claimed
        assert source == "weights" or proven >= fair


def test_guesses_that_are_all_right_prove_as_much_as_their_number_allows() -> None:
    """Without delta, v of v right guesses have probability (e^epsilon / (1 + e^epsilon))^v."""
    proven = Guesses(1000, 100, 100).lower_bound(0.0)
    assert (1 / (1 + math.exp(-proven))) ** 100 == pytest.approx(0.05, rel=1e-6)
    assert Guesses(1000, 100, 100).ceiling(0.0) == pytest.approx(proven)
    assert Guesses(1000, 100, 60).ceiling(0.0) == pytest.approx(proven)


def test_a_coin_proves_nothing_and_more_delta_proves_less() -> None:
    assert Guesses(1000, 200, 100).lower_bound(0.0) == 0.0
    bounds = [Guesses(1000, 200, 150).lower_bound(delta) for delta in (0.0, 1e-5, 1e-3)]
    assert bounds[0] >= bounds[1] > bounds[2]


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_the_bound_holds_for_randomised_response_as_often_as_it_says(epsilon: float) -> None:
    """Coins told truly with the largest probability that epsilon allows: the bound passes epsilon in 1 of 20 runs.

    Of 400 runs at most 38 may, which a sound bound exceeds with probability below 1e-4.
    """
    rng, truth = np.random.default_rng(5), 1 / (1 + math.exp(-epsilon))
    right = rng.binomial(500, truth, size=400)
    found, places = np.unique(right, return_inverse=True)
    bounds = np.array([Guesses(500, 500, int(each)).lower_bound(0.0) for each in found])[places]
    assert (bounds > epsilon).sum() <= 38
    assert np.median(bounds) > 0.6 * epsilon


def test_the_chance_is_that_of_the_worst_mechanism_counted_out() -> None:
    """Of few guesses every outcome can be listed, and what delta adds with them."""
    guesses, epsilon, delta = Guesses(6, 4, 3), 1.0, 1e-3
    each = 1 / (1 + math.exp(-epsilon))
    law = stats.binom(4, each).pmf(np.arange(5))
    worst = max(law[3 - i : 3].sum() / i for i in range(1, 4))
    assert guesses.chance(epsilon, delta) == pytest.approx(law[3:].sum() + 2 * 6 * delta * worst)


@pytest.mark.parametrize("numbers", [(10, 11, 3), (10, 5, 6), (10, 5, -1)])
def test_numbers_that_no_guessing_gives_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="guesses on"):
        Guesses(*numbers)


def test_the_highest_scores_are_guessed_in_and_the_lowest_out() -> None:
    scores: Array = np.arange(10.0)
    was_in = scores > 4
    assert guess(scores, was_in, 0.3) == Guesses(10, 6, 6)
    assert guess(-scores, was_in, 0.3) == Guesses(10, 6, 0)
