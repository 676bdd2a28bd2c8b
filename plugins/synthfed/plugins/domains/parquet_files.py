"""Tables in Parquet files: some rows of the columns asked for, as numbers or texts.

Never decodes a column that nobody asked for, and never acts on what a file's metadata says beyond its types.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from synthfed.protocols.errors import ConfigError, DataError

from .parts import MISSING, Cells, Form, Part, check_names, finite, number_text, numbers_of, unfit_type

_AT_ONCE: Final = 65_536  # rows
_UNREADABLE: Final = "is not a complete Parquet file; write it again"


class ParquetSource:
    """An open Parquet file; null and the empty text are missing values."""

    def __init__(self, path: Path, fragment: Any) -> None:
        """Read the schema alone."""
        self._path, self._fragment = path, fragment
        self.names: Sequence[str] = fragment.physical_schema.names

    def parts(self, wanted: Mapping[str, Form]) -> Iterator[Part]:
        """Yield the rows in parts; see `Source`."""
        check_names(str(self._path), self.names, list(wanted))
        schema = self._fragment.physical_schema
        for name, form in wanted.items():
            if not _fits(schema.field(name).type, form):
                raise unfit_type(self._path, name, _told(schema.field(name).type), form)
        # By a dataset's fragment, which takes a name as it is: `ParquetFile` would read `a.b` where `a` is asked for.
        for batch in self._fragment.to_batches(columns=list(wanted), batch_size=_AT_ONCE, use_threads=False):
            yield Part([_cells(array, form) for array, form in zip(batch.columns, wanted.values(), strict=True)])


@contextmanager
def open_parquet(path: Path) -> Iterator[ParquetSource]:
    """Open a ``.parquet`` file.

    Raises:
        ConfigError: it cannot be read, or pyarrow is not installed.
        DataError: a text of it is not UTF-8.
    """
    try:
        import pyarrow
        import pyarrow.dataset
        import pyarrow.fs
    except ImportError:
        raise ConfigError(
            'needs pyarrow; run `pip install "synthfed[parquet]"`, or save the table as .csv', where=str(path)
        ) from None
    where = str(path)
    if not path.exists():
        raise ConfigError("does not exist; check the path", where=where)
    if not path.is_file():
        raise ConfigError("is not a regular file; give the path of a .parquet file", where=where)
    scan = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
    form = pyarrow.dataset.ParquetFileFormat(default_fragment_scan_options=scan)
    try:
        fragment = form.make_fragment(str(path.absolute()), pyarrow.fs.LocalFileSystem())
        yield ParquetSource(path, fragment)
    except PermissionError:
        raise ConfigError("cannot be read; check its permissions", where=where) from None
    except UnicodeDecodeError:  # it holds the bytes of a cell
        raise DataError(f"{path}: holds a text that is not UTF-8; write it again with that encoding") from None
    except (pyarrow.ArrowException, OSError):
        raise ConfigError(_UNREADABLE, where=where) from None


def _fits(kind: Any, form: Form) -> bool:
    """Return whether a type can be turned into what is wanted."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _fits(kind.value_type, form)
    if types.is_null(kind) or types.is_integer(kind) or _is_text(kind):
        return True
    if form == "unit":
        return bool(types.is_date32(kind) or (types.is_decimal(kind) and kind.scale == 0))
    if types.is_boolean(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return True
    return form == "text" and bool(types.is_date32(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _told(kind: Any) -> str:
    """Return the name of a type without what it is made of, which a file could fill with anything."""
    return str(kind).partition("<")[0].partition("[")[0]


def _cells(array: Any, form: Form) -> Cells:
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if form == "number" and not _is_text(array.type):
        values = array.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
        is_null = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else np.zeros(len(values), bool)
        return finite(values, lambda row: bool(is_null[row]))
    if types.is_floating(array.type):
        return [MISSING if value is None else number_text(value) for value in array.to_pylist()]
    texts = array if _is_text(array.type) else array.cast(pyarrow.string())
    cells: list[str] = texts.fill_null(MISSING).to_pylist()
    return numbers_of(cells) if form == "number" else cells
