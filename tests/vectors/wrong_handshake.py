"""What a lying coordinator, or a lying site behind it, says to a site that agrees on keys."""

from collections.abc import Iterator
from dataclasses import replace

from tests.vectors.scenario import Scenario, frame_of, to_site
from tests.vectors.session import HYBRID, ROUND, SITE, identity

from synthfed.protocols.secagg import keys
from synthfed.protocols.secagg.messages import Confirm, Hello, Roll, Seal
from synthfed.protocols.secagg.policy import Policy

POLICY, HELLOS, ROLL, CONFIRMS, SEAL = HYBRID.policy, HYBRID.hellos, HYBRID.roll, HYBRID.confirms, HYBRID.seal
hello, confirm, signed = HYBRID.hello, HYBRID.confirm, HYBRID.signed
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group in which Ed25519's second half of a signature is a number."""
LOW_ORDER = (1).to_bytes(32, "little")


def second_spelling(signature: bytes) -> bytes:
    """Return the signature with its number written beyond the group's order, which RFC 8032 forbids."""
    return signature[:32] + (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")


def flipped(data: bytes, at: int = 0) -> bytes:
    """Return bytes with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def roll_with(*changed: Hello) -> Roll:
    return Roll(tuple((HELLOS | {each.site: each for each in changed}).values()))


def seal_with(*changed: Confirm) -> Seal:
    return Seal(tuple((CONFIRMS | {each.site: each for each in changed}).values()))


def rolls() -> Iterator[Scenario]:
    """Yield wrong answers to this site's Hello; accepting one would agree on keys with the wrong party."""
    north, own = HELLOS["north"], HELLOS[SITE]
    elsewhere = replace(POLICY, code=bytes(32))
    eve = hello("north", site="west", x25519=b"\x01" * 31 + b"\x02")
    for name, roll, why in (
        ("own-key-swapped", roll_with(hello(SITE, x25519=LOW_ORDER)), "its peers would agree with someone else's key"),
        ("own-nonce-swapped", roll_with(hello(SITE, nonce=bytes(32))), "its own Hello must come back bit for bit"),
        ("own-hello-missing", Roll(ROLL.hellos[:3]), "a roll without this site is not its session"),
        (
            "peer-key-swapped",
            roll_with(replace(north, x25519=bytes([9]) * 32)),
            "the coordinator would be in the middle",
        ),
        (
            "peer-kem-swapped",
            roll_with(replace(north, kem=flipped(north.kem, 7))),
            "the coordinator would be in the middle",
        ),
        ("stranger", Roll((*ROLL.hellos, signed(eve, "north"))), "a sybil outside the roster would take part"),
        ("site-twice", Roll((*ROLL.hellos, north)), "a site would count twice towards the quorum"),
        ("site-twice-with-other-keys", Roll((*ROLL.hellos, hello("north", nonce=bytes(32)))), "which of them is it?"),
        ("two-sites-one-x25519-key", roll_with(hello("north", x25519=HELLOS["alps"].x25519)), "one party as two"),
        ("two-sites-one-kem-key", roll_with(hello("north", kem=HELLOS["alps"].kem)), "one party as two"),
        ("peers-key-is-ours", roll_with(hello("north", x25519=own.x25519)), "one party as two"),
        ("hello-of-another-session", roll_with(hello("north", session=bytes(32))), "old keys may be known by now"),
        ("signature-tampered", roll_with(replace(north, signature=flipped(north.signature, 40))), "anyone's keys"),
        ("signature-second-spelling", roll_with(respelt(north)), "a message would have two encodings"),
        ("signature-zero", roll_with(replace(north, signature=bytes(64))), "anyone's keys"),
        ("signature-of-another-site", roll_with(signed(north, "alps")), "one bad site would speak for another"),
        ("signature-of-a-confirm", roll_with(replace(north, signature=CONFIRMS["north"].signature)), "domains differ"),
        ("policy-of-other-code", roll_with(under(elsewhere, north)), "sites would train different models"),
        ("journal-shortened", roll_with(replace(north, journal_length=4)), "the length is under the signature"),
        ("below-quorum", Roll(ROLL.hellos[2:]), "too few sites would add noise"),
        ("empty", Roll(()), "too few sites would add noise"),
    ):
        yield Scenario(f"roll-{name}", "site", why, to_site("open", roll))
    rolled_back = to_site("open", roll_with(hello("north", journal_length=41))) | {"journal_floors": {"north": 42}}
    yield Scenario("roll-journal-rolled-back", "site", "a site restored from a backup may repeat coins", rolled_back)
    leapt = to_site("open", roll_with(hello("north", journal_length=43 + 2**24))) | {"journal_floors": {"north": 42}}
    yield Scenario("roll-journal-leapt", "site", "no true length would ever reach the floor again", leapt)


def respelt(message: Hello) -> Hello:
    return replace(message, signature=second_spelling(message.signature))


def under(policy: Policy, message: Hello) -> Hello:
    """Return a Hello that its own site signed under another policy."""
    return replace(message, signature=keys.sign(identity(message.site), message.signed(policy.hash)))


def seals() -> Iterator[Scenario]:
    """Yield wrong answers to this site's Confirm; accepting one would use keys that not all agreed to."""
    north, own = CONFIRMS["north"], CONFIRMS[SITE]
    altered = ((SITE, flipped(north.ciphertexts[0][1], 100)),)
    for name, seal, why in (
        ("site-missing", Seal(SEAL.confirms[1:]), "whoever is left out may have seen another roll"),
        ("own-missing", Seal(SEAL.confirms[:3]), "a seal without this site is not its session"),
        ("empty", Seal(()), "nobody confirmed anything"),
        ("site-twice", Seal((*SEAL.confirms, north)), "a seal has one confirmation of every site"),
        ("stranger", Seal((*SEAL.confirms, signed(replace(north, site="west"), "north"))), "west is not in the roll"),
        ("another-transcript", seal_with(confirm("north", transcript=bytes(32))), "sites would hold different rolls"),
        ("ciphertexts-altered", seal_with(replace(north, ciphertexts=altered)), "the pair's keys would differ unseen"),
        ("ciphertexts-dropped", seal_with(replace(north, ciphertexts=())), "the pair's key would rest on X25519 alone"),
        ("ciphertext-never-sent", seal_with(confirm("north", ciphertexts=())), "the key would rest on X25519 alone"),
        ("own-changed", seal_with(confirm(SITE, ciphertexts=(("north", bytes(1088)),))), "this site never said that"),
        ("signature-tampered", seal_with(replace(north, signature=flipped(north.signature, 63))), "anyone's word"),
        (
            "signature-second-spelling",
            seal_with(replace(north, signature=second_spelling(north.signature))),
            "two encodings",
        ),
        ("signature-of-another-site", seal_with(signed(north, "alps")), "one bad site would speak for another"),
        (
            "own-signature-altered",
            seal_with(replace(own, signature=flipped(own.signature))),
            "this site never said that",
        ),
    ):
        yield Scenario(f"seal-{name}", "site", why, to_site("open roll", seal))
    yield low_order()


def low_order() -> Scenario:
    """Return a session that is agreed in all but a peer's key, with which every agreement gives zero."""
    bad = hello("north", x25519=LOW_ORDER)
    roll = roll_with(bad)
    transcript = roll.transcript(POLICY.hash)
    confirms = {name: confirm(name, transcript=transcript) for name in CONFIRMS}
    inputs = to_site("open", Seal(tuple(confirms.values())))
    inputs["after"].append({"frame": frame_of(roll)})
    return Scenario("seal-low-order-point", "site", "the agreement would be zero, which everyone knows", inputs)


def turns() -> Iterator[Scenario]:
    """Yield messages at the wrong time, each of them the honest one of this very session."""
    for after, name, message in (
        ("", "roll-when-idle", ROLL),
        ("", "seal-when-idle", SEAL),
        ("", "round-when-idle", ROUND),
        ("open", "seal-before-roll", SEAL),
        ("open", "round-before-roll", ROUND),
        ("open roll", "roll-twice", ROLL),
        ("open roll", "round-before-seal", ROUND),
        ("open roll seal", "roll-after-seal", ROLL),
        ("open roll seal", "seal-twice", SEAL),
        ("open roll seal round", "roll-after-round", ROLL),
        ("open roll seal round", "seal-after-round", SEAL),
    ):
        why = "a message out of turn could set keys back, or skip a check that comes before it"
        yield Scenario(f"turn-{name}", "site", why, to_site(after, message))
