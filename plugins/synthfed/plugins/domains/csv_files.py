"""The cells of a CSV file as texts, with every way in which a file can be wrong turned into a clear error.

Never shows a cell: an error names file, column and number of rows.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from synthfed.protocols.errors import ConfigError, DataError

from .parts import Form, Part, Strings, check_names, numbers_of, whole_texts

if TYPE_CHECKING:
    from _csv import Reader

_AT_ONCE: Final = 256  # rows: so few stay in the processor's cache while they are turned into columns
_LARGEST_CELL: Final = 2**26  # characters; a column that nobody asks for may hold whole documents


class CsvSource:
    """An open CSV file; UTF-8, first line the column names, an empty cell is a missing value."""

    def __init__(self, path: Path, reader: "Reader") -> None:
        """Read the header; DataError if there is none."""
        self._path, self._reader = path, reader
        self.names: Sequence[str] = next(reader, [])
        if not self.names:
            raise DataError(f"{path}: is empty; give a file with a header line and records")

    def parts(self, wanted: Mapping[str, Form]) -> Iterator[Part]:
        """Yield the rows in parts; see `Source`. Blank lines are none, and rows of another length are counted."""
        check_names(str(self._path), self.names, list(wanted))
        width, chosen = len(self.names), [(self.names.index(name), form) for name, form in wanted.items()]
        while rows := list(islice(self._reader, _AT_ONCE)):
            whole = [row for row in rows if len(row) == width]
            columns = list(zip(*whole, strict=True)) or [()] * width
            cells = [numbers_of(columns[place]) if form == "number" else columns[place] for place, form in chosen]
            yield Part(cells, sum(len(row) not in (0, width) for row in rows) if len(whole) < len(rows) else 0)


@contextmanager
def open_csv(path: Path) -> Iterator[CsvSource]:
    """Open a ``.csv`` or ``.csv.gz`` file.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no CSV file with a header.
    """
    with _opened(path) as file:
        yield CsvSource(path, csv.reader(file, strict=True))


def read_cells(path: Path, names: Collection[str] | None = None) -> tuple[list[str], list[Strings]]:
    """Return the names and cells of a file's columns, or of those in ``names`` only, in the file's order.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is not a table with these columns, each once, and at least one row.
    """
    with open_csv(path) as source:
        header = source.names
        check_names(str(path), header, list(header if names is None else names))
        kept = [name for name in header if names is None or name in names]
        return kept, whole_texts(path, source, kept)


def read_header(path: Path) -> list[str]:
    """Return the names of all columns of a file; ConfigError or DataError as `read_cells`."""
    with open_csv(path) as source:
        return list(source.names)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a file as text; turn every way in which that fails into an error that says what to do."""
    where = str(path)
    if not path.exists():
        raise ConfigError("does not exist; check the path", where=where)
    if not path.is_file():
        raise ConfigError("is not a regular file; give the path of a .csv or .csv.gz file", where=where)
    before = csv.field_size_limit(_LARGEST_CELL)
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
    finally:
        csv.field_size_limit(before)
