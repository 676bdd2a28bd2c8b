"""Signatures, key agreement and ratchets."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.federation import identity, refusal

from synthfed.protocols.errors import LocalProtocolError
from synthfed.protocols.ids import SITE_ID, digest, fingerprint
from synthfed.protocols.secagg import keys
from synthfed.protocols.secagg.suites import SUITES

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


ORDER = 2**252 + 27742317777372353535851937790883648493
PRIME = 2**255 - 19


@pytest.mark.parametrize("times", [1, 2, 7, 14])
def test_a_signature_whose_scalar_is_not_reduced_is_refused(times: int) -> None:
    public, signature = identity("a").public_key().public_bytes_raw(), keys.sign(identity("a"), b"message")
    scalar = int.from_bytes(signature[32:], "little") + times * ORDER
    malleable = signature[:32] + scalar.to_bytes(32, "little")
    assert "does not verify" in refusal(lambda: keys.verify(public, b"message", malleable, peer="a"))
    keys.verify(public, b"message", signature, peer="a")


@pytest.mark.parametrize(
    ("point", "is_canonical"),
    [(1, True), (PRIME + 1, False), (2**255 + 1, False), (2**255 + PRIME + 1, False)],
    ids=["canonical", "not reduced", "a sign of zero", "both"],
)
def test_a_signature_whose_point_has_a_second_spelling_is_refused(point: int, is_canonical: bool) -> None:
    """The signer itself picks the neutral element, whose nonce is zero: the one point that it can spell anew."""
    public, message = identity("a").public_key().public_bytes_raw(), b"message"
    half = bytearray(hashlib.sha512(identity("a").private_bytes_raw()).digest()[:32])
    half[0] &= 248
    half[31] = half[31] & 63 | 64
    spelled = point.to_bytes(32, "little")
    challenge = int.from_bytes(hashlib.sha512(spelled + public + message).digest(), "little")
    scalar = challenge * int.from_bytes(half, "little") % ORDER
    signature = spelled + scalar.to_bytes(32, "little")
    if is_canonical:  # the construction is right
        keys.verify(public, message, signature, peer="a")
    else:
        assert "does not verify" in refusal(lambda: keys.verify(public, message, signature, peer="a"))


def test_an_identity_secret_is_a_hash_of_the_private_key() -> None:
    assert keys.identity_secret(identity("a")) == digest("identity-secret", identity("a").private_bytes_raw())
    assert keys.identity_secret(identity("a")) != keys.identity_secret(identity("b"))


# Key agreement.


def test_fresh_ephemeral_keys_differ_and_have_the_declared_lengths() -> None:
    one, other = keys.Ephemeral.generate(SUITES["hybrid"]).public, keys.Ephemeral.generate(SUITES["hybrid"]).public
    assert [len(part) for part in one] == [32, 1184]
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_both_sides_of_a_pair_agree_on_one_key() -> None:
    a, b = ephemeral(1), ephemeral(2)
    secret, ciphertext = keys.encapsulate(b.public[1], peer="b")
    assert keys.decapsulate(b, ciphertext, peer="a") == secret
    one = keys.pair_key(SUITES["hybrid"], a, b.public[0], secret, b"salt", b"info", peer="b")
    assert one == keys.pair_key(SUITES["hybrid"], b, a.public[0], secret, b"salt", b"info", peer="a")
    assert len(one) == keys.KEY_BYTES


def test_a_pair_key_depends_on_both_agreements_the_salt_and_the_info() -> None:
    a, b, c = ephemeral(1), ephemeral(2), ephemeral(3)
    found = {
        keys.pair_key(SUITES["hybrid"], a, b.public[0], bytes(32), b"salt", b"info", peer="b"),
        keys.pair_key(SUITES["hybrid"], a, c.public[0], bytes(32), b"salt", b"info", peer="b"),
        keys.pair_key(SUITES["hybrid"], a, b.public[0], bytes([1]) * 32, b"salt", b"info", peer="b"),
        keys.pair_key(SUITES["hybrid"], a, b.public[0], bytes(32), b"other", b"info", peer="b"),
        keys.pair_key(SUITES["hybrid"], a, b.public[0], bytes(32), b"salt", b"other", peer="b"),
    }
    assert len(found) == 5


@pytest.mark.parametrize("public", [bytes(32), (1).to_bytes(32, "little"), bytes(31), bytes(33), b""])
def test_an_x25519_key_of_low_order_or_wrong_length_is_refused(public: bytes) -> None:
    says = refusal(lambda: keys.pair_key(SUITES["hybrid"], ephemeral(1), public, bytes(32), b"", b"", peer="b"))
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


# Points of small order.


def doubled(y: int) -> int:
    """Return the y coordinate of twice a point of the curve, from y alone (RFC 8032, section 5.1.4)."""
    field, d = 2**255 - 19, -121665 * pow(121666, -1, 2**255 - 19)
    x2 = (y * y - 1) * pow(d * y * y + 1, -1, field) % field
    return (y * y + x2) * pow(1 - d * x2 * y * y, -1, field) % field


def test_every_point_whose_eightfold_is_neutral_is_no_identity_however_it_is_spelt() -> None:
    for y in keys._SMALL_ORDER:
        assert doubled(doubled(doubled(y))) == 1
        for spelt in (y, y + 2**255 - 19):
            for sign in (0, 1):
                if spelt < 2**255:
                    assert not keys.is_identity((spelt + (sign << 255)).to_bytes(32, "little"))


def test_the_five_heights_of_points_of_small_order_are_known_one_by_one() -> None:
    field = 2**255 - 19
    order_two, order_four = field - 1, 0
    for y in (1, order_two, order_four):
        assert not keys.is_identity(y.to_bytes(32, "little"))
    eighths = [y for y in keys._SMALL_ORDER if doubled(y) == order_four]
    assert len(eighths) == 2
    assert sum(eighths) == field


def test_under_a_point_of_small_order_one_signature_is_good_for_every_message_so_no_site_may_have_one() -> None:
    neutral = (1).to_bytes(32, "little")
    for message in (b"one", b"other"):
        keys.verify(neutral, message, neutral + bytes(32), peer="a")
    assert not keys.is_identity(neutral)


@given(st.binary(min_size=32, max_size=32))
def test_the_key_of_any_private_key_is_an_identity(seed: bytes) -> None:
    assert keys.is_identity(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
