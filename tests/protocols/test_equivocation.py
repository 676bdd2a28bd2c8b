"""A coordinator that tells sites different things: nothing cancels but the sum of a whole cohort that agrees."""

import copy
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import chain, combinations, count

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from tests.protocols.federation import (
    DIM,
    NAMES,
    Federation,
    fresh,
    pads_of,
    policy,
    refusal,
    round_of,
    session_of,
    signed_hello,
    study_of,
)

from synthfed.protocols.errors import LocalProtocolError
from synthfed.protocols.secagg import ring, table
from synthfed.protocols.secagg.aggregator import SumCorrupt
from synthfed.protocols.secagg.masks import apply_masks
from synthfed.protocols.secagg.messages import Confirm, Masked, Roll, Round, Seal
from synthfed.protocols.secagg.site import SiteMachine, _Session

Part = tuple[str, ...]


def parts(names: Iterable[str]) -> list[Part]:
    """Return every non-empty part, sorted."""
    ordered = sorted(names)
    return list(chain.from_iterable(combinations(ordered, size) for size in range(1, len(ordered) + 1)))


def added_up(words: Mapping[str, ring.Words], part: Part) -> ring.Words:
    total = words[part[0]].copy()
    for name in part[1:]:
        ring.add_in_place(total, words[name])
    return total


# On the roll (S2), also where no seal (S3) would show it.


class Credulous(SiteMachine):
    """A site that takes any seal for its own: the handshake as it would be without S3."""

    def _check_seal(self, session: _Session, message: Seal) -> dict[str, Confirm]:  # noqa: ARG002
        return {confirm.site: confirm for confirm in message.confirms}


LARGE = 4096
SPLIT = {"a": 0, "b": 0, "c": 1, "d": 1, "e": 0}


def split_on_the_roll(how: str) -> Federation:
    """Return a federation in which c and d were shown another roll than a, b and e; e is the coordinator's."""
    federation = Federation(pinned=policy(dim=LARGE), machine=Credulous)
    roll = federation.roll()
    x25519, kem = fresh("e").ephemeral.public
    views = {
        "nothing": roll,
        "a bad site's keys": Roll(
            (*roll.hellos[:4], signed_hello(roll.hellos[4], "e", federation.policy.hash, x25519=x25519, kem=kem))
        ),
        "a bad site's nonce": Roll(
            (*roll.hellos[:4], signed_hello(roll.hellos[4], "e", federation.policy.hash, nonce=bytes(32)))
        ),
        "who takes part": Roll(roll.hellos[:4]),
    }
    shown = (roll, views[how])
    seal = Seal(tuple(site.confirm(shown[SPLIT[name]], {}) for name, site in federation.sites.items()))
    for name in "abcd":
        federation.sites[name].activate(seal)
    return federation


HOW = ["a bad site's keys", "a bad site's nonce", "who takes part"]


@pytest.mark.parametrize("how", ["nothing", *HOW])
def test_without_the_seal_only_sites_that_saw_the_same_roll_share_keys(how: str) -> None:
    sites = split_on_the_roll(how).sites
    for one, other in combinations("abcd", 2):
        shared = [session_of(sites[x]).ratchets[y].derive("test", b"") for x, y in ((one, other), (other, one))]
        assert (shared[0] == shared[1]) == (how == "nothing" or SPLIT[one] == SPLIT[other])


@pytest.mark.parametrize("kind", ["steps", "wide"])
@pytest.mark.parametrize("how", HOW)
def test_without_the_seal_every_sum_under_two_rolls_is_uniform_even_without_a_bad_sites_masks(
    how: str, kind: str
) -> None:
    """Chi-squared over 256 byte values; 6 cases of 15 sums, false alarm 90 * 1e-6 if the keys were random."""
    federation = split_on_the_roll(how)
    words = words_without_those_of("e", federation, kind)
    for part in parts("abcd"):
        counts = np.bincount(np.frombuffer(added_up(words, part).tobytes(), dtype=np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6


def test_without_the_seal_and_without_equivocation_the_sum_is_the_plain_one() -> None:
    """The power of the test above: with one roll for all, the same steps end in the plain sum."""
    words = words_without_those_of("e", split_on_the_roll("nothing"), "steps")
    assert (added_up(words, tuple("abcd")) == 4 * 7).all()


def words_without_those_of(bad: str, federation: Federation, kind: str) -> dict[str, ring.Words]:
    """Return the honest sites' masked sevens, less the masks that they share with a bad site."""
    cohort = NAMES if bad in session_of(federation.sites["c"]).peers else NAMES[:4]
    words = {}
    for name in "abcd":
        site, message = federation.sites[name], round_of(cohort=cohort, kind=kind)
        accepted = site.accept(message)
        site.commit(accepted)
        pads = pads_of(site, message)
        masked = site.mask(accepted, np.full(LARGE, 7, dtype=np.int64))
        words[name] = ring.from_bytes(masked.words, LARGE, 64 if kind == "wide" else 32, peer=name).copy()
        apply_masks(words[name], [(key, not added) for peer, (key, added) in pads.items() if peer == bad])
    return words


# On a round: random views of it, lost answers, any order of arrival.

SEVEN = tuple("abcdefg")
QUORUM = 5
VIEWS = st.tuples(
    st.sets(st.sampled_from(SEVEN), min_size=QUORUM).map(lambda names: tuple(sorted(names))),
    st.sampled_from(["steps", "steps", "other"]),
    st.sampled_from([b"one", b"one", b"two"]),
)


@cache
def shared() -> tuple[Federation, "count[int]"]:
    """Return one session for many examples, and its counters."""
    pinned = policy(study_of(SEVEN, quorum=QUORUM, tolerated=2))
    return Federation(SEVEN, pinned=pinned).active(), count(1)


@settings(deadline=None)
@given(
    views=st.lists(VIEWS, min_size=1, max_size=3),
    choices=st.lists(st.integers(0, 2), min_size=7, max_size=7),
    lost=st.sets(st.sampled_from(SEVEN), max_size=2),
    order=st.permutations(SEVEN),
    seed=st.integers(0, 2**32 - 1),
)
def test_under_any_partition_of_views_only_the_whole_of_a_cohort_that_agrees_cancels(
    views: list[tuple[Part, str, bytes]], choices: list[int], lost: set[str], order: list[str], seed: int
) -> None:
    """A word of a sum that must not cancel does so with chance 2**-32: false alarm 3e-6 in 200 examples."""
    federation, counters = shared()
    counter = next(counters)
    told: dict[str, Round] = {}
    for name, choice in zip(SEVEN, choices, strict=True):
        fitting = [Round(counter, *view) for view in views if name in view[0]]
        if fitting:
            told[name] = fitting[choice % len(fitting)]
    values = dict(zip(SEVEN, np.random.default_rng(seed).integers(-(2**20), 2**20, (7, DIM)), strict=True))
    answers = {name: federation.answer(name, message, values[name]) for name, message in told.items()}
    arrived = {name: answers[name] for name in order if name in answers and name not in lost}
    assert_only_agreeing_cohorts_cancel(arrived, told, values)
    assert_honest_coordinator_decodes_only_agreement(federation, Round(counter, *views[0]), arrived, values)
    assert_liars_cannot_make_it_decode(federation, Round(counter, *views[0]), answers, told)


def assert_only_agreeing_cohorts_cancel(
    arrived: Mapping[str, Masked], told: Mapping[str, Round], values: Mapping[str, npt.NDArray[np.int64]]
) -> None:
    for field, size in (("words", DIM), ("canary", 8)):
        left = {}
        for name, masked in arrived.items():
            plain = values[name] if field == "words" else np.ones(size, dtype=np.int64)
            left[name] = ring.from_bytes(getattr(masked, field), size, 32, peer=name) - ring.to_words(plain, 32)
        for part in parts(left):
            agreed = {told[name] for name in part}
            is_whole = len(agreed) == 1 and next(iter(agreed)).cohort == part
            total = added_up(left, part)
            assert (total == 0).all() if is_whole else (total != 0).all()


def assert_honest_coordinator_decodes_only_agreement(
    federation: Federation, message: Round, arrived: Mapping[str, Masked], values: Mapping[str, npt.NDArray[np.int64]]
) -> None:
    aggregator = copy.copy(federation.aggregator)
    aggregator._counter = message.counter - 1
    assert aggregator.round(message.cohort, message.kind, message.payload) == message
    taken = set()
    for name, masked in arrived.items():
        if masked.context == message.context(federation.aggregator._transcript) and name in message.cohort:
            aggregator.add_masked(name, masked)
            taken.add(name)
        else:
            assert "answers another round" in refusal(lambda: aggregator.add_masked(name, masked))  # noqa: B023
    if taken == set(message.cohort):
        np.testing.assert_array_equal(aggregator.total(), sum(values[name] for name in message.cohort))
    else:
        with pytest.raises(LocalProtocolError, match="needs every site of its cohort"):
            aggregator.total()


def assert_liars_cannot_make_it_decode(
    federation: Federation, message: Round, answers: Mapping[str, Masked], told: Mapping[str, Round]
) -> None:
    """Check that answers signed for a view they were not made for pause the study, unless all were for one other."""
    aggregator = copy.copy(federation.aggregator)
    aggregator._counter = message.counter - 1
    aggregator.round(message.cohort, message.kind, message.payload)
    for name in message.cohort:
        aggregator.add_masked(name, federation.relabelled(name, answers[name], message))
    agreed = {told[name] for name in message.cohort}
    if len(agreed) == 1 and agreed.pop().cohort == message.cohort:
        aggregator.total()
        assert aggregator.state is table.Aggregate.ACTIVE
    else:
        with pytest.raises(SumCorrupt):
            aggregator.total()
        assert aggregator.state is table.Aggregate.PAUSED
