"""One thing that must be refused, and by which layer."""

from dataclasses import dataclass
from typing import Any, Literal

from tests.vectors.session import hexadecimal

from synthfed.protocols.secagg.messages import Message

Layer = Literal["frame", "message", "payload", "terms", "site", "aggregator"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that must be refused.

    Attributes:
        name: of the file.
        layer: which layer must refuse; those before it accept.
        why: what it would mean to accept it.
        inputs: bytes in hexadecimal and texts, as `replay.py` takes them.
    """

    name: str
    layer: Layer
    why: str
    inputs: dict[str, Any]


def to_site(after: str, message: Message | bytes) -> dict[str, Any]:
    """Return the inputs of a site that has heard so many frames of the session, and then another one."""
    return {"party": "site", "after": after.split(), "frame": frame_of(message)}


def to_coordinator(after: list[Any], sender: str, message: Message) -> dict[str, Any]:
    """Return the inputs of a coordinator that has taken these steps, and then hears a site."""
    return {"party": "coordinator", "after": after, "from": sender, "frame": frame_of(message)}


def frame_of(message: Message | bytes) -> str:
    return message.hex() if isinstance(message, bytes) else hexadecimal(message)
