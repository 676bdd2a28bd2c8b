"""Median and trimmed mean of sites that need no masks, and ChaCha20 for masks without AES instructions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.protocols.federation import DIM, NAMES, Federation, identity, policy, round_of, study_of, terms

from synthfed.protocols.errors import RemoteProtocolError
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.secagg import keys
from synthfed.protocols.secagg.combination import combine, noise_factor
from synthfed.protocols.secagg.messages import CANARY_WORDS
from synthfed.protocols.study import Combination, Study

HONEST = {name: np.arange(DIM, dtype=np.int64) * 100 + place for place, name in enumerate(NAMES)}
LIE = np.full(DIM, 4_000_000, dtype=np.int64)  # as large as clipping and noise can explain


def study(mode: str = "local", quorum: int = 4, tolerated: int = 1, **aggregation: Any) -> Study:
    return study_of(mode=mode, quorum=quorum, tolerated=tolerated, aggregation=aggregation)


def federation(**aggregation: Any) -> Federation:
    return Federation(pinned=policy(study(**aggregation))).active()


def total(of: Federation, values: dict[str, np.ndarray]) -> np.ndarray:
    of.collect(of.aggregator.round(NAMES, "steps", b""), values)
    return of.aggregator.total()


@pytest.mark.parametrize("combination", ["median", "trimmed-mean"])
def test_one_lying_site_moves_a_robust_combination_no_further_than_the_honest_sites_lie_apart(
    combination: Combination,
) -> None:
    for name in NAMES:
        found = total(federation(combine=combination), HONEST | {name: LIE})
        honest = np.stack([HONEST[each] for each in NAMES if each != name])
        assert (found >= len(NAMES) * honest.min(axis=0)).all()
        assert (found <= len(NAMES) * honest.max(axis=0)).all()


def test_one_lying_site_moves_a_sum_as_far_as_it_likes() -> None:
    found = total(federation(), HONEST | {"a": LIE})
    assert (found > LIE // 2).all()


@pytest.mark.parametrize("combination", ["median", "trimmed-mean"])
def test_without_masks_a_site_hands_over_its_own_noised_vector_signed(combination: Combination) -> None:
    masked = federation(combine=combination).answer("a", round_of(), HONEST["a"])
    np.testing.assert_array_equal(np.frombuffer(masked.words, dtype="<i4"), HONEST["a"])


def test_a_single_vector_beyond_reach_leaves_its_site_out_where_it_can_be_seen() -> None:
    seen = federation(combine="median")
    message = seen.aggregator.round(NAMES, "steps", b"")
    huge = seen.answer("b", message, np.full(DIM, 2**30, dtype=np.int64))
    with pytest.raises(RemoteProtocolError, match="larger than clipping and noise allow"):
        seen.aggregator.add_masked("b", huge)


def test_a_liar_who_can_be_seen_is_left_out_and_does_not_stop_the_study() -> None:
    """A wrong canary, or several vectors that are long together, would pause a study whose masks hide who sent them."""
    seen = federation(combine="median")
    message = seen.aggregator.round(NAMES, "steps", b"")
    honest = {name: seen.answer(name, message, HONEST[name]) for name in NAMES}
    lie = replace(honest["b"], canary=bytes(4 * CANARY_WORDS))
    lie = replace(lie, signature=keys.sign(identity("b"), lie.signed("b")))
    with pytest.raises(RemoteProtocolError, match="canary words are not those of an unmasked vector"):
        seen.aggregator.add_masked("b", lie)
    for name, masked in honest.items():
        seen.aggregator.add_masked(name, masked)
    seen.aggregator.total()


def test_a_robust_combination_must_withstand_all_sites_of_one_controller() -> None:
    fields = terms(mode="local", quorum=4, tolerated=1) | {"aggregation": {"combine": "median"}}
    for site in fields["cohort"]["sites"][:2]:
        site["controller"] = "trust"
    with pytest.raises(ValidationError, match=r"all sites of one controller; raise cohort\.tolerated to 2"):
        Study.model_validate(fields)


@pytest.mark.parametrize("combination", ["median", "trimmed-mean"])
def test_a_robust_combination_is_refused_where_single_vectors_must_stay_hidden(combination: str) -> None:
    with pytest.raises(ValidationError, match=r"needs to see every site's own vector"):
        study("distributed", combine=combination)


def test_a_robust_combination_is_refused_for_cohorts_in_which_bad_sites_may_be_half() -> None:
    with pytest.raises(ValidationError, match=r"only in cohorts of more than 4; raise cohort\.quorum"):
        study(quorum=4, tolerated=2, combine="median")
    study(quorum=5, tolerated=2, combine="median")


@given(st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=9), st.randoms(use_true_random=False))
def test_combinations_do_not_depend_on_the_order_of_sites(values: list[int], random: Any) -> None:
    shuffled = random.sample(values, len(values))
    for combination in ("sum", "median", "trimmed-mean"):
        one, other = ([np.array([value]) for value in each] for each in (values, shuffled))
        assert combine(one, combination, 1) == combine(other, combination, 1)


@pytest.mark.parametrize(
    ("combination", "tolerated"), [("sum", 2), ("median", 2), ("trimmed-mean", 0), ("trimmed-mean", 2)]
)
def test_the_noise_of_a_combination_has_the_stated_size(combination: Combination, tolerated: int) -> None:
    """Asymptotic formulas against 200,000 draws; 15 sites are within 4 % of the limit."""
    sites = 15
    draws = np.random.default_rng(7).normal(0, 2**18, (sites, 200_000)).astype(np.int64)
    found = combine(list(draws), combination, tolerated).std() / 2**18
    assert found == pytest.approx(noise_factor(sites, combination, tolerated), rel=0.04)


# ChaCha20.


def test_chacha20_gives_the_key_stream_of_its_standard() -> None:
    """RFC 8439 appendix A.1, test vector 1: zero key, zero nonce, counter 0."""
    expected = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert KeyStream(bytes(32), "chacha20").read(32).hex() == expected


def test_masks_by_chacha20_cancel_and_differ_from_those_by_aes() -> None:
    alike = {cipher: federation(mask_cipher=cipher) for cipher in ("chacha20", "aes256-ctr")}
    for each in alike.values():
        np.testing.assert_array_equal(total(each, HONEST), sum(HONEST.values()))
    masked = [each.answer("a", round_of(2), HONEST["a"]).words for each in alike.values()]
    assert masked[0] != masked[1]


def test_a_site_that_pinned_another_cipher_is_not_in_the_session() -> None:
    drifted = Federation(drifted={"b": policy(study(mask_cipher="chacha20"))}, pinned=policy(study()))
    with pytest.raises(RemoteProtocolError, match="does not verify"):
        drifted.active()
