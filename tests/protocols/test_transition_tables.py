"""The two tables of states, on their own and obeyed by a machine."""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest
from tests.protocols.federation import DIM, Federation, assert_still, fresh, round_of

from synthfed.protocols.errors import LocalProtocolError, RemoteProtocolError
from synthfed.protocols.secagg import table
from synthfed.protocols.secagg.messages import Open, Reveal, Roll, Seal
from synthfed.protocols.secagg.site import SiteMachine

ZERO = np.zeros(DIM, dtype=np.int64)


@pytest.mark.parametrize(("state", "event"), list(product(table.Site, table.Heard)))
def test_every_event_in_every_state_of_a_site_follows_the_table_or_blames_who_caused_it(
    state: table.Site, event: table.Heard
) -> None:
    if (state, event) in table.SITE:
        assert table.site_next(state, event) is table.SITE[state, event]
    elif event in table.REMOTE:
        with pytest.raises(
            RemoteProtocolError, match=f"coordinator: {event.name} is not allowed in state {state.name}"
        ):
            table.site_next(state, event)
    else:
        with pytest.raises(LocalProtocolError, match=f"{event.name} cannot happen in state {state.name}"):
            table.site_next(state, event)


@pytest.mark.parametrize(("state", "event"), list(product(table.Aggregate, table.Got)))
def test_every_event_in_every_state_of_the_aggregator_follows_the_table_or_is_a_bug(
    state: table.Aggregate, event: table.Got
) -> None:
    if (state, event) in table.AGGREGATE:
        assert table.aggregate_next(state, event) is table.AGGREGATE[state, event]
    else:
        with pytest.raises(LocalProtocolError, match=f"{event.name} cannot happen in state {state.name}"):
            table.aggregate_next(state, event)


def reachable(transitions: Mapping[Any, Any], start: object) -> set[object]:
    found, grown = {start}, set[object]()
    while found != grown:
        grown = found
        found = grown | {to for (state, _), to in transitions.items() if state in grown}
    return found


def test_every_state_can_be_reached_and_every_event_happens_somewhere() -> None:
    assert reachable(table.SITE, table.Site.IDLE) == set(table.Site)
    assert reachable(table.AGGREGATE, table.Aggregate.HELLOS) == set(table.Aggregate)
    assert {event for _, event in table.SITE} == set(table.Heard)
    assert {event for _, event in table.AGGREGATE} == set(table.Got)


def test_masking_comes_only_after_a_commit_and_a_commit_only_in_a_session() -> None:
    assert [state for state, event in table.SITE if event is table.Heard.MASKED] == [table.Site.COMMITTED]
    agreed = {table.Site.ACTIVE, table.Site.SENT, table.Site.REVEALED}
    assert {state for state, event in table.SITE if event is table.Heard.ROUND} == agreed


def test_keys_are_revealed_only_of_what_was_sent_and_not_a_second_time() -> None:
    assert [state for state, event in table.SITE if event is table.Heard.REVEAL] == [table.Site.SENT]
    assert table.Site.SENT not in {to for (state, _), to in table.SITE.items() if state is table.Site.REVEALED}


def test_nothing_leads_out_of_a_pause() -> None:
    assert not [event for state, event in table.AGGREGATE if state is table.Aggregate.PAUSED]
    assert table.AGGREGATE[table.Aggregate.COLLECTING, table.Got.SUM_CORRUPT] is table.Aggregate.REVEALING
    onward = {to for (state, _), to in table.AGGREGATE.items() if state is table.Aggregate.REVEALING}
    assert onward == {table.Aggregate.PAUSED}


def test_the_tables_cannot_be_changed() -> None:
    for frozen in (table.SITE, table.AGGREGATE):
        with pytest.raises(TypeError):
            frozen[next(iter(frozen))] = None  # type: ignore[index]


# A machine obeys its table.


def machine_in(state: table.Site) -> tuple[Federation, SiteMachine]:
    federation = Federation()
    site = federation.sites["a"]
    if state is table.Site.IDLE:
        return federation, site
    if state is table.Site.HELLO:
        federation.roll()
        return federation, site
    if state is table.Site.KEYED:
        federation.confirms(federation.roll())
        return federation, site
    federation.active()
    if state in (table.Site.COMMITTED, table.Site.SENT, table.Site.REVEALED):
        accepted = site.accept(round_of())
        site.commit(accepted)
        if state is not table.Site.COMMITTED:
            site.mask(accepted, ZERO)
        if state is table.Site.REVEALED:
            site.reveal(Reveal(accepted.context))
    return federation, site


@pytest.mark.parametrize("state", table.Site)
def test_every_message_out_of_turn_is_refused_and_changes_nothing(state: table.Site) -> None:
    _, site = machine_in(state)
    actions: dict[table.Heard, Callable[[], object]] = {
        table.Heard.OPEN: lambda: site.hello(Open(bytes(32)), fresh("a")),
        table.Heard.ROLL: lambda: site.confirm(Roll(()), {}),
        table.Heard.SEAL: lambda: site.activate(Seal(())),
        table.Heard.ROUND: lambda: site.accept(round_of(9)),
        table.Heard.REVEAL: lambda: site.reveal(Reveal(bytes(32))),
        table.Heard.UNKNOWN: site.close,
    }
    assert actions.keys() == table.REMOTE
    for event, action in actions.items():
        if (state, event) not in table.SITE:
            assert_still(site, state, action, says=f"{event.name} is not allowed in state {state.name}")
    if (state, table.Heard.ABANDONED) not in table.SITE:
        with pytest.raises(LocalProtocolError):
            site.abandon()
        assert site.state is state


@pytest.mark.parametrize("state", [table.Site.IDLE, table.Site.HELLO, table.Site.KEYED, table.Site.COMMITTED])
def test_a_commit_out_of_turn_is_refused(state: table.Site) -> None:
    accepted = Federation().active().sites["a"].accept(round_of())
    _, site = machine_in(state)
    with pytest.raises(RemoteProtocolError, match="ROUND is not allowed"):
        site.commit(accepted)
    assert site.state is state


def test_a_site_can_start_a_new_session_from_every_state_but_in_the_middle_of_a_round() -> None:
    for state in table.Site:
        _, site = machine_in(state)
        if state is not table.Site.COMMITTED:
            site.hello(Open(bytes(32)), fresh("a"))
            assert site.state is table.Site.HELLO


def test_a_closed_session_is_forgotten_in_every_state_but_in_the_middle_of_a_round() -> None:
    for state in table.Site:
        _, site = machine_in(state)
        if state is not table.Site.COMMITTED:
            site.close()
            assert site.state is table.Site.IDLE
            assert site.transcript == b""
            assert site.repeated(round_of()) is None


def test_a_machine_put_by_hand_into_a_state_it_did_not_reach_blames_this_program() -> None:
    site = Federation().sites["a"]
    site.state = table.Site.ACTIVE
    with pytest.raises(LocalProtocolError, match="no session is open"):
        site.accept(round_of())
    site = Federation().active().sites["a"]
    site.state = table.Site.KEYED
    with pytest.raises(LocalProtocolError, match="ephemeral keys are gone"):
        site.activate(Seal(()))
