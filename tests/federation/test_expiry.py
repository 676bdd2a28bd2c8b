"""Sessions that sites end by themselves, by the clock or by count: the coordinator opens a new one and goes on."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.federation.coordinator import Coordinator

from synthfed.protocols.secagg import messages, table
from synthfed.protocols.secagg import site as site_module
from synthfed.server import training

Federate = Callable[..., Any]
ALL_DONE = "every planned round is done"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1e6

    def __call__(self) -> float:
        return self.now_s


def with_clock(federation: Any, sites: Collection[str]) -> Clock:
    """Give these sites' agents one clock."""
    clock = Clock()
    for site in sites:
        federation.sites[site]._agent = replace(federation.sites[site]._agent, clock=clock)
    return clock


def machine_of(federation: Any, site: str) -> Any:
    return federation.sites[site]._agent.machine


def test_a_site_allows_a_session_twice_what_the_coordinator_makes_of_one() -> None:
    assert site_module.SESSION_ROUNDS == 2 * training.SESSION_ROUNDS
    assert site_module.SESSION_S == 2 * training.SESSION_S


@pytest.mark.parametrize("late", [("s0", "s1", "s2", "s3"), ("s2",)])
def test_when_sessions_have_expired_the_coordinator_opens_a_new_one_and_goes_on(
    federate: Federate, late: tuple[str, ...]
) -> None:
    federation = federate(rounds=6)
    clock = with_clock(federation, late)

    def pass_time(message: messages.Round) -> messages.Round:
        clock.now_s += site_module.SESSION_S
        return message

    federation.link.rewrite_request(late[0], (3,), pass_time)  # before it arrives, as after a suspended night
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert outcome.tally.attempts == {"mean": 6}
    assert outcome.tally.released == {"mean": 5}
    assert [answer.sites for answer in outcome.trainer.answers] == [4] * 5
    for site in federation.sites:  # the round that an expired session refused was not charged there
        assert federation.charges(site) == {"mean": 5 if site in late else 6}
    plain = sum(federation.plain.values())
    for answer in outcome.trainer.answers:
        assert np.abs(answer.total - plain).max() < 7 * answer.noise_std


def test_sites_that_end_sessions_by_count_are_met_in_new_ones_until_all_is_done(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_module, "SESSION_ROUNDS", 3)  # a probe and two rounds
    federation = federate(rounds=8)
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert outcome.tally.attempts == {"mean": 8}
    assert outcome.tally.released == {"mean": 6}  # each third one found that the session was over
    assert all(federation.charges(site) == {"mean": 6} for site in federation.sites)


def test_an_agent_whose_coordinator_is_silent_forgets_its_session_and_refuses_its_next_message(
    federate: Federate,
) -> None:
    federation = federate()
    clock = with_clock(federation, federation.sites)
    coordinator = Coordinator(federation)
    asked = coordinator.round()
    answers = coordinator.all(asked)
    for site in federation.sites:
        agent, machine = federation.sites[site]._agent, machine_of(federation, site)
        clock.now_s += site_module.SESSION_S - 1.0
        agent.expire(clock())
        assert machine.state is table.Site.SENT
        ratchets = [machine._session.own, *machine._session.ratchets.values()]
        clock.now_s += 1.0
        agent.expire(clock())
        assert (machine.state, machine._session) == (table.Site.IDLE, None)
        assert not any(any(ratchet._key) for ratchet in ratchets)
        clock.now_s -= site_module.SESSION_S
        for message in (asked, messages.Reveal(answers[site].context)):
            assert coordinator.send(site, message) == messages.Refusal(messages.Code.PROTOCOL)
    assert all(federation.charges(site) == {"mean": 1} for site in federation.sites)
