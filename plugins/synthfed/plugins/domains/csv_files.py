"""The cells of a CSV file as texts, with every way in which a file can be wrong turned into a clear error.

Never shows a cell: an error names file, column and number of rows.
"""

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from synthfed.protocols.errors import ConfigError, DataError

Strings = Sequence[str]


def read_cells(path: Path, names: Collection[str] | None = None) -> tuple[list[str], list[Strings]]:
    """Return the names and cells of a file's columns, or of those in ``names`` only, in the file's order.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is not a table with these columns, each once, and at least one row.
    """
    with _opened(path) as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        _check_header(path, header, header if names is None else names)
        kept = [i for i, name in enumerate(header) if names is None or name in names]
        rows = list(_nonempty(reader))
    ragged = sum(len(row) != len(header) for row in rows)
    if ragged:
        raise DataError(
            f"{path}: {ragged} row(s) have more or fewer cells than the header's {len(header)}; mend these rows"
        )
    if not rows:
        raise DataError(f"{path}: has no rows below its header; give a file with records")
    return [header[i] for i in kept], [[row[i] for row in rows] for i in kept]


def read_header(path: Path) -> list[str]:
    """Return the names of all columns of a file; ConfigError or DataError as `read_cells`."""
    with _opened(path) as file:
        return next(csv.reader(file, strict=True), [])


def _nonempty(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    return (row for row in rows if row)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a file as text; turn every way in which that fails into an error that says what to do."""
    where = str(path)
    if not path.exists():
        raise ConfigError("does not exist; check the path", where=where)
    if not path.is_file():
        raise ConfigError("is not a regular file; give the path of a .csv or .csv.gz file", where=where)
    try:
        with path.open("rb") as raw:
            plain = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            with io.TextIOWrapper(plain, encoding="utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save it with that encoding") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ConfigError("is not a complete gzip file; copy it again", where=where) from None
    except csv.Error:
        raise DataError(f"{path}: is not valid CSV (a quote, a NUL or a huge cell); export it again") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}; check its permissions", where=where) from None


def _check_header(path: Path, header: Sequence[str], names: Collection[str]) -> None:
    if not header:
        raise DataError(f"{path}: is empty; give a file with a header line and records")
    missing = [name for name in names if name not in header]
    if missing:
        more = f" and {len(missing) - 1} further column(s)" if len(missing) > 1 else ""
        raise DataError(f"{path}: lacks column {missing[0]!r}{more}; add it, or check the header's spelling")
    counts = Counter(header)
    twice = [name for name in names if counts[name] > 1]
    if twice:
        raise DataError(f"{path}: names column {twice[0]!r} twice in its header; keep one")
