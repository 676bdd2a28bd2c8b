"""Frames, bodies and payloads that no honest program writes."""

import pickle
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from tests.vectors.generate import CONFIRM, HELLO, ROUND, SEQUENCE
from tests.vectors.scenario import Scenario, frame_of, to_site
from tests.vectors.session import PAYLOAD
from tests.vectors.session import ROUND as SESSION_ROUND

from synthfed.protocols.secagg.messages import Confirm, Masked, Open, Roll, encode
from synthfed.protocols.wire import MAX_BODY_BYTES, Frame, Writer

OPENING = encode(Open(b"\x01" * 32), SEQUENCE)


def framing() -> Iterator[Scenario]:
    """Yield what is not one whole frame of this version."""
    for name, data, why in (
        ("empty", b"", "nothing at all is not a frame"),
        ("header-cut", OPENING[:11], "a header has twelve bytes"),
        ("wrong-magic", b"XF" + OPENING[2:], "another program's bytes must not be read as ours"),
        ("magic-in-lower-case", b"sf" + OPENING[2:], "the magic has one spelling"),
        ("version-zero", OPENING[:2] + b"\x00" + OPENING[3:], "there is no version before the first"),
        ("version-next", OPENING[:2] + b"\x02" + OPENING[3:], "a later version may mean anything"),
        ("length-longer", OPENING[:-1], "the header promises a byte that never came"),
        ("length-shorter", OPENING + b"\0", "bytes behind the body could carry a second message"),
        ("length-big-endian", OPENING[:8] + OPENING[8:12][::-1] + OPENING[12:], "integers are little-endian"),
        ("body-above-limit", with_length(MAX_BODY_BYTES + 1), "a length must not make a receiver reserve memory"),
        ("body-largest-length", with_length(2**32 - 1), "a length must not make a receiver reserve memory"),
    ):
        yield Scenario(f"frame-{name}", "frame", why, {"frame": frame_of(data)})


def with_length(length: int) -> bytes:
    return OPENING[:8] + length.to_bytes(4, "little") + OPENING[12:]


def messages() -> Iterator[Scenario]:
    """Yield frames whose body is not the one encoding of a known message."""
    one_site = Writer().number(1).number(1)
    session = Writer().data(b"\x01" * 32).finish()
    long_field = Writer().data(b"\x0c" * 32).finish() + b"\xff\xff\xff\xff"
    second = replace(HELLO, journal_length=2**63)
    for name, data, why in (
        ("type-zero", Frame(0, SEQUENCE, b""), "no message has the number zero"),
        ("type-unknown", Frame(10, SEQUENCE, b""), "a number without a meaning has none to guess"),
        ("body-empty", Frame(1, SEQUENCE, b""), "a field is missing"),
        ("field-cut", Frame(1, SEQUENCE, session[:-1]), "the body ends inside a field"),
        ("field-length-beyond-body", Frame(8, SEQUENCE, long_field), "a length reaches beyond the body"),
        ("trailing-byte", Frame(6, SEQUENCE, b"\0"), "a message has one encoding, with nothing behind it"),
        ("trailing-field", Frame(1, SEQUENCE, session + session), "a message has one encoding, with nothing behind it"),
        ("session-too-short", Open(b"\x01" * 31), "a session is named by 32 bytes"),
        ("session-too-long", Open(b"\x01" * 33), "a session is named by 32 bytes"),
        ("x25519-key-too-short", replace(HELLO, x25519=b"\x02" * 31), "an X25519 key has 32 bytes"),
        ("kem-key-too-short", replace(HELLO, kem=b"\x03" * 1183), "an ML-KEM-768 key has 1184 bytes, or is not there"),
        ("kem-key-too-long", replace(HELLO, kem=b"\x03" * 1185), "an ML-KEM-768 key has 1184 bytes"),
        ("signature-too-short", replace(HELLO, signature=b"\x07" * 63), "an Ed25519 signature has 64 bytes"),
        ("signature-empty", replace(CONFIRM, signature=b""), "an unsigned message is no message"),
        ("ciphertext-too-short", replace(CONFIRM, ciphertexts=(("b-2", b"\x09" * 1087),)), "it has 1088 bytes"),
        ("ciphertext-empty", replace(CONFIRM, ciphertexts=(("b-2", b""),)), "whoever sends none lists none"),
        ("canary-too-long", Masked(b"\x0c" * 32, b"", b"\x0e" * 65, b"\x0f" * 64), "a canary has eight words at most"),
        ("site-name-upper-case", replace(HELLO, site="A"), "a name becomes part of file names"),
        ("site-name-empty", replace(HELLO, site=""), "a name becomes part of file names"),
        ("site-name-path", replace(HELLO, site="../a"), "a name becomes part of file names"),
        ("site-name-line-break", replace(HELLO, site="a\n"), "a name has no end that a reader may overlook"),
        ("site-name-too-long", replace(HELLO, site="a" * 33), "a name has at most 32 characters"),
        ("site-name-not-utf8", Frame(7, SEQUENCE, one_site.data(b"\xff").finish()), "texts are UTF-8"),
        ("kind-too-long", replace(ROUND, kind="k" * 65), "a text has at most 64 bytes"),
        ("kind-overlong-utf8", overlong_kind(), "UTF-8 has one encoding of a character"),
        ("roll-too-long", Roll((HELLO,) * 51), "a roster has at most 50 sites"),
        ("roll-count-alone", Frame(3, SEQUENCE, Writer().number(2**64 - 1).finish()), "a count is no reason to loop"),
        ("cohort-too-long", replace(ROUND, cohort=("a",) * 51), "a roster has at most 50 sites"),
        ("ciphertexts-too-many", Confirm("a", bytes(32), (("b", bytes(1088)),) * 51, bytes(64)), "at most 50 sites"),
        ("refusal-code-zero", Frame(9, SEQUENCE, Writer().number(0).finish()), "a refusal has one of four codes"),
        ("refusal-code-unknown", Frame(9, SEQUENCE, Writer().number(5).finish()), "a refusal has one of four codes"),
        ("journal-length-2-63", second, "a ledger's integers are signed"),
        ("journal-length-2-63-in-roll", Roll((HELLO, second)), "a ledger's integers are signed"),
    ):
        whole = data.encode() if isinstance(data, Frame) else data
        yield Scenario(f"message-{name}", "message", why, {"frame": frame_of(whole)})


def overlong_kind() -> Frame:
    body = Writer().number(9).number(0).data(b"\xc1\xb3").data(b"")
    return Frame(7, SEQUENCE, body.finish())


def payloads() -> Iterator[Scenario]:
    """Yield payloads of a round that is fine in everything else; whoever takes one computes on a lie."""
    for name, payload, why in (
        ("empty", b"", "a payload has the declared size"),
        ("value-missing", PAYLOAD[:-4], "a payload has the declared size"),
        ("value-too-many", PAYLOAD + bytes(4), "a payload has the declared size"),
        ("byte-too-many", PAYLOAD + b"\0", "a payload has the declared size"),
        ("double-precision", np.frombuffer(PAYLOAD, "<f4").astype("<f8").tobytes(), "a value has four bytes"),
        ("pickle", pickle.dumps([1.0, 2.0], protocol=4), "a payload is never unpickled"),
        ("pickle-of-the-right-size", b"cos\nsystem\n(S'false'\ntR.", "a payload is never unpickled"),
        ("nan", with_value(np.nan), "one NaN makes every gradient NaN"),
        ("signalling-nan", PAYLOAD[:-4] + b"\x01\x00\x80\x7f", "one NaN makes every gradient NaN"),
        ("infinity", with_value(np.inf), "infinite weights make every clipped gradient zero or NaN"),
        ("minus-infinity", with_value(-np.inf), "infinite weights make every clipped gradient zero or NaN"),
        ("1e38", with_value(1e38), "a huge weight overflows in the forward pass"),
        ("just-above-limit", with_value(np.nextafter(np.float32(1e4), np.float32(2e4))), "at most 10,000"),
        ("big-endian", np.array([0.1] * 6, dtype=">f4").tobytes(), "in the other byte order 0.1 is -429,496,730"),
    ):
        message = replace(SESSION_ROUND, payload=payload)
        yield Scenario(f"payload-{name}", "payload", why, to_site("open roll seal", message))


def with_value(value: float | np.float32) -> bytes:
    values = np.frombuffer(PAYLOAD, dtype="<f4").copy()
    values[3] = value
    return values.tobytes()
