"""After a corrupt sum the coordinator asks whose masks did not cancel; without one, asking gains it nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.federation.coordinator import Coordinator
from tests.federation.test_hostile_federation import flipped, with_other_canary, with_other_words

from synthfed.protocols.secagg import keys, messages
from synthfed.protocols.secagg.aggregator import SumCorrupt

Federate = Callable[..., Any]
REFUSED = messages.Refusal(messages.Code.PROTOCOL)
KINDS = pytest.mark.parametrize("number", [0, 3], ids=["a probe", "a round"])


def corrupt(federation: Any) -> str:
    """Train until a sum is corrupt, and return what the error says."""
    with pytest.raises(SumCorrupt) as found:
        federation.train(quorum_s=5.0)
    return str(found.value)


def answering(federation: Any, site: str, change: Callable[[messages.Message], messages.Message]) -> None:
    """Make a site change what it answers, after its own agent has made it."""
    honest = federation.answers[site]

    def answer(frame: bytes) -> bytes:
        message, sequence = messages.decode(honest(frame))
        return messages.encode(change(message), sequence)

    federation.answers[site] = answer
    federation.reconnect()


@KINDS
def test_a_site_that_lies_in_its_canary_words_is_named_and_pays_no_more_than_the_others(
    federate: Federate, number: int
) -> None:
    federation = federate()
    federation.lie("s1", (number,), with_other_canary)
    said = corrupt(federation)
    assert said == (
        "cohort: the masks of a complete cohort did not cancel; the study pauses; "
        "the canary words of s1 do not follow from its own keys: s1 deviates"
    )
    assert all(federation.charges(site) == ({"mean": number} if number else {}) for site in federation.sites)


@KINDS
def test_a_pair_that_holds_different_keys_is_named_as_a_pair(federate: Federate, number: int) -> None:
    federation = federate()

    def spoil(message: messages.Message) -> messages.Message:
        if isinstance(message, messages.Ready) if number == 0 else federation.link.round == number - 1:
            machine = federation.sites["s2"]._agent.machine
            if machine._session.ratchets:
                machine._session.ratchets["s0"] = keys.Ratchet(b"of no agreement")
                machine._session.ratchets["s0"].advance(machine._session.counter)
        return message

    answering(federation, "s2", spoil)
    assert corrupt(federation).endswith("; s0 and s2 state different keys: one of the two deviates")


def test_a_site_that_adds_to_its_masked_vector_is_not_found_by_canaries_and_nobody_is_accused(
    federate: Federate,
) -> None:
    federation = federate()
    federation.lie("s1", (3,), with_other_words)
    said = corrupt(federation)
    assert "all canary words follow from keys that both ends state" in said
    assert not any(site in said for site in federation.sites)


def test_a_site_that_lies_again_in_the_opening_accuses_only_itself(federate: Federate) -> None:
    federation = federate()
    federation.lie("s1", (3,), with_other_canary)

    def accuse(message: messages.Message) -> messages.Message:
        if not isinstance(message, messages.Revealed):
            return message
        (peer, key), *rest = message.keys
        lie = replace(message, keys=((peer, flipped(key, 0, 0)), *rest))
        return replace(lie, signature=keys.sign(federation.sites["s1"]._identity, lie.signed("s1")))

    answering(federation, "s1", accuse)
    said = corrupt(federation)
    assert said.endswith("its own keys: s1 deviates")
    assert not any(site in said for site in ("s0", "s2", "s3"))


@pytest.mark.parametrize("how", ["lost", "forged"])
def test_an_opening_that_is_lost_or_forged_on_the_way_is_none(federate: Federate, how: str) -> None:
    federation = federate()
    federation.lie("s1", (2,), with_other_canary)
    if how == "lost":
        federation.link.lose_first("s3", lambda message: isinstance(message, messages.Revealed))
    else:

        def forge(message: Any) -> Any:
            return replace(message, keys=message.keys[::-1]) if isinstance(message, messages.Revealed) else message

        federation.link.rewrite_reply("s3", (0,), forge)
    said = corrupt(federation)
    assert said.endswith("its own keys: s1 deviates; s3 did not open its canary keys")


def test_a_coordinator_that_asks_without_need_twice_or_for_another_round_is_told_nothing_else(
    federate: Federate,
) -> None:
    federation = federate(rounds=4)
    coordinator = Coordinator(federation)
    assert coordinator.send("s0", messages.Reveal(bytes(32))) == REFUSED  # nothing was answered yet
    contexts = []
    for _ in range(2):
        answers = coordinator.all(coordinator.round())
        coordinator.aggregator.give_up()
        contexts.append(answers["s0"].context)
    assert coordinator.send("s0", messages.Reveal(contexts[0])) == REFUSED
    assert coordinator.send("s0", messages.Reveal(bytes(32))) == REFUSED
    opened = coordinator.send("s0", messages.Reveal(contexts[1]))
    assert [peer for peer, _ in opened.keys] == ["s1", "s2", "s3"]
    assert coordinator.send("s0", messages.Reveal(contexts[1])) == REFUSED
    assert all(federation.charges(site) == {"mean": 2} for site in federation.sites)
    answers = coordinator.all(coordinator.round())  # the session goes on, under keys that nobody knows
    for site, masked in answers.items():
        coordinator.aggregator.add_masked(site, masked)
    plain = sum(federation.plain.values())
    kind = federation.pinned.policy.plan.kind("mean")
    total = coordinator.aggregator.total() * kind.grid_step(3)
    assert np.abs(total - plain).max() < 7 * kind.noise_multiplier * (4 / 3) ** 0.5
    assert all(federation.charges(site) == {"mean": 3} for site in federation.sites)
