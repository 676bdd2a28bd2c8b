"""What the tolerated bad sites can take off a sum together: all but the honest sites' sum and their noise."""

import math
from collections.abc import Mapping
from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped]
from tests.protocols.federation import Federation, kind, pads_of, policy, round_of, study_of

from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.secagg import ring
from synthfed.protocols.secagg.masks import apply_masks
from synthfed.protocols.study import Study
from synthfed.protocols.sums import GRID, SCALE_BITS, noise_shares

SEVEN = tuple("abcdefg")
TOLERATED, QUORUM, DIM = 2, 5, 2048
Pads = Mapping[str, Mapping[str, tuple[bytes, bool]]]


def study(mode: str = "distributed") -> Study:
    return study_of(SEVEN, quorum=QUORUM, tolerated=TOLERATED, mode=mode)


@cache
def played(cohort: tuple[str, ...], name: str) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, ring.Words], Pads]:
    """Return every site's noised sum, what it sent, and its mask keys, of one round of a kind."""
    federation = Federation(SEVEN, pinned=policy(study(), dim=DIM)).active()
    message = round_of(cohort=cohort, kind=name)
    values, words, pads = {}, {}, {}
    for site in cohort:
        machine = federation.sites[site]
        accepted = machine.accept(message)
        seeds = machine.commit(accepted)
        pads[site] = pads_of(machine, message)
        values[site] = 1000 + discrete_gaussian(KeyStream(seeds.noise), DIM, SCALE_BITS)
        masked = machine.mask(accepted, values[site])
        words[site] = ring.from_bytes(masked.words, DIM, 64 if name == "wide" else 32, peer=site)
    return values, words, pads


ROUNDS = pytest.mark.parametrize(
    ("cohort", "name"), [(SEVEN, "steps"), (SEVEN[:QUORUM], "steps"), (SEVEN[-QUORUM:], "wide")]
)


def known(pads: Pads, bad: tuple[str, ...], site: str) -> list[tuple[bytes, bool]]:
    """Return how a site's words are freed of the masks that it shares with bad sites."""
    return [(key, not added) for peer, (key, added) in pads[site].items() if peer in bad]


@ROUNDS
def test_all_that_bad_sites_can_subtract_leaves_exactly_the_honest_sum(cohort: tuple[str, ...], name: str) -> None:
    values, words, pads = played(cohort, name)
    for bad in combinations(cohort, TOLERATED):
        honest = [site for site in cohort if site not in bad]
        total = np.zeros(DIM, dtype=words[cohort[0]].dtype)
        for site in honest:
            freed = words[site].copy()
            apply_masks(freed, known(pads, bad, site))
            ring.add_in_place(total, freed)
        np.testing.assert_array_equal(ring.centred(total), sum(values[site] for site in honest))
        # By the other way, from the sum of all less their own inputs, they get the same and no more.
        everything = sum((words[site] for site in cohort), start=np.zeros(DIM, dtype=total.dtype))
        own = ring.to_words(sum((values[site] for site in bad), start=np.zeros(DIM, np.int64)), 8 * total.itemsize)
        np.testing.assert_array_equal(everything - own, total)


@ROUNDS
def test_no_combination_of_honest_words_is_free_of_unknown_masks_but_multiples_of_their_sum(
    cohort: tuple[str, ...], name: str
) -> None:
    """Exact algebra: every unknown key stands in two honest words, once added and once subtracted.

    A combination without it must weigh both alike; as every two honest sites share such a key, it weighs
    all alike.
    """
    _, _, pads = played(cohort, name)
    for bad in combinations(cohort, TOLERATED):
        honest = [site for site in cohort if site not in bad]
        holders: dict[bytes, list[tuple[str, bool]]] = {}
        for site in honest:
            for peer, (key, added) in pads[site].items():
                if peer not in bad:
                    holders.setdefault(key, []).append((site, added))
        assert all({added for _, added in each} == {True, False} for each in holders.values())
        pairs = [tuple(sorted(site for site, _ in each)) for each in holders.values()]
        assert sorted(pairs) == list(combinations(honest, 2))
        known_keys = {key for site in cohort for peer, (key, _) in pads[site].items() if {site, peer} & {*bad}}
        assert known_keys.isdisjoint(holders)


@ROUNDS
def test_a_strict_part_of_the_honest_words_stays_uniform_whatever_bad_sites_subtract(
    cohort: tuple[str, ...], name: str
) -> None:
    """Chi-squared over 256 byte values, 42 sums; false alarm 42 * 1e-6 if the keys were random."""
    values, words, pads = played(cohort, name)
    bad, honest = cohort[:TOLERATED], cohort[TOLERATED:]
    for part in (part for size in range(1, len(honest)) for part in combinations(honest, size)):
        total = np.zeros(DIM, dtype=words[cohort[0]].dtype)
        for site in part:
            left = words[site] - ring.to_words(values[site], 8 * total.itemsize)
            apply_masks(left, known(pads, bad, site))
            ring.add_in_place(total, left)
        counts = np.bincount(np.frombuffer(total.tobytes(), dtype=np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_the_honest_shares_of_noise_make_up_the_promise_in_every_cohort_and_for_every_number_of_bad_sites(
    mode: str,
) -> None:
    """The variance of `honest` shares of GRID steps, in the sum's own unit, against the promised one."""
    each = kind("steps")
    promised = (each.noise_multiplier * each.sum.clip_norm) ** 2
    for present in range(QUORUM, len(SEVEN) + 1):
        step = each.grid_step(noise_shares(study(mode), present))
        for bad in range(TOLERATED + 1):
            variance = (present - bad) * (step * GRID) ** 2
            assert variance >= promised * (1 - 1e-12)
            if mode == "distributed" and bad == TOLERATED:
                assert math.isclose(variance, promised)


def test_the_noise_that_is_left_has_at_least_the_promised_variance_over_draws() -> None:
    """Chi-squared over 2048 draws of each of 3 cohorts; false alarm 3 * 1e-6."""
    each = kind("steps")
    for cohort, name in [(SEVEN, "steps"), (SEVEN[:QUORUM], "steps"), (SEVEN[-QUORUM:], "wide")]:
        values, _, _ = played(cohort, name)
        step = each.grid_step(noise_shares(study(), len(cohort)))
        bad = cohort[:TOLERATED]
        left = sum((values[site] - 1000 for site in cohort if site not in bad), start=np.zeros(DIM, np.int64)) * step
        statistic = float((left**2).sum()) / (each.noise_multiplier * each.sum.clip_norm) ** 2
        assert stats.chi2.ppf(5e-7, DIM) < statistic < stats.chi2.ppf(1 - 5e-7, DIM)
