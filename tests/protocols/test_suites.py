"""Key agreement by the study's choice: hybrid, or in `local` X25519 alone; nobody can be talked into the other."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.protocols.federation import (
    DIM,
    NAMES,
    SESSION,
    Federation,
    assert_still,
    fresh,
    policy,
    refusal,
    session_of,
    signed_confirm,
    signed_hello,
    study_of,
)

from synthfed.protocols.errors import LocalProtocolError
from synthfed.protocols.ids import digest
from synthfed.protocols.secagg import keys, table
from synthfed.protocols.secagg.messages import Open, Roll, Seal
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.suites import KEM_KEY_BYTES, SUITES, KeyAgreement
from synthfed.protocols.study import canonical_json

HYBRID, CLASSIC = SUITES["hybrid"], SUITES["x25519"]
AGREEMENTS: tuple[KeyAgreement, ...] = ("hybrid", "x25519")
SAYS = "not the keys of the study's key agreement"


def local(agreement: KeyAgreement) -> Policy:
    return policy(study_of(mode="local", aggregation={"key_agreement": agreement}))


# The terms.


def test_keys_are_hybrid_unless_the_terms_say_otherwise() -> None:
    assert study_of().aggregation.key_agreement == "hybrid"
    assert policy().suite == HYBRID


def test_x25519_alone_is_a_choice_in_local_and_refused_in_distributed() -> None:
    assert local("x25519").suite == CLASSIC
    with pytest.raises(ValidationError, match=r'needs privacy\.mode = "local".*use "hybrid"'):
        study_of(aggregation={"key_agreement": "x25519"})


@pytest.mark.parametrize("name", ["", "X25519", "mlkem768", "none"])
def test_an_unknown_key_agreement_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="key_agreement"):
        study_of(mode="local", aggregation={"key_agreement": name})


def test_the_suites_name_enters_the_policys_hash_and_with_it_the_transcript() -> None:
    found = {agreement: local(agreement) for agreement in AGREEMENTS}
    assert len({each.hash for each in found.values()}) == 2
    assert len({Roll(()).transcript(each.hash) for each in found.values()}) == 2


def test_the_suites_name_enters_the_policys_hash_beside_the_terms() -> None:
    pinned = local("x25519")
    kinds = canonical_json([kind.declaration() for kind in pinned.plan.kinds])
    name = b"ed25519+x25519+hkdf-sha256/1"
    assert pinned.hash == digest("policy", pinned.study.canonical, kinds, pinned.code, name)


# The keys.


def test_fresh_keys_are_those_of_their_suite() -> None:
    assert [len(part) for part in keys.Ephemeral.generate(HYBRID).public] == [32, KEM_KEY_BYTES]
    assert [len(part) for part in keys.Ephemeral.generate(CLASSIC).public] == [32, 0]


def test_two_suites_never_share_a_pairs_key() -> None:
    own, peer = (X25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2))
    ephemeral, theirs = keys.Ephemeral(own, None), peer.public_key().public_bytes_raw()
    renamed = replace(CLASSIC, name=HYBRID.name)
    one, other = (keys.pair_key(suite, ephemeral, theirs, b"", b"s", b"i", peer="b") for suite in (CLASSIC, renamed))
    assert one != other


@pytest.mark.parametrize(("agreement", "secret"), [("hybrid", b""), ("x25519", bytes(32))])
def test_a_pairs_key_without_or_with_a_second_secret_too_many_is_not_derived(
    agreement: KeyAgreement, secret: bytes
) -> None:
    own = keys.Ephemeral.generate(CLASSIC)
    with pytest.raises(LocalProtocolError, match="exactly the agreements of its suite"):
        keys.pair_key(SUITES[agreement], own, own.public[0], secret, b"", b"", peer="b")


def test_nothing_is_decapsulated_without_a_kem_key() -> None:
    with pytest.raises(LocalProtocolError, match="without an ML-KEM key"):
        keys.decapsulate(keys.Ephemeral.generate(CLASSIC), bytes(1088), peer="b")


# The handshake.


@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_a_session_of_either_suite_adds_up(agreement: KeyAgreement) -> None:
    federation = Federation(pinned=local(agreement)).active()
    values = {name: np.full(DIM, place, dtype=np.int64) for place, name in enumerate(NAMES)}
    federation.collect(federation.aggregator.round(NAMES, "steps", b""), values)
    assert federation.aggregator.total().tolist() == [10] * DIM


def test_with_x25519_alone_no_kem_key_and_no_ciphertext_is_sent() -> None:
    federation = Federation(pinned=local("x25519"))
    roll = federation.roll()
    assert {hello.kem for hello in roll.hellos} == {b""}
    assert {confirm.ciphertexts for confirm in federation.confirms(roll).values()} == {()}


def test_with_x25519_alone_every_pair_has_a_key_of_its_own_that_both_hold() -> None:
    federation = Federation(pinned=local("x25519")).active()
    found: dict[tuple[str, ...], set[bytes]] = {}
    for name, site in federation.sites.items():
        for peer, ratchet in session_of(site).ratchets.items():
            found.setdefault(tuple(sorted((name, peer))), set()).add(bytes(ratchet._key))
    assert all(len(held) == 1 for held in found.values())
    assert len(set.union(*found.values())) == len(NAMES) * (len(NAMES) - 1) // 2


@pytest.mark.parametrize(("agreement", "kem"), [("hybrid", b""), ("x25519", b"k" * KEM_KEY_BYTES)])
def test_a_hello_of_the_other_suite_is_refused_by_sites_and_coordinator(agreement: KeyAgreement, kem: bytes) -> None:
    federation = Federation(pinned=local(agreement))
    roll = federation.roll()
    lie = signed_hello(roll.hellos[1], "b", federation.policy.hash, kem=kem)
    site = federation.sites["a"]
    offered = Roll((roll.hellos[0], lie, *roll.hellos[2:]))
    assert_still(site, table.Site.HELLO, lambda: site.confirm(offered, {}), says=SAYS)
    assert SAYS in refusal(lambda: Federation(pinned=local(agreement)).aggregator.add_hello("b", lie))


@pytest.mark.parametrize("liar", ["a", "c"])
@given(receivers=st.lists(st.sampled_from([*NAMES, "x"]), max_size=5))
def test_ciphertexts_for_other_sites_than_the_suite_has_are_refused(liar: str, receivers: list[str]) -> None:
    for agreement in AGREEMENTS:
        right = [later for later in NAMES if later > liar] if agreement == "hybrid" else []
        if receivers == right:
            continue
        federation = Federation(pinned=local(agreement))
        confirms = federation.confirms(federation.roll())
        sent = tuple((name, bytes(1088)) for name in receivers)
        confirms[liar] = signed_confirm(confirms[liar], liar, ciphertexts=sent)
        site, seal = federation.sites["b"], Seal(tuple(confirms.values()))
        says = f"the ciphertexts of {liar} are not those of the study's key agreement"
        assert_still(site, table.Site.KEYED, lambda: site.activate(seal), says=says)  # noqa: B023
        lie = confirms[liar]
        assert "its ciphertexts are not" in refusal(lambda: federation.aggregator.add_confirm(liar, lie))  # noqa: B023


@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_a_site_that_pinned_the_other_suite_is_refused_and_refuses(agreement: KeyAgreement) -> None:
    other = local("x25519" if agreement == "hybrid" else "hybrid")
    federation, drifted = Federation(pinned=local(agreement)), Federation(pinned=other)
    hellos, strange = federation.hellos(), drifted.hellos()
    assert "does not verify" in refusal(lambda: federation.aggregator.add_hello("b", strange["b"]))
    mixed = Roll(tuple((hellos | {"b": strange["b"]}).values()))
    for site, state in ((federation.sites["a"], table.Site.HELLO), (drifted.sites["b"], table.Site.HELLO)):
        assert_still(site, state, lambda: site.confirm(mixed, {}), says="does not verify")  # noqa: B023


@pytest.mark.parametrize(("agreement", "drawn"), [("hybrid", CLASSIC), ("x25519", HYBRID)])
def test_fresh_keys_of_the_other_suite_are_our_own_mistake(agreement: KeyAgreement, drawn: Any) -> None:
    site = Federation(pinned=local(agreement)).sites["a"]
    with pytest.raises(LocalProtocolError, match="fresh keys must be those of"):
        site.hello(Open(SESSION), fresh("a", suite=drawn))
    assert site.state is table.Site.IDLE
