"""What tells a data set from others, whatever its file is called: keyed digests of its source and of its units.

Never shows a record or a unit's name: without the key the digests are numbers like any others.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Table
from synthfed.plugins.domains.databases import table_behind

SKETCH_SIZE: Final = 256
SAME: Final = 0.5
"""Which part of the smaller one's records two data sets must share to be taken for one."""

_ABOVE_ALL: Final = "g"  # comes after every hexadecimal text
_TELLING: Final = 0.5  # records without a unit tell little where more of them than this look like others
_CHUNK_BYTES: Final = 2**20
_DIGEST_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Marks:
    """A data set's digests, in hexadecimal.

    Attributes:
        place: of where it lies: the file's or folder's true path, or a database's table.
        content: of the file's bytes; empty where it is not one file.
        sketch: the least digests of its units' records, at most `SKETCH_SIZE`: a sample that two data sets draw
            alike. Empty where records have no units and look too much like each other.
    """

    place: str
    content: str
    sketch: frozenset[str]

    def is_like(self, other: "Marks") -> bool:
        """Return whether both are of one data set: at one place, of one content, or mostly of the same records."""
        is_copy = bool(self.content) and self.content == other.content
        return self.place == other.place or is_copy or overlap(self.sketch, other.sketch) >= SAME


def marks_of(path: Path, table: Table, key: bytes) -> Marks:
    """Return a data set's marks.

    Args:
        path: where it lies.
        table: what was read of it.
        key: 16 to 64 bytes, the same for data sets that are to be compared.
    """
    digests = _digests(table, key)
    is_telling = bool(table.unit_names) or len(digests) >= _TELLING * len(table.records)
    least = digests[:SKETCH_SIZE] if is_telling else digests[:0]
    sketch = frozenset(f"{each:016x}" for each in least.tolist())
    where = table_behind(path) or os.path.realpath(path)
    content = _digest(key, b"content", _chunks(path)) if path.is_file() and not table_behind(path) else ""
    return Marks(_digest(key, b"place", [os.fsencode(where)]), content, sketch)


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Return which part of the smaller data set's records the larger one has, as two sketches tell.

    Below the least of their ends both sketches are whole.

    >>> overlap(frozenset(["01", "02", "03"]), frozenset(["02", "03"]))
    1.0
    """
    end = min((max(each) if len(each) >= SKETCH_SIZE else _ABOVE_ALL for each in (one, other)), default=_ABOVE_ALL)
    first, second = ({each for each in sketch if each <= end} for sketch in (one, other))
    least = min(len(first), len(second))
    return len(first & second) / least if least else 0.0


def fingerprint(marks: Marks, unit: str | None, key: bytes) -> str:
    """Return one digest of marks and unit column, for the ledger.

    Args:
        marks: the data set's.
        unit: the unit column's name, None where each record is a unit of its own.
        key: the site's.
    """
    parts = (marks.place, marks.content, *sorted(marks.sketch))
    named = b"" if unit is None else b"unit " + unit.encode()
    return _digest(key, b"dataset", [named, b"\0", *(part.encode() + b"\0" for part in parts)])


def _digests(table: Table, key: bytes) -> npt.NDArray[np.uint64]:
    """Return the distinct digests of all records, each with its unit's name, in ascending order."""
    names = [each.encode() for each in table.unit_names]
    rows = np.ascontiguousarray(table.records)
    found = np.empty(len(rows), dtype=np.uint64)
    for place, (row, unit) in enumerate(zip(rows, table.units.tolist(), strict=True)):
        digest = hashlib.blake2b(row.tobytes(), key=key, digest_size=_DIGEST_BYTES)
        if names:
            digest.update(names[unit])
        found[place] = int.from_bytes(digest.digest(), "big")
    return np.unique(found)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _digest(key: bytes, what: bytes, parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(key=key, digest_size=16, person=what)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
