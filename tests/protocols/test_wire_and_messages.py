"""Frames, fields and messages: one canonical encoding, every limit, and nothing but refusals for the rest."""

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.federation import refusal
from tests.vectors.generate import CONFIRM, HELLO, MASKED, MESSAGES, ROUND

from synthfed.protocols.cohort import MAX_SITES
from synthfed.protocols.errors import RemoteProtocolError
from synthfed.protocols.secagg.messages import (
    Hello,
    Message,
    Open,
    Roll,
    Seal,
    decode,
    encode,
)
from synthfed.protocols.wire import HEADER, MAX_BODY_BYTES, Frame, Reader, Writer, read_header

NAMED = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)


def hello_with(field: str, value: bytes) -> Hello:
    change: dict[str, Any] = {field: value}
    return replace(HELLO, **change)


def body_of(message: Message) -> bytes:
    return encode(message, 0)[HEADER.size :]


def frame_of(number: int, body: bytes) -> bytes:
    return Frame(number, 0, body).encode()


# Frames.


@given(kind=st.integers(0, 255), sequence=st.integers(0, 2**32 - 1), body=st.binary(max_size=50))
def test_a_frame_survives_the_wire(kind: int, sequence: int, body: bytes) -> None:
    frame = Frame(kind, sequence, body)
    assert Frame.decode(frame.encode()) == frame


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "shorter than its header"),
        (Frame(1, 0, b"").encode()[:-1], "shorter than its header"),
        (Frame(1, 0, b"abc").encode()[:-1], "length differs from its header"),
        (Frame(1, 0, b"abc").encode() + b"x", "length differs from its header"),
        (b"XX" + Frame(1, 0, b"").encode()[2:], "not a synthfed frame"),
        (b"SF\x02" + Frame(1, 0, b"").encode()[3:], "frame version 2 is not supported"),
        (struct.pack("<2sBBII", b"SF", 1, 1, 0, MAX_BODY_BYTES + 1), "longer than the limit"),
        (struct.pack("<2sBBII", b"SF", 1, 1, 0, MAX_BODY_BYTES), "length differs from its header"),
    ],
)
def test_a_malformed_frame_is_refused(data: bytes, problem: str) -> None:
    assert problem in refusal(lambda: Frame.decode(data))


def test_a_header_tells_how_much_to_read_up_to_the_limit() -> None:
    assert read_header(struct.pack("<2sBBII", b"SF", 1, 9, 5, MAX_BODY_BYTES)) == (9, 5, MAX_BODY_BYTES)


# Fields.


@given(number=st.integers(0, 2**64 - 1), data=st.binary(max_size=20), text=st.text(max_size=16))
def test_fields_are_read_in_the_order_they_were_written(number: int, data: bytes, text: str) -> None:
    reader = Reader(Writer().number(number).data(data).text(text).finish())
    assert (reader.number(), reader.data(), reader.text()) == (number, data, text)
    reader.finish()


@pytest.mark.parametrize(
    ("body", "read", "problem"),
    [
        (b"1234567", Reader.number, "ends inside a field"),
        (b"\1\0\0", Reader.data, "ends inside a field"),
        (b"\2\0\0\0a", Reader.data, "ends inside a field"),
        (b"\xff\xff\xff\xff", Reader.data, "wrong length"),
        (b"\2\0\0\0ab", lambda reader: reader.data(3), "wrong length"),
        (b"\2\0\0\0ab", lambda reader: reader.data(1), "wrong length"),
        (b"\2\0\0\0ab", lambda reader: reader.data(limit=1), "wrong length"),
        (Writer().text("x" * 65).finish(), Reader.text, "wrong length"),
        (b"\2\0\0\0\xff\xfe", Reader.text, "not UTF-8"),
        (b"\2\0\0\0\xc0\x80", Reader.text, "not UTF-8"),
        (b"a", Reader.finish, "bytes after its last field"),
    ],
)
def test_a_malformed_field_is_refused(body: bytes, read: Callable[[Reader], object], problem: str) -> None:
    assert problem in refusal(lambda: read(Reader(body)))


# Messages.


@NAMED
def test_every_message_survives_the_wire_with_its_sequence_number(message: Message) -> None:
    assert decode(encode(message, 2**32 - 1)) == (message, 2**32 - 1)


@NAMED
def test_a_message_with_a_byte_more_or_less_is_refused(message: Message) -> None:
    number, body = encode(message, 0)[3], body_of(message)
    assert refusal(lambda: decode(frame_of(number, body + b"\0")))
    if body:
        assert refusal(lambda: decode(frame_of(number, body[:-1])))


@pytest.mark.parametrize("number", [0, 10, 255])
def test_an_unknown_message_type_is_refused(number: int) -> None:
    assert f"message type {number} is not known" in refusal(lambda: decode(frame_of(number, b"")))


@pytest.mark.parametrize(
    "message",
    [
        Open(b"s" * 31),
        Open(b"s" * 33),
        *[
            hello_with(field, b"x" * size)
            for field, right in (("session", 32), ("x25519", 32), ("nonce", 32), ("journal_head", 32), ("kem", 1184))
            for size in (*([0] if field != "kem" else []), right - 1, right + 1)
        ],
        replace(HELLO, signature=b"g" * 63),
        Roll((replace(HELLO, signature=b"g" * 65),)),
        replace(CONFIRM, transcript=b""),
        replace(CONFIRM, signature=b""),
        replace(CONFIRM, ciphertexts=(("b", b"c" * 1087),)),
        replace(CONFIRM, ciphertexts=(("b", b"c" * 1089),)),
        replace(CONFIRM, ciphertexts=(("b", b""),)),
        Seal((replace(CONFIRM, signature=b""),)),
        replace(ROUND, kind="k" * 65),
        replace(MASKED, context=b"t" * 31),
        replace(MASKED, canary=b"y" * 65),
        replace(MASKED, signature=b"g" * 65),
    ],
)
def test_a_field_of_the_wrong_length_is_refused(message: Message) -> None:
    assert "wrong length" in refusal(lambda: decode(encode(message, 0)))


@pytest.mark.parametrize("name", ["", "A", "-", "a b", "a/../b", "\u00e4", "a" * 33])
def test_a_malformed_site_name_is_refused_wherever_it_stands(name: str) -> None:
    for message in (
        replace(HELLO, site=name),
        Roll((replace(HELLO, site=name),)),
        replace(CONFIRM, site=name),
        replace(CONFIRM, ciphertexts=((name, b"c" * 1088),)),
        replace(ROUND, cohort=(name,)),
    ):
        assert "a site name is malformed" in refusal(lambda: decode(encode(message, 0)))  # noqa: B023


@pytest.mark.parametrize(
    "message_of",
    [
        lambda count: Roll((HELLO,) * count),
        lambda count: replace(CONFIRM, ciphertexts=(("b", b"c" * 1088),) * count),
        lambda count: Seal((replace(CONFIRM, ciphertexts=()),) * count),
        lambda count: replace(ROUND, cohort=("a",) * count),
    ],
    ids=["roll", "ciphertexts", "seal", "cohort"],
)
def test_a_list_of_sites_longer_than_a_roster_is_refused(message_of: Callable[[int], Message]) -> None:
    assert decode(encode(message_of(MAX_SITES), 0))[0] == message_of(MAX_SITES)
    assert "a list of sites is too long" in refusal(lambda: decode(encode(message_of(MAX_SITES + 1), 0)))


def test_a_list_that_promises_more_than_it_holds_is_refused_before_it_is_built() -> None:
    for number in (3, 5):
        assert "too long" in refusal(lambda: decode(frame_of(number, b"\xff" * 8)))  # noqa: B023
        assert "ends inside" in refusal(lambda: decode(frame_of(number, MAX_SITES.to_bytes(8, "little"))))  # noqa: B023


@pytest.mark.parametrize("code", [0, 5, 2**64 - 1])
def test_a_refusal_with_an_unknown_code_is_refused(code: int) -> None:
    assert "unknown code" in refusal(lambda: decode(frame_of(9, Writer().number(code).finish())))


def decodes_or_refuses(data: bytes) -> None:
    """Check that only RemoteProtocolError escapes, and that what is read has one encoding."""
    try:
        message, sequence = decode(data)
    except RemoteProtocolError:
        return
    assert encode(message, sequence) == data


@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_and_raise_nothing_else(data: bytes) -> None:
    decodes_or_refuses(data)


@given(number=st.integers(0, 12), body=st.binary(max_size=200))
def test_random_bodies_decode_canonically_or_are_refused(number: int, body: bytes) -> None:
    decodes_or_refuses(frame_of(number, body))


@given(
    message=st.sampled_from(MESSAGES),
    edits=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 5000),
    fix_length=st.booleans(),
)
def test_mutated_frames_decode_canonically_or_are_refused(
    message: Message, edits: list[tuple[int, int]], cut: int | None, fix_length: bool
) -> None:
    data = bytearray(encode(message, 1))
    for place, value in edits:
        data[place % min(len(data), 200)] = value  # the first 200 bytes hold the lengths and names
    del data[cut:]
    if fix_length and len(data) >= HEADER.size:
        data[8:12] = (len(data) - HEADER.size).to_bytes(4, "little")
    decodes_or_refuses(bytes(data))


# What is signed and hashed.


def test_every_field_of_a_hello_and_the_policy_are_signed() -> None:
    changes = [
        {"site": "b"},
        {"journal_length": 8},
        *[{field: b"z" * 32} for field in ("session", "x25519", "kem", "nonce", "journal_head")],
    ]
    signed = {replace(HELLO, **change).signed(b"policy") for change in changes}  # type: ignore[arg-type]
    assert len(signed | {HELLO.signed(b"policy"), HELLO.signed(b"drifted")}) == len(changes) + 2


def test_every_field_of_a_confirmation_and_of_a_masked_sum_is_signed() -> None:
    confirms = [replace(CONFIRM, site="b"), replace(CONFIRM, transcript=b""), replace(CONFIRM, ciphertexts=())]
    assert len({each.signed() for each in (CONFIRM, *confirms)}) == 4
    masked = [replace(MASKED, context=b""), replace(MASKED, words=b""), replace(MASKED, canary=b"")]
    assert len({each.signed("a") for each in (MASKED, *masked)} | {MASKED.signed("b")}) == 5


def test_a_transcript_depends_on_policy_and_hellos_but_not_on_their_order() -> None:
    other = replace(HELLO, site="b")
    assert Roll((HELLO, other)).transcript(b"p") == Roll((other, HELLO)).transcript(b"p")
    found = {
        Roll((HELLO, other)).transcript(b"p"),
        Roll((HELLO, other)).transcript(b"q"),
        Roll((HELLO,)).transcript(b"p"),
        Roll((HELLO, replace(other, signature=b"z" * 64))).transcript(b"p"),
    }
    assert len(found) == 4


def test_a_context_binds_transcript_counter_cohort_kind_and_payload() -> None:
    changes = [{"counter": 4}, {"cohort": ("a", "c")}, {"cohort": ("ab",)}, {"kind": "x"}, {"payload": b""}]
    contexts = {replace(ROUND, **change).context(b"t") for change in changes}  # type: ignore[arg-type]
    assert len(contexts | {ROUND.context(b"t"), ROUND.context(b"u")}) == len(changes) + 2


def test_masked_words_up_to_the_bodys_limit_are_read() -> None:
    large = replace(MASKED, words=bytes(2**20))
    assert decode(encode(large, 0))[0] == large


def test_a_journal_longer_than_any_ledger_can_hold_is_refused() -> None:
    decode(encode(replace(HELLO, journal_length=2**63 - 1), 0))
    longer = encode(replace(HELLO, journal_length=2**63), 0)
    assert "beyond any ledger's" in refusal(lambda: decode(longer))
