"""What a site holds of one session: what it was opened with, its keys, and the round it has committed.

Never outlives its session: the machine drops it whole when the next one opens.
"""

from dataclasses import dataclass, field

from ..sums import Kind
from . import keys
from .messages import Confirm, Hello, Masked, Round


@dataclass(frozen=True, slots=True)
class Fresh:
    """What one session needs from outside the machine: fresh secrets, the journal's position, and the time.

    Attributes:
        opened_s: now, on the clock by which the session expires.
    """

    ephemeral: keys.Ephemeral
    nonce: bytes
    entropy: bytes
    journal_length: int
    journal_head: bytes
    opened_s: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """A round that passed every check and is not yet committed."""

    round: Round
    context: bytes
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class Seeds:
    """Secret keys of one committed round: for the coins and for the noise."""

    sample: bytes
    noise: bytes


@dataclass(slots=True)
class Session:
    """Everything that one session knows; dropped whole when the next one opens."""

    fresh: Fresh | None  # None once the shared keys are agreed
    hello: Hello
    opened_s: float
    transcript: bytes = b""
    confirm: Confirm | None = None
    peers: dict[str, Hello] = field(default_factory=dict)
    encapsulated: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # secret and ciphertext
    ratchets: dict[str, keys.Ratchet] = field(default_factory=dict)
    own: keys.Ratchet = field(default_factory=lambda: keys.Ratchet(b""))
    counter: int = 0
    rounds: int = 0  # committed, of all kinds
    context: bytes = b""  # of the committed round
    masks: dict[str, bytes] = field(default_factory=dict)  # of the committed round, by peer, until it is masked
    canaries: dict[str, bytes] = field(default_factory=dict)  # of the same, until they are told or it is over
    sent: Masked | None = None
