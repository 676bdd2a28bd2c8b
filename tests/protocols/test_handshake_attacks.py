"""A handshake between liars: swapped, doubled, replayed and borrowed keys and signatures, and a drifted policy."""

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.protocols import federation as fed
from tests.protocols.federation import (
    NAMES,
    SESSION,
    Federation,
    assert_still,
    fresh,
    identity,
    refusal,
    round_of,
    session_of,
    signed_confirm,
    signed_hello,
)

from synthfed.protocols.enrolment import Enrolment
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import digest
from synthfed.protocols.privacy.plan import Plan
from synthfed.protocols.secagg import table
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.messages import Open, Roll, Seal
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Kind

SIGNED = ["hello", "confirm", "masked", "enrolment"]
NODE = "ecdsa-sha2-nistp384 AAAA"


# Swapped keys.


def test_keys_that_a_coordinator_swaps_between_two_sites_are_refused() -> None:
    federation = Federation()
    hellos = list(federation.roll().hellos)
    b, c = hellos[1:3]
    hellos[1:3] = replace(b, x25519=c.x25519, kem=c.kem), replace(c, x25519=b.x25519, kem=b.kem)
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(Roll(tuple(hellos)), {}), says="does not verify")


@pytest.mark.parametrize("change", ["another ciphertext", "none", "another's"])
def test_a_kem_ciphertext_that_a_coordinator_swaps_in_the_seal_is_refused(change: str) -> None:
    federation = Federation()
    confirms = federation.confirms(federation.roll())
    own = dict(confirms["a"].ciphertexts)
    forged = {"another ciphertext": {**own, "b": bytes(1088)}, "none": {}, "another's": {**own, "b": own["c"]}}[change]
    confirms["a"] = replace(confirms["a"], ciphertexts=tuple(forged.items()))
    site, seal = federation.sites["b"], Seal(tuple(confirms.values()))
    assert_still(site, table.Site.KEYED, lambda: site.activate(seal), says="a: a signature does not verify")


# Sybils.


def test_a_site_that_stands_twice_in_the_roll_with_different_keys_is_refused() -> None:
    federation = Federation()
    roll = federation.roll()
    x25519, kem = fresh("b").ephemeral.public
    twin = signed_hello(roll.hellos[1], "b", federation.policy.hash, x25519=x25519, kem=kem)
    site = federation.sites["a"]
    for twins in (Roll((*roll.hellos, twin)), Roll((*roll.hellos[:4], twin))):  # also in the place of e
        assert_still(site, table.Site.HELLO, lambda: site.confirm(twins, {}), says="names a site twice")  # noqa: B023


def test_a_roster_cannot_hold_one_site_or_one_key_twice() -> None:
    for twin in ({"id": "a", "key": fed.public_text("z")}, {"id": "z", "key": fed.public_text("a")}):
        fields = fed.terms()
        fields["cohort"]["sites"].append(twin)
        with pytest.raises(ValueError, match=r"lists a site twice|two sites share one key"):
            Study.model_validate(fields)


# A drifted policy.


KINDS: dict[str, Callable[[Kind], Kind]] = {
    "the noise": lambda each: replace(each, noise_multiplier=0.5),
    "the clip norm": lambda each: replace(each, sum=replace(each.sum, clip_norm=2.0)),
    "the sample rate": lambda each: replace(each, sum=replace(each.sum, sample_rate=0.2)),
    "the cap": lambda each: replace(each, sum=replace(each.sum, rounds=101)),
    "the slots": lambda each: replace(each, slots=128),
    "the ring": lambda each: replace(each, ring_bits=64),
    "the dimension": lambda each: replace(each, sum=replace(each.sum, dim=6)),
}
STUDIES: dict[str, dict[str, Any]] = {
    "the quorum": fed.terms(quorum=5),
    "the tolerated sites": fed.terms(tolerated=2),
    "a site more": fed.terms((*NAMES, "f")),
    "the answer time": fed.terms(answer_time_s=0.5),
    "the bound on units": fed.terms(units_per_site=2000),
}


def drifted(what: str) -> Policy:
    """Return a policy that differs from the others' in one thing."""
    base = fed.policy()
    if what in STUDIES:
        return fed.policy(Study.model_validate(STUDIES[what]))
    kinds = (KINDS[what](base.plan.kinds[0]), *base.plan.kinds[1:])
    return replace(base, plan=Plan(kinds, 1.0, 1.0, ((1, 1.0),)))


@pytest.mark.parametrize("what", [*KINDS, *STUDIES])
def test_one_site_that_pinned_another_policy_is_refused_by_all_and_refuses_all(what: str) -> None:
    federation = Federation(drifted={"b": drifted(what)})
    hellos = federation.hellos()
    assert "b: a signature does not verify" in refusal(lambda: federation.aggregator.add_hello("b", hellos["b"]))
    for name, site in federation.sites.items():
        says = refusal(lambda: site.confirm(Roll(tuple(hellos.values())), {}))  # noqa: B023
        assert ("b: a signature" in says) == (name != "b")
        assert site.state is table.Site.HELLO


# Replayed Hellos.


def test_a_hello_replayed_under_a_session_name_that_is_used_again_ends_in_no_session() -> None:
    federation = Federation()
    old = federation.hellos()["b"]
    new = federation.hellos()  # the same session's name: the signature and the session of the old Hello are good
    assert old.session == new["b"].session == SESSION
    replayed, honest = Roll(tuple({**new, "b": old}.values())), Roll(tuple(new.values()))
    assert "this site's own Hello" in refusal(lambda: federation.sites["b"].confirm(replayed, {}))
    confirms = {name: federation.sites[name].confirm(replayed, {}) for name in "acde"}
    confirms["b"] = federation.sites["b"].confirm(honest, {})
    seal = Seal(tuple(confirms.values()))
    for name, site in federation.sites.items():
        assert "confirmed another transcript" in refusal(lambda: site.activate(seal))  # noqa: B023
        assert site.state is table.Site.KEYED, name


def test_a_confirmation_or_a_seal_replayed_from_an_earlier_session_is_refused() -> None:
    federation = Federation()
    old = federation.confirms(federation.roll())
    federation.aggregator = Aggregator(federation.policy, bytes(32))
    new = federation.confirms(federation.roll())
    assert "another transcript" in refusal(lambda: federation.aggregator.add_confirm("b", old["b"]))
    site = federation.sites["a"]
    for confirms, says in (({**new, "b": old["b"]}, "b confirmed another transcript"), (old, "own confirmation")):
        seal = Seal(tuple(confirms.values()))
        assert_still(site, table.Site.KEYED, lambda: site.activate(seal), says=says)  # noqa: B023


# Borrowed signatures.


def signatures_of_b() -> tuple[Federation, dict[str, Any]]:
    """Return a federation with an open round, and one genuine message of site b of every signed kind."""
    federation = Federation()
    roll = federation.roll()
    confirms = federation.confirms(roll)
    unsealed = Aggregator(federation.policy, fed.SESSION)
    for hello in roll.hellos:
        unsealed.add_hello(hello.site, hello)
    unsealed.roll()
    for name, confirm in confirms.items():
        federation.aggregator.add_confirm(name, confirm)
    seal = federation.aggregator.seal()
    for site in federation.sites.values():
        site.activate(seal)
    masked = federation.answer("b", federation.aggregator.round(NAMES, "steps", b""), np.zeros(fed.DIM, dtype=np.int64))
    enrolment = Enrolment.signed("b", "", identity("b"), NODE)
    found = {"hello": roll.hellos[1], "confirm": confirms["b"], "masked": masked, "enrolment": enrolment}
    return federation, {**found, "unsealed": unsealed}


@pytest.mark.parametrize("lent", SIGNED)
@pytest.mark.parametrize("wanted", SIGNED)
def test_a_signature_of_one_kind_of_message_is_good_for_no_other(lent: str, wanted: str) -> None:
    federation, found = signatures_of_b()
    signature = found[lent].signature
    if lent == "enrolment":
        signature = base64.b64decode(signature)
    if wanted == "enrolment":
        borrowed = found["enrolment"].model_copy(update={"signature": base64.b64encode(signature).decode()})
    else:
        borrowed = replace(found[wanted], signature=signature)
    other = Federation()  # where no Hello was taken yet
    takes: dict[str, Any] = {
        "hello": lambda: other.aggregator.add_hello("b", borrowed),
        "confirm": lambda: found["unsealed"].add_confirm("b", borrowed),
        "masked": lambda: federation.aggregator.add_masked("b", borrowed),
        "enrolment": lambda: borrowed.verify(where="b.json"),
    }
    if lent == wanted:
        takes[wanted]()
    elif wanted == "enrolment":
        with pytest.raises(ConfigError, match="not signed by its own key"):
            takes[wanted]()
    else:
        assert "b: a signature does not verify" in refusal(takes[wanted])


def test_no_message_can_be_made_to_sign_what_another_kind_signs() -> None:
    """With all the other's parts in its place, a message still differs by its domain."""
    _, found = signatures_of_b()
    confirm, masked = found["confirm"], found["masked"]
    parts = (masked.context, b"b", digest("words", masked.words), masked.canary)
    assert masked.signed("b") == digest("masked", *parts)
    others = ("hello", "confirm", "enrolment", "transcript", "context", "policy")
    assert masked.signed("b") not in {digest(domain, *parts) for domain in others}
    listed = len(confirm.ciphertexts).to_bytes(8, "little")
    for name, text in confirm.ciphertexts:
        listed += len(name).to_bytes(4, "little") + name.encode() + len(text).to_bytes(4, "little") + text
    assert confirm.signed() == digest("confirm", confirm.transcript, listed, b"b")
    assert confirm.signed() != digest("hello", confirm.transcript, listed, b"b")


# Malformed keys and signatures, wherever a site or the coordinator reads them.


def unreduced(signature: bytes) -> bytes:
    order = 2**252 + 27742317777372353535851937790883648493
    return signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")


def test_a_signature_that_is_not_canonical_is_refused_in_every_message() -> None:
    federation, found = signatures_of_b()
    site = Federation()
    roll = site.roll()
    hellos = [replace(h, signature=unreduced(h.signature)) if h.site == "b" else h for h in roll.hellos]
    says = "b: a signature does not verify"
    machine = site.sites["a"]
    assert_still(machine, table.Site.HELLO, lambda: machine.confirm(Roll(tuple(hellos)), {}), says=says)
    confirms = site.confirms(roll)
    confirms["b"] = replace(confirms["b"], signature=unreduced(confirms["b"].signature))
    assert_still(machine, table.Site.KEYED, lambda: machine.activate(Seal(tuple(confirms.values()))), says=says)
    bad = {kind: replace(found[kind], signature=unreduced(found[kind].signature)) for kind in SIGNED[:3]}
    assert says in refusal(lambda: site.aggregator.add_confirm("b", confirms["b"]))
    assert says in refusal(lambda: Federation().aggregator.add_hello("b", bad["hello"]))
    assert says in refusal(lambda: federation.aggregator.add_masked("b", bad["masked"]))
    enrolment = found["enrolment"]
    forged = base64.b64encode(unreduced(base64.b64decode(enrolment.signature))).decode()
    with pytest.raises(ConfigError, match="not signed by its own key"):
        enrolment.model_copy(update={"signature": forged}).verify(where="b.json")


@pytest.mark.parametrize("size", [0, 1087, 1089])
def test_a_kem_ciphertext_of_the_wrong_length_is_refused(size: int) -> None:
    federation = Federation()
    confirms = federation.confirms(federation.roll())
    forged = tuple((name, bytes(size) if name == "b" else text) for name, text in confirms["a"].ciphertexts)
    confirms["a"] = signed_confirm(confirms["a"], "a", ciphertexts=forged)
    site, seal = federation.sites["b"], Seal(tuple(confirms.values()))
    says = "its ML-KEM ciphertext is malformed"
    assert_still(site, table.Site.KEYED, lambda: site.activate(seal), says=says)


def test_a_closed_session_overwrites_its_keys_and_answers_nothing_it_answered_before() -> None:
    federation = Federation().active()
    site = federation.sites["a"]
    federation.answer("a", round_of(), np.zeros(fed.DIM, dtype=np.int64))
    session = session_of(site)
    held = [ratchet._key for ratchet in (session.own, *session.ratchets.values())]
    site.close()
    assert held == [bytearray(32)] * len(NAMES)
    assert site.repeated(round_of()) is None
    assert "ROUND is not allowed in state IDLE" in refusal(lambda: site.accept(round_of(2)))
    site.hello(Open(SESSION), fresh("a"))
    assert session_of(site).ratchets == {}
