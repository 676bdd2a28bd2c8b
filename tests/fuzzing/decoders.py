"""Every decoder of outside bytes: how its cases are made, which errors it may raise, and what must hold if it accepts.

A decoder is more than free of crashes: what it accepts must be canonical, finite, or within the declared limits.
"""

import random
import socket
import struct
from collections.abc import Callable
from typing import Final

import numpy as np
from tests.fuzzing import documents, mutation
from tests.fuzzing.decoder import Decoder, promise
from tests.vectors import session
from tests.vectors.generate import KINDS, MESSAGES, SEQUENCE

from synthfed.client.channel import read_frame
from synthfed.client.train import read_payload
from synthfed.protocols.errors import ConfigError, RemoteProtocolError
from synthfed.protocols.secagg.messages import decode, encode
from synthfed.protocols.sums import Kind, Sum
from synthfed.protocols.wire import HEADER, Frame, Reader, Writer
from synthfed.server.stream import _sequence

FRAMES: Final = (
    *(encode(message, SEQUENCE) for message in MESSAGES),
    *(
        bytes.fromhex(frame)
        for each in session.SESSIONS.values()
        for part in ("frames", "opening")
        for frame in each.described()[part].values()
    ),
)


def frames_of(number: int) -> tuple[bytes, ...]:
    return tuple(frame for frame in FRAMES if frame[3] == number)


def run_frame(data: bytes) -> None:
    frame = Frame.decode(data)
    promise(frame.encode() == data, "a frame has two encodings")
    promise(_sequence(data) == frame.sequence, "the stream reads another sequence number")


def run_sequence(data: bytes) -> None:
    promise(-1 <= _sequence(data) < 2**32, "a sequence number has 32 bits")


def run_message(data: bytes) -> None:
    message, sequence = decode(data)
    promise(encode(message, sequence) == data, "a message has two encodings")


def message_decoder(number: int, name: str, share: int) -> Decoder:
    seeds = frames_of(number)

    def make(rng: random.Random) -> bytes:
        seed = rng.choice(seeds)
        return mutation.mutated_frame(rng, seed, FRAMES) if rng.random() < 0.8 else mutation.mutated_bytes(rng, seed)

    return Decoder(f"message {name}", share, make, run_message, (RemoteProtocolError,))


def make_fields(rng: random.Random) -> bytes:
    """Return a plan of fields to read, and a body that was written by it or nearly so."""
    plan = bytes(rng.randrange(4) for _ in range(rng.randrange(8)))
    writer = Writer()
    for form in plan:
        if form == 0:
            writer.number(rng.choice(mutation.NUMBERS))
        elif form == 1:
            writer.data(rng.randbytes(rng.choice((0, 1, 32, 100))))
        elif form == 2:
            writer.data(rng.randbytes(32))
        else:
            writer.data(rng.choice(mutation.TEXTS).encode())
    body = writer.finish()
    return bytes([len(plan)]) + plan + (mutation.mutated_bytes(rng, body) if rng.random() < 0.8 else body)


def run_fields(data: bytes) -> None:
    plan, body = data[1 : 1 + data[0]], data[1 + data[0] :]
    reader, writer = Reader(body), Writer()
    for form in plan:
        if form == 0:
            writer.number(reader.number())
        elif form == 1:
            writer.data(reader.data())
        elif form == 2:
            writer.data(reader.data(32))
        else:
            writer.text(reader.text())
    reader.finish()
    promise(writer.finish() == body, "a body has two encodings")


def _kind(payload: tuple[tuple[str, tuple[int, ...]], ...]) -> Kind:
    return Kind(Sum("steps", "gradient", 6, 1.0, 0.1, 10, 1.0, payload), 1.0, 64, 32)


PAYLOADS: Final = (
    session.STEPS,
    KINDS[0],
    KINDS[1],
    _kind((("scalar", ()), ("none", (0, 3)), ("w", (2, 1, 2)))),
    _kind((("w", (3,)), ("b", (1,)))),
)
FLOATS: Final = (0.0, -0.0, 1e-45, 1e4, -1e4, 1e38, np.inf, -np.inf, np.nan, 10_000.001)


def make_payload(rng: random.Random) -> bytes:
    which = rng.randrange(len(PAYLOADS))
    size = sum(int(np.prod(shape)) for _, shape in PAYLOADS[which].sum.payload)
    if rng.random() < 0.3:
        body = rng.randbytes(4 * size)
    else:
        body = struct.pack("<f", rng.uniform(-9999, 9999)) * size
        for _ in range(rng.choice((0, 1, 1, 3))):
            at = 4 * rng.randrange(size + 1)
            body = body[:at] + struct.pack("<f", rng.choice(FLOATS)) + body[at + 4 :]
    return bytes([which]) + (mutation.mutated_bytes(rng, body) if rng.random() < 0.3 else body)


def run_payload(data: bytes) -> None:
    kind = PAYLOADS[data[0]]
    arrays = read_payload(kind, data[1:])
    promise([(name, array.shape) for name, array in arrays.items()] == list(kind.sum.payload), "shapes differ")
    promise(all(bool((np.abs(array) <= 1e4).all()) for array in arrays.values()), "a value is beyond the limit")
    promise(b"".join(array.tobytes() for array in arrays.values()) == data[1:], "values differ from the bytes")


def make_stream(rng: random.Random) -> bytes:
    """Return what a relay writes: mostly a frame with a fitting length, rarely one that promises far more."""
    seed = rng.choice(FRAMES[:8])
    if rng.random() < 0.5:
        return mutation.mutated_frame(rng, seed, FRAMES[:8])[:100_000]
    header = bytearray(
        HEADER.pack(b"SF", 1, rng.randrange(13), 7, max(0, len(seed) - HEADER.size + rng.choice((-1, 0, 1))))
    )
    if rng.random() < 0.2:
        header = bytearray(mutation.mutated_bytes(rng, bytes(header)))
    if rng.random() < 0.001 and len(header) >= HEADER.size:
        header[8:12] = rng.choice((2**24, 2**29, 2**29 + 1)).to_bytes(4, "little")
    return bytes(header) + seed[HEADER.size :]


def run_stream(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(1.0)
        theirs.settimeout(1.0)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        frame = read_frame(ours)
    promise(not frame or data.startswith(frame), "a frame differs from what was sent")
    promise(not frame or Frame.decode(frame).encode() == frame, "what was read is no frame")


def decoders() -> list[Decoder]:
    """Return every decoder of outside bytes."""
    peer, operator = (RemoteProtocolError,), (ConfigError,)
    names = ("Open", "Hello", "Roll", "Confirm", "Seal", "Ready", "Round", "Masked", "Refusal", "Reveal", "Revealed")

    def bytes_of(seeds: tuple[bytes, ...]) -> Callable[[random.Random], bytes]:
        return lambda rng: mutation.mutated_bytes(rng, rng.choice(seeds), seeds)

    def json_of(seed: bytes) -> Callable[[random.Random], bytes]:
        return lambda rng: mutation.mutated_json(rng, seed)

    def sealed(good: bytes) -> Callable[[random.Random], bytes]:
        return lambda rng: good if rng.random() < 0.1 else mutation.mutated_json(rng, good)  # any change is refused

    files = documents.CheckpointFile()
    return [
        Decoder("frame", 8, bytes_of(FRAMES), run_frame, peer),
        Decoder("sequence", 4, bytes_of(FRAMES), run_sequence, ()),
        *(message_decoder(number, name, 6) for number, name in enumerate(names, 1)),
        Decoder("fields", 8, make_fields, run_fields, peer),
        Decoder("payload", 8, make_payload, run_payload, peer),
        Decoder("stream", 4, make_stream, run_stream, peer),
        Decoder(
            "study",
            4,
            lambda rng: mutation.mutated_toml(rng, rng.choice(documents.STUDIES)),
            documents.run_study,
            operator,
        ),
        Decoder("invitation", 4, json_of(documents.INVITATION), documents.run_invitation, operator),
        Decoder("enrolment", 4, json_of(documents.ENROLMENT), documents.run_enrolment, operator),
        Decoder("decision", 4, sealed(documents.DECISION), documents.run_decision, operator),
        Decoder("proposal", 4, sealed(documents.PROPOSAL), documents.run_proposal, operator),
        Decoder("checkpoint", 4, documents.make_checkpoint, files.run, operator),
        Decoder("checkpoint counts", 1, documents.make_tally, files.run, operator),
        Decoder("evidence", 4, json_of(documents.EVIDENCE), documents.run_evidence, operator),
    ]
