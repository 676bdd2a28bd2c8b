"""Signatures, key agreement and ratchets."""

import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.federation import identity, refusal

from synthfed.protocols.errors import LocalProtocolError
from synthfed.protocols.ids import SITE_ID, digest, fingerprint
from synthfed.protocols.secagg import keys

DOMAINS = (
    "study", "policy", "hello", "transcript", "confirm", "context", "payload", "masked", "words", "enrolment",
    "fingerprint", "identity-secret",
)  # fmt: skip


def ephemeral(seed: int) -> keys.Ephemeral:
    kem = MLKEM768PrivateKey.from_seed_bytes(bytes([seed]) * 64)
    return keys.Ephemeral(X25519PrivateKey.from_private_bytes(bytes([seed]) * 32), kem)


# Hashes.


def test_no_two_domains_share_a_hash_of_the_same_parts() -> None:
    assert len({digest(domain, b"same") for domain in DOMAINS}) == len(DOMAINS)


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_two_lists_of_parts_share_a_hash_only_if_they_are_equal(one: list[bytes], other: list[bytes]) -> None:
    assert (digest("x", *one) == digest("x", *other)) == (one == other)


def test_a_fingerprint_is_eighty_bits_in_groups_of_four() -> None:
    assert fingerprint(b"key") == "9f81-49f5-ee0f-ba46-59d5"


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "ä", "a" * 33, "a\n"])
def test_a_malformed_site_name_does_not_match(name: str) -> None:
    assert SITE_ID.fullmatch(name) is None


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a--b", "a" * 32])
def test_a_proper_site_name_matches(name: str) -> None:
    assert SITE_ID.fullmatch(name)


# Signatures.


def test_a_signature_verifies_under_its_own_key_and_message_only() -> None:
    public = identity("a").public_key().public_bytes_raw()
    signature = keys.sign(identity("a"), b"message")
    keys.verify(public, b"message", signature, peer="a")
    for key, message, mark in [
        (identity("b").public_key().public_bytes_raw(), b"message", signature),
        (public, b"massage", signature),
        (public, b"message", signature[:-1]),
        (public, b"message", b""),
        (b"", b"message", signature),
        (bytes(31), b"message", signature),
    ]:
        expected = "a: a signature does not verify under the pinned key"
        assert refusal(lambda: keys.verify(key, message, mark, peer="a")) == expected  # noqa: B023


def test_an_identity_secret_is_a_hash_of_the_private_key() -> None:
    assert keys.identity_secret(identity("a")) == digest("identity-secret", identity("a").private_bytes_raw())
    assert keys.identity_secret(identity("a")) != keys.identity_secret(identity("b"))


# Key agreement.


def test_fresh_ephemeral_keys_differ_and_have_the_declared_lengths() -> None:
    one, other = keys.Ephemeral.generate().public, keys.Ephemeral.generate().public
    assert [len(part) for part in one] == [32, 1184]
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_both_sides_of_a_pair_agree_on_one_key() -> None:
    a, b = ephemeral(1), ephemeral(2)
    secret, ciphertext = keys.encapsulate(b.public[1], peer="b")
    assert b.kem.decapsulate(ciphertext) == secret
    one = keys.pair_key(a, b.public[0], secret, b"salt", b"info", peer="b")
    assert one == keys.pair_key(b, a.public[0], secret, b"salt", b"info", peer="a")
    assert len(one) == keys.KEY_BYTES


def test_a_pair_key_depends_on_both_agreements_the_salt_and_the_info() -> None:
    a, b, c = ephemeral(1), ephemeral(2), ephemeral(3)
    found = {
        keys.pair_key(a, b.public[0], bytes(32), b"salt", b"info", peer="b"),
        keys.pair_key(a, c.public[0], bytes(32), b"salt", b"info", peer="b"),
        keys.pair_key(a, b.public[0], bytes([1]) * 32, b"salt", b"info", peer="b"),
        keys.pair_key(a, b.public[0], bytes(32), b"other", b"info", peer="b"),
        keys.pair_key(a, b.public[0], bytes(32), b"salt", b"other", peer="b"),
    }
    assert len(found) == 5


@pytest.mark.parametrize("public", [bytes(32), (1).to_bytes(32, "little"), bytes(31), bytes(33), b""])
def test_an_x25519_key_of_low_order_or_wrong_length_is_refused(public: bytes) -> None:
    says = refusal(lambda: keys.pair_key(ephemeral(1), public, bytes(32), b"", b"", peer="b"))
    assert says == "b: its X25519 public key is malformed"


@pytest.mark.parametrize("public", [b"", bytes(1183), bytes(1185), b"\xff" * 1184])
def test_a_kem_key_of_the_wrong_length_or_out_of_range_is_refused(public: bytes) -> None:
    assert refusal(lambda: keys.encapsulate(public, peer="b")) == "b: its ML-KEM public key is malformed"


def test_a_sites_own_secret_depends_on_entropy_identity_and_transcript() -> None:
    found = {
        keys.self_key(entropy, identity(name), salt)
        for entropy in (bytes(32), b"\1" * 32)
        for name in "ab"
        for salt in (b"one", b"two")
    }
    assert len(found) == 8


# Ratchets.


def test_a_ratchet_moves_by_hmac_and_steps_add_up() -> None:
    ratchet, once = keys.Ratchet(b"k" * 32), keys.Ratchet(b"k" * 32)
    expected = b"k" * 32
    for _ in range(3):
        expected = hmac.digest(expected, b"synthfed/1/next", "sha256")
    for counter in (0, 1, 1, 3):
        ratchet.advance(counter)
    once.advance(3)
    assert bytes(ratchet._key) == bytes(once._key) == expected


def test_a_ratchet_cannot_turn_back_and_stays_where_it_was() -> None:
    ratchet = keys.Ratchet(bytes(32))
    ratchet.advance(5)
    before = ratchet.derive("mask", b"")
    with pytest.raises(LocalProtocolError, match="cannot turn back"):
        ratchet.advance(4)
    assert ratchet.derive("mask", b"") == before


def test_derived_keys_differ_by_purpose_context_and_counter() -> None:
    ratchet = keys.Ratchet(bytes(32))
    found = set()
    for counter in (0, 1):
        ratchet.advance(counter)
        found |= {ratchet.derive(purpose, context) for purpose in ("mask", "canary") for context in (b"1", b"2")}
    assert len(found) == 8


def test_erasing_a_ratchet_overwrites_its_key_in_place() -> None:
    ratchet = keys.Ratchet(b"k" * 32)
    held = ratchet._key
    ratchet.erase()
    assert held is ratchet._key
    assert held == bytes(32)
