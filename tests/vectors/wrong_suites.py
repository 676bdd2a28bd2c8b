"""Keys of another suite than the study names: a downgrade to X25519 alone, and keys that nobody asked for."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.vectors.scenario import Scenario, to_coordinator, to_site
from tests.vectors.session import CIPHERTEXTS, CLASSIC, HYBRID, Session
from tests.vectors.wrong_handshake import under
from tests.vectors.wrong_rounds import CONFIRM_STAGE, HELLO_STAGE

from synthfed.protocols.secagg.messages import Confirm, Hello, Roll, Seal

DOWNGRADE = "who breaks X25519 later would read what was recorded"
UNASKED = "parties of other terms, or bytes under a signature that nobody looks at"


def roll_with(session: Session, *changed: Hello) -> Roll:
    return Roll(tuple((session.hellos | {each.site: each for each in changed}).values()))


def seal_with(session: Session, changed: Confirm) -> Seal:
    return Seal(tuple((session.confirms | {changed.site: changed}).values()))


def suites() -> Iterator[Scenario]:
    """Yield what parties of a hybrid study must refuse, and those of one with X25519 alone."""
    yield from hybrid()
    for scenario in classic():
        yield replace(scenario, inputs={"session": "session-x25519", **scenario.inputs})


def hybrid() -> Iterator[Scenario]:
    """Yield messages without ML-KEM-768 to parties whose terms require it."""
    bare = HYBRID.hello("north", kem=b"")
    others = [HYBRID.hello(name, kem=b"") for name in ("alps", "east-2", "north")]
    elsewhere = under(CLASSIC.policy, bare)
    none = HYBRID.confirm("alps", ciphertexts=())
    fewer = HYBRID.confirm("alps", ciphertexts=HYBRID.confirms["alps"].ciphertexts[:2])
    for name, inputs in (
        ("roll-peer-without-kem-key", to_site("open", roll_with(HYBRID, bare))),
        ("roll-all-peers-without-kem-keys", to_site("open", roll_with(HYBRID, *others))),
        ("roll-peer-under-x25519-terms", to_site("open", roll_with(HYBRID, elsewhere))),
        ("seal-peer-without-ciphertexts", to_site("open roll", seal_with(HYBRID, none))),
        ("seal-peer-with-fewer-ciphertexts", to_site("open roll", seal_with(HYBRID, fewer))),
    ):
        yield Scenario(f"hybrid-{name}", "site", DOWNGRADE, inputs)
    for name, after, hello in (
        ("hello-without-kem-key", HELLO_STAGE, bare),
        ("hello-under-x25519-terms", HELLO_STAGE, elsewhere),
    ):
        yield Scenario(f"hybrid-{name}", "aggregator", DOWNGRADE, to_coordinator(after, "north", hello))
    inputs = to_coordinator([*CONFIRM_STAGE[:-1]], "alps", none)
    yield Scenario("hybrid-confirm-without-ciphertexts", "aggregator", DOWNGRADE, inputs)


def classic() -> Iterator[Scenario]:
    """Yield messages with ML-KEM-768 to parties whose terms have X25519 alone."""
    kem = HYBRID.hellos["north"].kem
    more = CLASSIC.hello("north", kem=kem)
    elsewhere = under(HYBRID.policy, more)
    sent = CLASSIC.confirm("north", ciphertexts=(("south", CIPHERTEXTS["north", "south"]),))
    to_sites: tuple[tuple[str, dict[str, Any]], ...] = (
        ("roll-peer-with-kem-key", to_site("open", roll_with(CLASSIC, more))),
        ("roll-peer-under-hybrid-terms", to_site("open", roll_with(CLASSIC, elsewhere))),
        ("seal-peer-with-ciphertext", to_site("open roll", seal_with(CLASSIC, sent))),
    )
    for name, inputs in to_sites:
        yield Scenario(f"x25519-{name}", "site", UNASKED, inputs)
    for name, after, message in (
        ("hello-with-kem-key", HELLO_STAGE, more),
        ("hello-under-hybrid-terms", HELLO_STAGE, elsewhere),
        ("confirm-with-ciphertext", CONFIRM_STAGE, sent),
    ):
        yield Scenario(f"x25519-{name}", "aggregator", UNASKED, to_coordinator(after, "north", message))
