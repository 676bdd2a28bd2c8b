"""A session ends by itself, at the site: after so many rounds, or so long a time, with all its keys."""

import numpy as np
import pytest
from tests.protocols.federation import (
    DIM,
    NAMES,
    Federation,
    assert_still,
    fresh,
    refusal,
    round_of,
    session_of,
    snapshot,
)
from tests.protocols.test_transition_tables import machine_in

from synthfed.protocols.errors import LocalProtocolError
from synthfed.protocols.secagg import table
from synthfed.protocols.secagg.messages import Open, Reveal, Roll
from synthfed.protocols.secagg.site import SESSION_ROUNDS, SESSION_S, SiteMachine

ZERO = np.zeros(DIM, dtype=np.int64)
NOTHING = np.empty(0, dtype=np.int64)
OPENED = sorted(set(table.Site) - {table.Site.IDLE, table.Site.COMMITTED}, key=lambda state: state.value)


@pytest.mark.parametrize("state", OPENED)
def test_a_session_ends_when_its_time_is_over_and_not_before_in_whatever_state_it_is(state: table.Site) -> None:
    _, site = machine_in(state)
    before, session = snapshot(site), session_of(site)
    for early_s in (-1.0, 0.0, SESSION_S - 0.001):
        assert not site.expire(early_s)
        assert snapshot(site) == before
    ratchets = [session.own, *session.ratchets.values()]
    assert site.expire(SESSION_S)
    assert (site.state, site._session, site.transcript) == (table.Site.IDLE, None, b"")
    assert not any(any(ratchet._key) for ratchet in ratchets)
    assert not site.expire(2 * SESSION_S)  # nothing is left to end
    assert "not allowed in state IDLE" in refusal(lambda: site.accept(round_of(9)))


def test_time_counts_from_the_opening_of_the_session_on_the_sites_own_clock() -> None:
    site = Federation().sites["a"]
    site.hello(Open(bytes(32)), fresh("a", opened_s=1000.0))
    assert not site.expire(999.0 + SESSION_S)
    site.hello(Open(bytes(32)), fresh("a", opened_s=2000.0))  # the next one has all its time again
    assert not site.expire(1000.0 + SESSION_S)
    assert site.expire(2000.0 + SESSION_S)


def rounds_answered(site: SiteMachine, count: int, kind: str = "steps") -> None:
    payload, values = (b"", NOTHING) if kind == "probe" else (b"w", ZERO)
    for counter in range(1, count + 1):
        accepted = site.accept(round_of(counter, kind=kind, payload=payload))
        site.commit(accepted)
        site.mask(accepted, values)


@pytest.mark.parametrize("kind", ["steps", "probe"])
def test_a_session_ends_after_its_last_round_whatever_rounds_they_were(kind: str) -> None:
    site = Federation().active().sites["a"]
    rounds_answered(site, SESSION_ROUNDS - 1, kind)
    assert not site.expire(0.0)
    last = site.accept(round_of(SESSION_ROUNDS))
    site.commit(last)
    sent = site.mask(last, ZERO)
    another = round_of(SESSION_ROUNDS + 1)
    assert_still(site, table.Site.SENT, lambda: site.accept(another), says="the session has had all its rounds")
    assert site.repeated(last.round) == sent  # until the clock is looked at
    ratchets = list(session_of(site).ratchets.values())
    assert site.expire(0.0)
    assert not any(any(ratchet._key) for ratchet in ratchets)
    assert (site.state, site.repeated(last.round)) == (table.Site.IDLE, None)
    assert "REVEAL is not allowed in state IDLE" in refusal(lambda: site.reveal(Reveal(sent.context)))


def test_rounds_that_are_given_up_or_jumped_over_do_not_lengthen_or_shorten_a_session() -> None:
    site = Federation().active().sites["a"]
    for counter in (5, 500, 1500):
        accepted = site.accept(round_of(counter))
        site.commit(accepted)
        site.abandon()
    assert session_of(site).rounds == 3
    refusal(lambda: site.accept(round_of(3)))
    assert session_of(site).rounds == 3


def test_in_the_middle_of_a_round_no_session_expires() -> None:
    site = Federation().active().sites["a"]
    accepted = site.accept(round_of())
    site.commit(accepted)
    assert not site.expire(0.0)
    with pytest.raises(LocalProtocolError, match="EXPIRED cannot happen in state COMMITTED"):
        site.expire(SESSION_S)
    site.mask(accepted, ZERO)
    assert site.expire(SESSION_S)


def test_after_its_session_a_site_agrees_on_a_new_one_with_the_others() -> None:
    federation = Federation().active()
    for site in federation.sites.values():
        assert site.expire(SESSION_S)
    federation = fresh_handshake(federation)
    federation.collect(federation.aggregator.round(NAMES, "steps", b"w"), dict.fromkeys(NAMES, ZERO))
    np.testing.assert_array_equal(federation.aggregator.total(), ZERO)


def fresh_handshake(federation: Federation) -> Federation:
    """Return the federation with the same sites in a new session."""
    renewed = Federation(pinned=federation.policy)
    renewed.sites = federation.sites
    return renewed.active()


def test_a_roll_that_comes_when_the_session_is_over_finds_none() -> None:
    federation = Federation()
    federation.hellos()
    site = federation.sites["a"]
    assert site.expire(SESSION_S)
    assert_still(site, table.Site.IDLE, lambda: site.confirm(Roll(()), {}), says="ROLL is not allowed in state IDLE")
