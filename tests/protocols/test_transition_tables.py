"""The two tables of states, on their own."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest

from synthfed.protocols.errors import LocalProtocolError, RemoteProtocolError
from synthfed.protocols.secagg import table


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
    assert {state for state, event in table.SITE if event is table.Heard.ROUND} == {table.Site.ACTIVE, table.Site.SENT}


def test_nothing_leads_out_of_a_pause() -> None:
    assert not [event for state, event in table.AGGREGATE if state is table.Aggregate.PAUSED]
    assert table.AGGREGATE[table.Aggregate.COLLECTING, table.Got.SUM_CORRUPT] is table.Aggregate.PAUSED


def test_the_tables_cannot_be_changed() -> None:
    for frozen in (table.SITE, table.AGGREGATE):
        with pytest.raises(TypeError):
            frozen[next(iter(frozen))] = None  # type: ignore[index]
