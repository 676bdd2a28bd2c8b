"""Every state and transition of a site and of the coordinator's aggregator, as two tables.

Never holds a key or a value: only which event may follow which.
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from ..errors import LocalProtocolError, RemoteProtocolError


class Site(Enum):
    """Where a site stands in a session."""

    IDLE = auto()
    HELLO = auto()
    KEYED = auto()
    ACTIVE = auto()
    COMMITTED = auto()
    SENT = auto()
    REVEALED = auto()


class Heard(Enum):
    """What can happen to a site: a message of the coordinator, the end of its own work, or of the session's time."""

    OPEN = auto()
    ROLL = auto()
    SEAL = auto()
    ROUND = auto()
    REVEAL = auto()
    UNKNOWN = auto()
    MASKED = auto()
    ABANDONED = auto()
    EXPIRED = auto()


class Aggregate(Enum):
    """Where the aggregator stands in a session."""

    HELLOS = auto()
    CONFIRMS = auto()
    ACTIVE = auto()
    COLLECTING = auto()
    REVEALING = auto()
    PAUSED = auto()


class Got(Enum):
    """What can happen to the aggregator."""

    ROLL_COMPLETE = auto()
    SEAL_COMPLETE = auto()
    ROUND_SENT = auto()
    SUM_COMPLETE = auto()
    SITE_LOST = auto()
    SUM_CORRUPT = auto()
    JUDGED = auto()


REMOTE: Final = frozenset({Heard.OPEN, Heard.ROLL, Heard.SEAL, Heard.ROUND, Heard.REVEAL, Heard.UNKNOWN})
"""Events that a peer causes; out of place, they are the peer's fault and change nothing."""

SITE: Final[Mapping[tuple[Site, Heard], Site]] = MappingProxyType(
    {
        (Site.IDLE, Heard.OPEN): Site.HELLO,
        (Site.HELLO, Heard.OPEN): Site.HELLO,
        (Site.HELLO, Heard.ROLL): Site.KEYED,
        (Site.KEYED, Heard.OPEN): Site.HELLO,
        (Site.KEYED, Heard.SEAL): Site.ACTIVE,
        (Site.ACTIVE, Heard.OPEN): Site.HELLO,
        (Site.ACTIVE, Heard.ROUND): Site.COMMITTED,
        (Site.COMMITTED, Heard.MASKED): Site.SENT,
        (Site.COMMITTED, Heard.ABANDONED): Site.ACTIVE,
        # Masked too late: the answer was never handed over.
        (Site.SENT, Heard.ABANDONED): Site.ACTIVE,
        (Site.SENT, Heard.OPEN): Site.HELLO,
        (Site.SENT, Heard.ROUND): Site.COMMITTED,
        # Only what was answered last, and once: the canary keys are forgotten as they are told.
        (Site.SENT, Heard.REVEAL): Site.REVEALED,
        (Site.REVEALED, Heard.OPEN): Site.HELLO,
        (Site.REVEALED, Heard.ROUND): Site.COMMITTED,
        # Bytes that are no request: whoever speaks is not who the session was agreed with.
        (Site.IDLE, Heard.UNKNOWN): Site.IDLE,
        (Site.HELLO, Heard.UNKNOWN): Site.IDLE,
        (Site.KEYED, Heard.UNKNOWN): Site.IDLE,
        (Site.ACTIVE, Heard.UNKNOWN): Site.IDLE,
        (Site.SENT, Heard.UNKNOWN): Site.IDLE,
        (Site.REVEALED, Heard.UNKNOWN): Site.IDLE,
        # Keys do not lie in memory longer than a session may last, whatever the coordinator does or leaves undone.
        (Site.HELLO, Heard.EXPIRED): Site.IDLE,
        (Site.KEYED, Heard.EXPIRED): Site.IDLE,
        (Site.ACTIVE, Heard.EXPIRED): Site.IDLE,
        (Site.SENT, Heard.EXPIRED): Site.IDLE,
        (Site.REVEALED, Heard.EXPIRED): Site.IDLE,
    }
)

AGGREGATE: Final[Mapping[tuple[Aggregate, Got], Aggregate]] = MappingProxyType(
    {
        (Aggregate.HELLOS, Got.ROLL_COMPLETE): Aggregate.CONFIRMS,
        (Aggregate.CONFIRMS, Got.SEAL_COMPLETE): Aggregate.ACTIVE,
        (Aggregate.ACTIVE, Got.ROUND_SENT): Aggregate.COLLECTING,
        (Aggregate.COLLECTING, Got.SUM_COMPLETE): Aggregate.ACTIVE,
        (Aggregate.COLLECTING, Got.SITE_LOST): Aggregate.ACTIVE,
        # Masks allow no blame by subtraction, and a retry would drain every ledger: the canary keys are
        # opened to find whom to look at, and then a person looks.
        (Aggregate.COLLECTING, Got.SUM_CORRUPT): Aggregate.REVEALING,
        (Aggregate.REVEALING, Got.JUDGED): Aggregate.PAUSED,
    }
)


def site_next(state: Site, event: Heard) -> Site:
    """Return the site's next state.

    Raises:
        RemoteProtocolError: the coordinator sent a message out of turn.
        LocalProtocolError: this program's own work came out of turn.
    """
    following = SITE.get((state, event))
    if following is not None:
        return following
    if event in REMOTE:
        raise RemoteProtocolError(f"{event.name} is not allowed in state {state.name}", peer="coordinator")
    raise LocalProtocolError(f"{event.name} cannot happen in state {state.name}")


def aggregate_next(state: Aggregate, event: Got) -> Aggregate:
    """Return the aggregator's next state.

    Raises:
        LocalProtocolError: the coordinator's own program called out of turn.
    """
    following = AGGREGATE.get((state, event))
    if following is None:
        raise LocalProtocolError(f"{event.name} cannot happen in state {state.name}")
    return following
