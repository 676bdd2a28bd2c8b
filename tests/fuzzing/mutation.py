"""Seeded mutation of bytes, of a message's fields, of JSON trees and of TOML lines.

Never draws from anything but the generator that is given, so that a case comes again for its seed.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from synthfed.protocols.secagg.messages import _READERS
from synthfed.protocols.wire import Frame, Reader

Field = tuple[Literal["number", "data"], bytes]
"""A field as its primitive and content; a text is data."""

NUMBERS: Final = (0, 1, 2, 4, 5, 49, 50, 51, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
LENGTHS: Final = (0, 1, 31, 33, 63, 65, 1087, 1185, 2**16, 2**29, 2**29 + 1, 2**31, 2**32 - 1)
TEXTS: Final = (
    *("", "a", "A", "-", "a-", "../a", "a\n", "a\0", " ", "a" * 33, "a" * 65, "ä", "\u202e", "\U0010ffff", "\ufeff"),
    *("nan", "inf", "1e999", "true", "null", "[", "{", '"', "'", "\\", "%s", "{shown}", "{0}", "<script>", "probe"),
)
DIGITS: Final = "@digits"
"""Stands for a number that Python does not write, but a peer can."""
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2, 50, 51, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, DIGITS),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, 1e38, float("inf"), float("-inf"), float("nan"), [], {}, [[]], [None], {"": 0}),
)


def mutated_bytes(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes after one to four edits."""
    edited = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_EDITS)(rng, edited)
    if others and rng.random() < 0.1:
        other = rng.choice(others)
        edited[rng.randint(0, len(edited)) :] = other[rng.randint(0, len(other)) :]
    return bytes(edited)


def _flip(rng: random.Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 10, 34, 61, 91, 123, rng.randrange(256)))


def _insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 8, 64)))


def _delete(rng: random.Random, data: bytearray) -> None:
    at = rng.randint(0, len(data))
    del data[at : at + rng.choice((1, 1, 2, 4, 8, 64))]


def _truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randint(0, len(data)) :]


def _repeat(rng: random.Random, data: bytearray) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = data[at : at + rng.choice((1, 4, 16, 256))] * rng.choice((1, 2, 20))


def _integer(rng: random.Random, data: bytearray) -> None:
    size = rng.choice((4, 8))
    if len(data) >= size:
        at = rng.randint(0, len(data) - size)
        value = rng.choice((*NUMBERS, *LENGTHS)) % 2 ** (8 * size)
        data[at : at + size] = value.to_bytes(size, rng.choice(("little", "little", "little", "big")))


_EDITS: Final[tuple[Callable[[random.Random, bytearray], None], ...]] = (
    *(_flip, _overwrite, _insert, _delete, _truncate, _repeat, _integer),
)


class _Recorder(Reader):
    """A reader that notes every field it reads, so that the product itself says where fields are."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.fields: list[Field] = []

    def number(self) -> int:
        value = super().number()
        self.fields.append(("number", value.to_bytes(8, "little")))
        return value

    def data(self, *sizes: int, limit: int = 2**29) -> bytes:
        value = super().data(*sizes, limit=limit)
        self.fields.append(("data", value))
        return value


def fields_of(frame: Frame) -> list[Field]:
    """Return the fields of a valid frame."""
    recorder = _Recorder(frame.body)
    _READERS[frame.type](recorder)
    return recorder.fields


def mutated_frame(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return a frame with some fields changed, most often under a header that fits it."""
    frame = Frame.decode(data)
    fields = fields_of(frame)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        _edit_fields(rng, fields)
    body = b"".join(_written(rng, field) for field in fields)
    if rng.random() < 0.1:
        body = mutated_bytes(rng, body)
    kind = frame.type if rng.random() < 0.97 else rng.choice((0, 1, 5, 6, 9, 10, 255))
    written = Frame(kind, rng.choice((0, 7, 2**32 - 1)), body).encode()
    return mutated_bytes(rng, written, others) if rng.random() < 0.15 else written


def _edit_fields(rng: random.Random, fields: list[Field]) -> None:
    if not fields:
        return
    at = rng.randrange(len(fields))
    what = rng.randrange(8)
    if what == 0:
        del fields[at]
    elif what == 1:
        fields.insert(at, rng.choice(fields))
    elif what == 2:
        fields[at] = rng.choice(fields)
    elif what == 3:
        other = rng.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    else:
        fields[at] = (fields[at][0], _content(rng, *fields[at]))


def _content(rng: random.Random, form: str, content: bytes) -> bytes:
    if form == "number":
        near = (int.from_bytes(content, "little") + rng.choice((-1, 1))) % 2**64
        return rng.choice((near, *NUMBERS)).to_bytes(8, "little")
    choices = (
        lambda: content[:-1],
        lambda: content + b"\0",
        lambda: rng.randbytes(len(content)),
        lambda: bytes(len(content)),
        lambda: rng.choice(TEXTS).encode(),
        lambda: mutated_bytes(rng, content),
    )
    return rng.choice(choices)()


def _written(rng: random.Random, field: Field) -> bytes:
    form, content = field
    if form == "number":
        return content
    length = rng.choice(LENGTHS) if rng.random() < 0.01 else len(content)
    return length.to_bytes(4, "little") + content


def mutated_json(rng: random.Random, text: bytes) -> bytes:
    """Return JSON with some nodes changed, and sometimes bytes of it."""
    tree = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = mutated_tree(rng, tree)
    written = written_json(tree)
    return mutated_bytes(rng, written) if rng.random() < 0.2 else written


def written_json(tree: object) -> bytes:
    """Return JSON text; NaN and Infinity stay, as a careless writer leaves them."""
    return json.dumps(tree).replace(json.dumps(DIGITS), "9" * 5000).encode()


def mutated_tree(rng: random.Random, tree: Any) -> Any:
    """Return a tree of lists, dicts and values with one node of it changed."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        name = rng.choice(list(tree))
        what = rng.randrange(12)
        if what == 0:
            return {key: value for key, value in tree.items() if key != name}
        if what == 1:
            return {rng.choice(TEXTS) if key == name else key: value for key, value in tree.items()}
        if what == 2:
            return tree | {rng.choice(TEXTS): rng.choice(VALUES)}
        return tree | {name: mutated_tree(rng, tree[name])}
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        at = rng.randrange(len(tree))
        what = rng.randrange(10)
        if what == 0:
            return tree[:at] + tree[at + 1 :]
        if what == 1:
            return tree[:at] + [tree[at]] * rng.choice((2, 2, 60)) + tree[at + 1 :]
        return [*tree[:at], mutated_tree(rng, tree[at]), *tree[at + 1 :]]
    return _leaf(rng, tree)


def _leaf(rng: random.Random, value: Any) -> Any:
    what = rng.randrange(6)
    if what == 0 and isinstance(value, str):
        return mutated_bytes(rng, value.encode()).decode("utf-8", "replace")
    if what == 1:
        return rng.choice(TEXTS)
    if what == 2:
        return {rng.choice(TEXTS): value}
    if what == 3:
        nested: Any = value
        for _ in range(rng.choice((1, 3, 300))):
            nested = [nested]
        return nested
    if what == 4 and isinstance(value, int | float):
        return value * rng.choice((-1, 2, 1000))
    return rng.choice(VALUES)


TOML_VALUES: Final = (
    *(
        '""',
        '"a"',
        '"A"',
        '"../a"',
        '"nan"',
        "0",
        "-1",
        "1",
        "2",
        "3",
        "50",
        "51",
        "0.5",
        "1e-6",
        "1e308",
        "1e999",
        "nan",
    ),
    *(
        "inf",
        "-inf",
        "true",
        "[]",
        "{}",
        "[[]]",
        '["yes"]',
        '["", ""]',
        "{ a = 1 }",
        "9223372036854775808",
        "0x10",
        "1_0",
    ),
    *(
        "2030-01-31",
        "07:32:00",
        "'''",
        '"""',
        '"\\u0000"',
        '"\\ud800"',
        "1" * 5000,
        "[" * 400 + "]" * 400,
        "{a=" * 99 + "1",
    ),
)


def mutated_toml(rng: random.Random, text: bytes) -> bytes:
    """Return a TOML text with lines or values changed, and sometimes bytes of it."""
    lines = text.decode().split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        _edit_lines(rng, lines)
    written = "\n".join(lines).encode()
    return mutated_bytes(rng, written) if rng.random() < 0.2 else written


def _edit_lines(rng: random.Random, lines: list[str]) -> None:
    at = rng.randrange(len(lines)) if lines else 0
    what = rng.randrange(10) if lines else 9
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(at, rng.choice(lines))
    elif what == 2:
        end = at + rng.randint(1, 6)
        lines[end:end] = lines[at:end] * rng.choice((1, 1, 60))
    elif what == 3:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif what == 4:
        lines[at] = mutated_bytes(rng, lines[at].encode()).decode("utf-8", "replace")
    elif what == 9:
        lines.insert(
            at, f"{rng.choice(('x', 'format', 'cohort', '[aggregation]', '[cohort]'))} = {rng.choice(TOML_VALUES)}"
        )
    elif " = " in lines[at]:
        name = lines[at].partition(" = ")[0]
        others = [line.partition(" = ")[2] for line in lines if " = " in line]
        lines[at] = f"{name} = {rng.choice((rng.choice(TOML_VALUES), rng.choice(others)))}"
