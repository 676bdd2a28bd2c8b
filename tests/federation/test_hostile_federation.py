"""What a hostile coordinator, a hostile network and lying sites get: a refusal, a pause, or nothing.

The rows of the threat table in docs/security.md that need a whole federation.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.federation.coordinator import OTHER_SCALE, SCALE, Coordinator

from synthfed.protocols.errors import RemoteProtocolError
from synthfed.protocols.secagg import messages, ring
from synthfed.protocols.secagg.aggregator import SumCorrupt
from synthfed.protocols.sums import PROBE
from synthfed.protocols.wire import Frame

Federate = Callable[..., Any]
ALL_DONE = "every planned round is done"


def flipped(data: bytes | memoryview, byte: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[byte] ^= 1 << bit
    return bytes(changed)


def with_other_words(masked: messages.Masked) -> messages.Masked:
    """Flip the top bit of the first word, the largest change that one bit can make."""
    return replace(masked, words=flipped(masked.words, 3, 7))


def with_other_canary(masked: messages.Masked) -> messages.Masked:
    return replace(masked, canary=flipped(masked.canary, 0, 0))


def released_sums_are_true(federation: Any, outcome: Any) -> bool:
    """Return whether every released sum is the plain sum of some cohort of its size, within 7 noise stds."""
    sites = sorted(federation.sites)
    for answer in outcome.trainer.answers:
        cohorts = [sites] if answer.sites == len(sites) else [[s for s in sites if s != gone] for gone in sites]
        errors = [np.abs(answer.total - sum(federation.plain[s] for s in cohort)).max() for cohort in cohorts]
        if min(errors) > 7 * answer.noise_std:
            return False
    return True


def assert_nothing_can_be_learnt(answers: dict[str, messages.Masked]) -> None:
    """The words' sum is uniform: all words of all sites that were told the same do not cancel."""
    total = np.zeros(len(next(iter(answers.values())).words) // 4, dtype=np.uint32)
    for masked in answers.values():
        ring.add_in_place(total, ring.from_bytes(masked.words, len(total), 32, peer="site"))
    # 2,000 words in 16 cells by their top bits: chi-square of 15 degrees exceeds 60 once in 4 million runs;
    # a true sum, far smaller than the ring, would fill two cells and give 15,000.
    counts = np.bincount(total >> 28, minlength=16)
    expected = len(total) / 16
    assert np.sum((counts - expected) ** 2 / expected) < 60


def test_a_masked_sum_that_was_rewritten_leaves_its_site_out(federate: Federate) -> None:
    federation = federate(rounds=6)
    federation.link.rewrite_reply("s2", (2,), with_other_words)
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert [answer.sites for answer in outcome.trainer.answers] == [4, 3, 4, 4, 4]
    assert released_sums_are_true(federation, outcome)


@pytest.mark.parametrize("change", [with_other_words, with_other_canary])
@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_a_sum_that_a_lying_site_spoils_pauses_the_run_and_is_never_retried(
    federate: Federate, mode: str, change: Callable[[messages.Masked], messages.Masked]
) -> None:
    federation = federate(mode=mode)
    federation.lie("s1", (3,), change)
    with pytest.raises(SumCorrupt):
        federation.train(quorum_s=5.0)
    assert federation.link.round == 3
    assert all(federation.charges(site) == {"mean": 3} for site in federation.sites)
    _, tally = federation.checkpoint()
    assert (tally.attempts, tally.released) == ({"mean": 3}, {"mean": 2})
    federation.reconnect()  # a person has looked
    outcome = federation.train(resume=True)
    assert outcome.reason == ALL_DONE
    assert all(federation.charges(site) == {"mean": 6} for site in federation.sites)


def test_a_site_that_lies_in_the_probe_is_found_before_a_record_is_touched(federate: Federate) -> None:
    federation = federate()
    federation.lie("s1", (0,), with_other_canary)
    with pytest.raises(SumCorrupt):
        federation.train()
    assert federation.link.round == 0
    assert all(federation.charges(site) == {} for site in federation.sites)


def test_another_payload_to_one_site_leaves_it_out_of_the_round(federate: Federate) -> None:
    federation = federate()
    federation.link.rewrite_request("s0", (2,), lambda message: replace(message, payload=OTHER_SCALE))
    outcome = federation.train()
    assert outcome.tally.released == {"mean": 5}
    assert released_sums_are_true(federation, outcome)
    assert federation.charges("s0") == {"mean": 5}  # it did pay for what it was asked


def test_different_payloads_to_different_sites_release_nothing(federate: Federate) -> None:
    federation = federate(dim=2000)
    coordinator = Coordinator(federation)
    message = coordinator.round()
    other = replace(message, payload=OTHER_SCALE)
    answers = {site: coordinator.send(site, other if site == "s0" else message) for site in federation.sites}
    with pytest.raises(RemoteProtocolError, match="answers another round"):
        coordinator.aggregator.add_masked("s0", answers["s0"])
    assert_nothing_can_be_learnt(answers)
    assert_nothing_can_be_learnt({site: masked for site, masked in answers.items() if site != "s0"})
    with pytest.raises(SumCorrupt):
        coordinator.add_up_regardless(answers)


def test_different_cohorts_to_different_sites_release_nothing(federate: Federate) -> None:
    federation = federate(dim=2000)
    coordinator = Coordinator(federation)
    message = coordinator.round()
    smaller = replace(message, cohort=("s0", "s1", "s2"))
    answers = {site: coordinator.send(site, smaller if site == "s0" else message) for site in federation.sites}
    assert_nothing_can_be_learnt(answers)
    assert_nothing_can_be_learnt({site: masked for site, masked in answers.items() if site != "s3"})
    with pytest.raises(SumCorrupt):
        coordinator.add_up_regardless(answers)


def test_a_cohort_without_one_of_its_sites_releases_nothing(federate: Federate) -> None:
    federation = federate(dim=2000)
    coordinator = Coordinator(federation)
    answers = coordinator.all(coordinator.round())
    for missing in federation.sites:
        assert_nothing_can_be_learnt({site: masked for site, masked in answers.items() if site != missing})
    total = coordinator.add_up_regardless(answers)  # while with all of them there is a sum
    assert np.abs(total[:6]).min() > np.abs(total[6:]).max()


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": ("s0", "s1")},
        {"cohort": ("s1", "s2", "s3")},
        {"cohort": ("s0", "s0", "s1", "s2")},
        {"cohort": ("s2", "s1", "s0")},
        {"cohort": ("s0", "s1", "s2", "stranger")},
        {"kind": "median"},
        {"kind": PROBE},
        {"payload": b""},
        {"payload": SCALE * 2},
        {"payload": np.array([np.nan], dtype="<f4").tobytes()},
        {"payload": np.array([np.inf], dtype="<f4").tobytes()},
        {"payload": np.array([1e5], dtype="<f4").tobytes()},
        {"counter": 0},
        {"counter": 2**20},
    ],
)
def test_a_round_outside_the_terms_is_refused_and_not_charged(federate: Federate, changes: dict[str, Any]) -> None:
    federation = federate()
    coordinator = Coordinator(federation)
    message = coordinator.round()
    assert coordinator.send("s0", replace(message, **changes)) == messages.Refusal(messages.Code.PROTOCOL)
    assert federation.charges("s0") == {}
    assert isinstance(coordinator.send("s0", message), messages.Masked)  # and the refusal changed nothing


def test_other_terms_under_a_used_counter_are_refused_and_under_a_new_one_charged_up_to_the_cap(
    federate: Federate,
) -> None:
    federation = federate(rounds=6)
    coordinator = Coordinator(federation)
    first = coordinator.round()
    answers = [coordinator.send("s0", first) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]  # the same bytes again are free
    assert federation.charges("s0") == {"mean": 1}
    assert coordinator.send("s0", replace(first, payload=OTHER_SCALE)) == messages.Refusal(messages.Code.PROTOCOL)
    words = {answers[0].words}
    for counter in range(2, 12):
        answer = coordinator.send("s0", replace(first, counter=counter))
        if counter <= 6:
            words.add(answer.words)
        else:
            assert answer == messages.Refusal(messages.Code.BUDGET)
    assert len(words) == 6
    assert federation.charges("s0") == {"mean": 6}


def test_a_replayed_round_gets_the_same_bytes_or_a_refusal_and_no_new_charge(federate: Federate) -> None:
    federation = federate(rounds=8)
    federation.link.replay_request("s1", 3, 2)
    federation.link.replay_request("s1", 6, 2)
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert federation.link.replies[3]["s1"][12:] == federation.link.replies[2]["s1"][12:]  # behind the header
    refusal, _ = messages.decode(federation.link.replies[6]["s1"])
    assert refusal == messages.Refusal(messages.Code.PROTOCOL)
    assert released_sums_are_true(federation, outcome)
    assert federation.charges("s0") == {"mean": 8}
    assert federation.charges("s1") == {"mean": outcome.tally.charged["s1"]["mean"] - 2}


def test_a_replayed_sum_is_no_answer_to_another_round(federate: Federate) -> None:
    federation = federate()
    federation.link.replay_reply("s1", 3, 1)
    outcome = federation.train()
    assert [answer.sites for answer in outcome.trainer.answers] == [4, 4, 3, 4, 4]
    assert released_sums_are_true(federation, outcome)


def test_one_sites_sum_is_not_taken_for_anothers(federate: Federate) -> None:
    federation = federate(sites=5, quorum=4)
    federation.link.swap_replies("s0", "s1", (2,))
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert [answer.sites for answer in outcome.trainer.answers] == [5] * 5
    assert released_sums_are_true(federation, outcome)


def test_a_late_sum_does_not_enter_the_next_round(federate: Federate) -> None:
    federation = federate()
    federation.link.delay_reply("s1", 2)
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert released_sums_are_true(federation, outcome)
    assert 2 not in [entry["step"] for entry in outcome.tally.history]


@pytest.mark.parametrize(
    "reply",
    [b"", b"SF", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SF\x01\xff" + bytes(8), b"SF\x02\x08" + bytes(8)],
)
def test_a_reply_that_is_no_message_counts_as_none(federate: Federate, reply: bytes) -> None:
    federation = federate(rounds=5)
    honest = federation.link.collect

    def collect(timeout_s: float) -> Iterator[tuple[str, bytes]]:
        for site, frame in honest(timeout_s):
            yield site, reply if (site, federation.link.round) == ("s3", 2) else frame

    federation.link.collect = collect
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert outcome.tally.released == {"mean": 4}


def test_a_reply_of_another_type_counts_as_none(federate: Federate) -> None:
    federation = federate(rounds=5)
    federation.link.rewrite_reply("s3", (2,), lambda _: messages.Ready())
    outcome = federation.train()
    assert outcome.tally.released == {"mean": 4}


def test_a_hello_from_an_earlier_session_leaves_its_site_out(federate: Federate) -> None:
    federation = federate(rounds=4)
    old: list[messages.Hello] = []

    def remember(message: Any) -> Any:
        if isinstance(message, messages.Hello):
            old.append(message)
        return message

    federation.link.rewrite_reply("s1", (0,), remember)
    federation.link.away("s2", range(2, 100))
    federation.link.away("s3", range(2, 100))
    with pytest.raises(Exception, match="needed sites"):
        federation.train()
    federation.reconnect()
    federation.link.rewrite_reply("s1", (0,), lambda m: old[0] if isinstance(m, messages.Hello) else m)
    outcome = federation.train(resume=True)
    assert outcome.reason == ALL_DONE
    assert [answer.sites for answer in outcome.trainer.answers] == [3, 3, 3]


@pytest.mark.parametrize("field", ["x25519", "kem", "nonce", "journal_head", "signature"])
def test_a_hello_with_swapped_keys_leaves_its_site_out(federate: Federate, field: str) -> None:
    federation = federate(rounds=4)

    def swap(message: Any) -> Any:
        is_hello = isinstance(message, messages.Hello)
        return replace(message, **{field: flipped(getattr(message, field), 5, 3)}) if is_hello else message

    federation.link.rewrite_reply("s1", (0,), swap)
    outcome = federation.train()
    assert [answer.sites for answer in outcome.trainer.answers] == [3] * 4
    assert federation.charges("s1") == {}


@pytest.mark.parametrize("kind", [messages.Roll, messages.Seal])
def test_a_site_that_is_shown_another_roll_or_seal_refuses_it_and_is_left_out(federate: Federate, kind: Any) -> None:
    federation = federate(rounds=4)

    def equivocate(message: Any) -> Any:
        if not isinstance(message, kind):
            return message
        name = "hellos" if kind is messages.Roll else "confirms"
        return replace(message, **{name: tuple(each for each in getattr(message, name) if each.site != "s3")})

    federation.link.rewrite_request("s1", (0,), equivocate)
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert [answer.sites for answer in outcome.trainer.answers] == [3] * 4
    assert federation.charges("s1") == {}


def test_masks_and_noise_of_one_site_never_repeat(federate: Federate) -> None:
    federation = federate(dim=2000)
    federation.train()
    replies = [messages.decode(federation.link.replies[number]["s0"])[0] for number in range(1, 7)]
    words = [np.frombuffer(masked.words, dtype="<u4") for masked in replies if isinstance(masked, messages.Masked)]
    assert len(words) == 6
    for i, one in enumerate(words):
        for other in words[i + 1 :]:
            # The expected number of equal 32-bit words is 5e-7 a pair; two would be a repeated pad.
            assert np.sum(one == other) < 2


STAGES = ("IDLE", "HELLO", "KEYED", "ACTIVE", "SENT")
KNOWN_REQUESTS = (1, 3, 5, 7, 10)


def brought_to(federation: Any, stage: str) -> Any:
    """Return the machine of site s0 in a state of the protocol, without a charge."""
    federation.restart("s0")
    coordinator = Coordinator(federation, until=stage)
    if stage == "SENT":
        coordinator.all(coordinator.aggregator.probe(tuple(sorted(federation.sites))))
    machine = federation.sites["s0"]._agent.machine
    assert machine.state.name == stage
    return machine


@pytest.mark.parametrize("stage", STAGES)
def test_a_message_of_an_unknown_type_is_answered_by_nothing_at_all_in_every_state(
    federate: Federate, stage: str
) -> None:
    federation = federate()
    answer = federation.answers["s0"]
    for number in (0, 12, 99, 255):
        for body in (b"", bytes(36), b"\xff" * 200):
            machine = brought_to(federation, stage)
            assert answer(Frame(number, 5, body).encode()) == b""
            assert (machine.state.name, machine.transcript) == ("IDLE", b"")
            assert machine._session is None
    assert federation.charges("s0") == {}


def test_every_type_that_is_no_request_is_answered_alike_by_sites_with_other_records_and_secrets(
    federate: Federate,
) -> None:
    federation = federate()
    Coordinator(federation)
    for number in sorted({*range(256)} - {*KNOWN_REQUESTS}):
        replies = {federation.answers[site](Frame(number, number, bytes(64)).encode()) for site in federation.sites}
        assert replies == {b""}
    assert all(federation.charges(site) == {} for site in federation.sites)
