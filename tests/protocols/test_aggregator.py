"""The coordinator's aggregator: honest sums, equivocation, dropouts and lying sites."""

import weakref
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocols.federation import DIM, NAMES, Federation, refusal, resigned, signed_confirm

from synthfed.protocols.errors import LocalProtocolError, RemoteProtocolError
from synthfed.protocols.secagg import ring, table
from synthfed.protocols.secagg.aggregator import Aggregator, SumCorrupt
from synthfed.protocols.secagg.messages import Masked, Round

NOTHING = np.empty(0, dtype=np.int64)
ONES = dict.fromkeys(NAMES, np.ones(DIM, dtype=np.int64))


@pytest.fixture
def active() -> Federation:
    return Federation().active()


@cache
def shared() -> Federation:
    """Return one session for many examples: every example takes the next counter."""
    return Federation().active()


def values_of(seed: int) -> dict[str, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-(2**20), 2**20, DIM) for name in NAMES}


# Honest rounds.


@pytest.mark.parametrize("kind", ["steps", "wide"])
def test_the_total_is_the_plain_sum_over_the_cohort(active: Federation, kind: str) -> None:
    values = values_of(1)
    for cohort in (NAMES, NAMES[:4], NAMES[1:]):
        message = active.aggregator.round(cohort, kind, b"payload")
        active.collect(message, values)
        np.testing.assert_array_equal(active.aggregator.total(), sum(values[name] for name in cohort))


def test_a_probe_sums_nothing_and_shows_that_masks_cancel(active: Federation) -> None:
    active.collect(active.aggregator.probe(NAMES), dict.fromkeys(NAMES, NOTHING))
    assert active.aggregator.total().shape == (0,)
    assert active.aggregator.state is table.Aggregate.ACTIVE


def test_the_cohort_of_a_round_is_sent_sorted_and_counters_rise(active: Federation) -> None:
    assert active.aggregator.members == NAMES
    first = active.aggregator.round(("e", "a", "d", "b"), "steps", b"")
    active.aggregator.give_up()
    assert first.cohort == ("a", "b", "d", "e")
    assert active.aggregator.round(NAMES, "steps", b"").counter == first.counter + 1


# Equivocation: the coordinator tells two groups of sites two things; each answers its own view.

VIEWS = ["cohort", "payload", "counter", "kind"]


def two_views(message: Round, changed: str) -> Round:
    """Return another view of the round, fit for all of its own cohort."""
    changes: dict[str, dict[str, object]] = {
        "cohort": {"cohort": message.cohort[:-1]},
        "payload": {"payload": b"another"},
        "counter": {"counter": message.counter + 1},
        "kind": {"kind": "other"},
    }
    return replace(message, **changes[changed])  # type: ignore[arg-type]


@settings(deadline=None)  # the first example shakes hands, and the machine may be busy
@given(changed=st.sampled_from(VIEWS), split=st.sets(st.sampled_from(NAMES[:4]), min_size=1, max_size=4))
def test_equivocation_on_a_round_leaves_masks_that_do_not_cancel(changed: str, split: set[str]) -> None:
    federation = shared()
    message = federation.aggregator.round(NAMES, "steps", b"one")
    federation.aggregator._counter += 1  # the other view may use the next counter
    federation.aggregator.give_up()
    other = two_views(message, changed)
    answers = {
        name: federation.answer(name, other if name in split else message, ONES[name]) for name in message.cohort
    }
    for count, part in ((DIM, "words"), (8, "canary")):
        total = ring.to_words(np.zeros(count, dtype=np.int64), 32)
        for name, masked in answers.items():
            ring.add_in_place(total, ring.from_bytes(getattr(masked, part), count, 32, peer=name))
        assert (ring.centred(total) != len(NAMES)).all()


@pytest.mark.parametrize("changed", VIEWS)
def test_the_canary_catches_equivocation_pauses_and_allows_no_retry(active: Federation, changed: str) -> None:
    message = active.aggregator.round(NAMES, "steps", b"one")
    other = two_views(message, changed)
    for name in NAMES:
        if name in "bc":
            answer = active.answer(name, other, ONES[name])
            assert "answers another round" in refusal(lambda: active.aggregator.add_masked(name, answer))  # noqa: B023
            answer = active.relabelled(name, answer, message)  # a site that hides which view it was told
        else:
            answer = active.answer(name, message, ONES[name])
        active.aggregator.add_masked(name, answer)
    with pytest.raises(SumCorrupt, match="did not cancel; the study pauses"):
        active.aggregator.total()
    assert_paused(active.aggregator)


def assert_paused(aggregator: Aggregator) -> None:
    """Nothing but the opening of canary keys follows a corrupt sum, and nothing at all follows that."""
    for state in ("REVEALING", "PAUSED"):
        assert aggregator.state.name == state
        for action in (
            lambda: aggregator.round(NAMES, "steps", b""),
            lambda: aggregator.probe(NAMES),
            aggregator.total,
            aggregator.give_up,
            aggregator.roll,
        ):
            with pytest.raises(LocalProtocolError, match=f"cannot happen in state {state}"):
                action()
        if state == "REVEALING":
            aggregator.judge()
    with pytest.raises(LocalProtocolError, match="JUDGED cannot happen in state PAUSED"):
        aggregator.judge()


def test_a_probe_whose_canaries_do_not_sum_up_pauses_before_any_record_is_touched(active: Federation) -> None:
    answers = active.answers(active.aggregator.probe(NAMES), dict.fromkeys(NAMES, NOTHING))
    honest = answers["c"]
    wrong_canary = bytes([honest.canary[0] ^ 1]) + honest.canary[1:]
    answers["c"] = resigned("c", replace(honest, canary=wrong_canary))
    active.take(answers)
    with pytest.raises(SumCorrupt):
        active.aggregator.total()
    assert_paused(active.aggregator)


@pytest.mark.parametrize(("part", "shift"), [("words", 2**30), ("canary", 1)])
def test_a_site_that_shifts_its_sum_beyond_reach_or_its_canary_pauses_the_study(
    active: Federation, part: str, shift: int
) -> None:
    answers = active.answers(active.aggregator.round(NAMES, "steps", b"one"), ONES)
    honest = answers["c"]
    words = np.frombuffer(getattr(honest, part), dtype="<u4").copy()
    words[:1] += np.uint32(shift)
    answers["c"] = resigned("c", replace(honest, **{part: words.tobytes()}))
    active.take(answers)
    with pytest.raises(SumCorrupt):
        active.aggregator.total()
    assert_paused(active.aggregator)
    for name, masked in answers.items():  # not even the same answers again
        assert "answers another round" in refusal(lambda: active.aggregator.add_masked(name, masked))  # noqa: B023


# Answers that are not taken.


def test_a_sum_needs_every_site_of_its_cohort(active: Federation) -> None:
    message = active.aggregator.round(NAMES, "steps", b"")
    active.aggregator.add_masked("a", active.answer("a", message, ONES["a"]))
    with pytest.raises(LocalProtocolError, match="every site of its cohort"):
        active.aggregator.total()


def test_a_dropped_site_costs_one_round_and_the_next_works_with_fewer(active: Federation) -> None:
    values = values_of(2)
    message = active.aggregator.round(NAMES, "steps", b"one")
    late = {name: active.answer(name, message, values[name]) for name in NAMES}
    for name in NAMES[:4]:
        active.aggregator.add_masked(name, late[name])
    active.aggregator.give_up()
    retry = active.aggregator.round(NAMES[:4], "steps", b"one")
    assert "answers another round" in refusal(lambda: active.aggregator.add_masked("a", late["a"]))
    assert "answers another round" in refusal(lambda: active.aggregator.add_masked("e", late["e"]))
    active.collect(retry, values)
    np.testing.assert_array_equal(active.aggregator.total(), sum(values[name] for name in NAMES[:4]))
    rejoined = active.aggregator.round(NAMES, "steps", b"two")
    active.collect(rejoined, values)
    np.testing.assert_array_equal(active.aggregator.total(), sum(values.values()))


def test_an_answer_that_comes_when_the_retry_is_done_is_refused_and_changes_nothing(active: Federation) -> None:
    values = values_of(3)
    message = active.aggregator.round(NAMES, "steps", b"one")
    late = {name: active.answer(name, message, values[name]) for name in NAMES}
    active.aggregator.give_up()
    active.collect(active.aggregator.round(NAMES[:4], "steps", b"one"), values)
    for name in NAMES:
        assert "answers another round" in refusal(lambda: active.aggregator.add_masked(name, late[name]))  # noqa: B023
    np.testing.assert_array_equal(active.aggregator.total(), sum(values[name] for name in NAMES[:4]))
    for name in NAMES:
        assert "answers another round" in refusal(lambda: active.aggregator.add_masked(name, late[name]))  # noqa: B023
    assert active.aggregator.state is table.Aggregate.ACTIVE


def test_an_answer_replayed_from_an_earlier_session_is_refused_though_the_round_reads_alike(
    active: Federation,
) -> None:
    message = active.aggregator.round(NAMES, "steps", b"one")
    old = {name: active.answer(name, message, ONES[name]) for name in NAMES}
    active.aggregator = Aggregator(active.policy, bytes(32))
    active.active()
    again = active.aggregator.round(NAMES, "steps", b"one")
    assert again == message
    for name in NAMES:
        assert "answers another round" in refusal(lambda: active.aggregator.add_masked(name, old[name]))  # noqa: B023
    active.collect(again, ONES)
    np.testing.assert_array_equal(active.aggregator.total(), np.full(DIM, len(NAMES)))


@pytest.mark.parametrize("replayed", ["of another site", "of an earlier round"])
def test_words_that_a_lying_site_copies_and_signs_as_its_own_answer_pause_the_study(
    active: Federation, replayed: str
) -> None:
    earlier = active.answers(active.aggregator.round(NAMES, "steps", b"one"), ONES)
    active.take(earlier)
    active.aggregator.total()
    message = active.aggregator.round(NAMES, "steps", b"one")
    answers = active.answers(message, ONES)
    source = answers["a"] if replayed == "of another site" else earlier["c"]
    assert "c: " in refusal(lambda: active.aggregator.add_masked("c", source))  # as it is, it is not c's
    active.take(answers | {"c": active.relabelled("c", source, message)})
    with pytest.raises(SumCorrupt):
        active.aggregator.total()
    assert_paused(active.aggregator)


def test_answers_that_come_after_giving_up_are_refused_and_there_is_no_total(active: Federation) -> None:
    message = active.aggregator.round(NAMES, "steps", b"")
    active.aggregator.give_up()
    with pytest.raises(RemoteProtocolError, match="answers another round"):
        active.collect(message, ONES)
    with pytest.raises(LocalProtocolError, match="needs every site"):
        active.aggregator.total()


def wrong(federation: Federation, masked: Masked, **changes: bytes) -> str:
    """Return how the aggregator refuses a changed answer that site a itself signed."""
    forged = resigned("a", replace(masked, **changes))
    return refusal(lambda: federation.aggregator.add_masked("a", forged))


def test_masked_words_of_the_wrong_length_context_signer_or_cohort_are_refused(active: Federation) -> None:
    message = active.aggregator.round(NAMES[:4], "steps", b"")
    masked = active.answer("a", message, ONES["a"])
    assert "wrong length" in wrong(active, masked, words=bytes(masked.words[:-4]))
    assert "wrong length" in wrong(active, masked, words=bytes(masked.words) * 2)
    assert "wrong length" in wrong(active, masked, canary=masked.canary[:-4])
    assert "answers another round" in wrong(active, masked, context=bytes(32))
    take = active.aggregator.add_masked
    assert "does not verify" in refusal(lambda: take("a", replace(masked, words=bytes(len(masked.words)))))
    assert "does not verify" in refusal(lambda: take("a", replace(masked, canary=bytes(len(masked.canary)))))
    assert "b: a signature does not verify" in refusal(lambda: take("b", masked))
    assert "e: its sum answers another round" in refusal(lambda: take("e", masked))
    assert active.aggregator._taken == {}
    take("a", masked)


# A sum that runs: every answer is added when it comes, once, and is not kept.


@pytest.mark.parametrize("kind", ["steps", "wide"])
def test_the_same_answer_again_is_not_added_twice_in_whatever_order_answers_come(active: Federation, kind: str) -> None:
    values = values_of(4)
    answers = active.answers(active.aggregator.round(NAMES, kind, b"one"), values)
    for name in ("c", "a", "c", "e", "a", "b", "d", "c"):
        active.aggregator.add_masked(name, answers[name])
    np.testing.assert_array_equal(active.aggregator.total(), sum(values.values()))


@pytest.mark.parametrize("part", ["words", "canary"])
def test_a_second_other_answer_of_a_site_is_refused_and_changes_nothing(active: Federation, part: str) -> None:
    answers = active.answers(active.aggregator.round(NAMES, "steps", b"one"), ONES)
    for name, masked in answers.items():
        active.aggregator.add_masked(name, masked)
        changed = bytearray(getattr(masked, part))
        changed[0] ^= 1
        other = resigned(name, replace(masked, **{part: bytes(changed)}))
        assert f"{name}: it has answered this round before" in refusal(
            lambda: active.aggregator.add_masked(name, other)  # noqa: B023
        )
    np.testing.assert_array_equal(active.aggregator.total(), np.full(DIM, len(NAMES)))


def test_a_refused_answer_leaves_nothing_in_the_sum(active: Federation) -> None:
    answers = active.answers(active.aggregator.round(NAMES, "steps", b"one"), ONES)
    for name, masked in answers.items():
        for wrong_one in (
            replace(masked, words=bytes(len(masked.words))),
            resigned(name, replace(masked, words=masked.words[:-4])),
            resigned(name, replace(masked, canary=masked.canary[:-4])),
        ):
            before = active.aggregator._sum.tobytes()
            refusal(lambda: active.aggregator.add_masked(name, wrong_one))  # noqa: B023
            assert active.aggregator._sum.tobytes() == before
        active.aggregator.add_masked(name, masked)
    np.testing.assert_array_equal(active.aggregator.total(), np.full(DIM, len(NAMES)))


def test_no_words_of_a_site_are_kept_where_they_are_only_added_up(active: Federation) -> None:
    """A view of each answer is let go when it is taken; only canary words and a hash stay."""
    answers = active.answers(active.aggregator.round(NAMES, "steps", b"one"), ONES)
    frames = []
    for name in NAMES:
        buffer = np.frombuffer(answers[name].words, dtype=np.uint8).copy()
        frames.append(weakref.ref(buffer))
        active.aggregator.add_masked(name, replace(answers[name], words=memoryview(buffer.data)))
        del buffer
    assert [frame() for frame in frames] == [None] * len(NAMES)
    assert {len(taken.signed + taken.canary) for taken in active.aggregator._taken.values()} == {64}


def test_a_sum_that_a_site_did_not_complete_is_dropped_and_the_next_starts_from_nothing(active: Federation) -> None:
    message = active.aggregator.round(NAMES, "steps", b"one")
    for name in NAMES[:4]:
        active.aggregator.add_masked(name, active.answer(name, message, ONES[name]))
    assert active.aggregator._sum.size == DIM
    active.aggregator.give_up()
    assert active.aggregator._sum.size == 0
    active.collect(active.aggregator.round(NAMES, "steps", b"one"), ONES)
    np.testing.assert_array_equal(active.aggregator.total(), np.full(DIM, len(NAMES)))
    assert active.aggregator._sum.size == 0


def test_before_any_round_there_is_nothing_to_sum(active: Federation) -> None:
    with pytest.raises(LocalProtocolError, match="no round has been sent"):
        active.aggregator.total()


# The handshake at the coordinator.


def test_a_hello_of_another_site_a_stranger_or_another_session_is_refused() -> None:
    federation = Federation()
    hellos = federation.hellos()
    take = federation.aggregator.add_hello
    assert "not for this session and site" in refusal(lambda: take("a", hellos["b"]))
    assert "not for this session and site" in refusal(lambda: take("z", replace(hellos["a"], site="z")))
    assert "not for this session and site" in refusal(lambda: take("a", replace(hellos["a"], session=bytes(32))))
    assert "does not verify" in refusal(lambda: take("a", replace(hellos["a"], journal_length=9)))
    assert federation.aggregator.members == ()


def test_a_signature_in_a_non_canonical_form_is_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    federation = Federation()
    hello = federation.hellos()["a"]
    scalar = int.from_bytes(hello.signature[32:], "little") + order
    malleable = replace(hello, signature=hello.signature[:32] + scalar.to_bytes(32, "little"))
    assert "does not verify" in refusal(lambda: federation.aggregator.add_hello("a", malleable))
    federation.aggregator.add_hello("a", hello)


def test_a_session_of_a_quorum_works_without_the_rest_of_the_roster() -> None:
    federation = Federation(NAMES[:4])
    federation.active()
    message = federation.aggregator.round(NAMES[:4], "steps", b"")
    federation.collect(message, ONES)
    np.testing.assert_array_equal(federation.aggregator.total(), np.full(DIM, 4))


def test_a_confirmation_by_another_site_of_another_transcript_or_without_signature_is_refused() -> None:
    federation = Federation()
    confirms = federation.confirms(federation.roll())
    take = federation.aggregator.add_confirm
    assert "another transcript" in refusal(lambda: take("b", confirms["a"]))
    assert "another transcript" in refusal(lambda: take("a", signed_confirm(confirms["a"], "a", transcript=bytes(32))))
    assert "does not verify" in refusal(lambda: take("a", replace(confirms["a"], ciphertexts=())))


def test_a_session_is_sealed_only_when_every_member_confirmed() -> None:
    federation = Federation()
    confirms = federation.confirms(federation.roll())
    federation.aggregator.add_confirm("a", confirms["a"])
    with pytest.raises(LocalProtocolError, match="before every member confirmed"):
        federation.aggregator.seal()


def test_a_round_before_the_seal_and_a_second_roll_are_bugs_of_this_program() -> None:
    federation = Federation()
    federation.roll()
    for action in (lambda: federation.aggregator.round(NAMES, "steps", b""), federation.aggregator.roll):
        with pytest.raises(LocalProtocolError, match="cannot happen in state CONFIRMS"):
            action()


def test_a_corrupt_sum_is_a_fault_of_the_cohort_and_names_no_site() -> None:
    assert issubclass(SumCorrupt, RemoteProtocolError)
