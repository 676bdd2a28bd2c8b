"""Named numpy arrays in an ``.npz`` file: read without trust in what the file says of itself, written in streams.

Never unpickles, never takes more memory than a stated limit, and never shows a value of an array.
"""

import contextlib
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Records

from ..files import whole_file

RawArray = npt.NDArray[Any]
"""An array as a file holds it: numbers or texts of any size."""

MAX_NUMBERS: Final = 2**29
"""Numbers of one file that are read at most: 4 GiB as the float64 records are."""

_MAX_BYTES: Final = 8 * MAX_NUMBERS
_KINDS: Final = "buifUS"  # booleans, whole numbers, reals, texts: nothing that could hold an object
_DATE: Final = (1980, 1, 1, 0, 0, 0)  # so that equal arrays make equal files
_BLOCK: Final = 2**20


@dataclass(frozen=True, slots=True)
class Stated:
    """What the head of an array in a file states, which costs nothing to look at."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ArrayFile:
    """An open ``.npz`` file: what arrays it has, and each one when asked for."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        """Look at the heads of all arrays.

        Raises:
            DataError: an array is twice in the file, of a type that is not read, or not what its head states.
        """
        self._path, self._archive = path, archive
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        self._entries = {entry.filename.removesuffix(".npy"): entry for entry in entries}
        if len(self._entries) < len(entries):
            raise DataError(f"{path}: holds an array twice; save each once")

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays' names in the order of the file."""
        return tuple(self._entries)

    def stated(self, name: str) -> Stated:
        """Return shape and type of an array, from its head alone; DataError as for ``read``."""
        with self._open(name) as (stated, _, _):
            return stated

    def read(self, name: str) -> RawArray:
        """Return an array.

        Raises:
            DataError: there is no such array, its type is not read, or it is not what its head states.
        """
        with self._open(name) as (stated, is_fortran, stream):
            content = bytearray(prod(stated.shape) * stated.dtype.itemsize)
            # A block at a time: the archive's reader would unpack more than the stated size at once.
            for start in range(0, len(content), _BLOCK):
                content[start : start + _BLOCK] = stream.read(min(_BLOCK, len(content) - start))
        return np.frombuffer(content, stated.dtype).reshape(stated.shape, order="F" if is_fortran else "C")

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[tuple[Stated, bool, IO[bytes]]]:
        if name not in self._entries:
            listed = ", ".join(map(repr, list(self._entries)[:8])) or "none"
            raise DataError(f"{self._path}: lacks array {name!r}; add it, or check its spelling (arrays: {listed})")
        entry = self._entries[name]
        with self._archive.open(entry) as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, is_fortran, dtype = read_head[version](stream)
            except (ValueError, KeyError):
                raise DataError(f"{self._path}: array {name!r} has no valid head; save it by numpy.savez") from None
            self._check(Stated(name, shape, dtype), entry.file_size - stream.tell())
            yield Stated(name, shape, dtype), is_fortran, stream

    def _check(self, stated: Stated, size: int) -> None:
        """Refuse before the array is unpacked what its head or the archive states wrongly or beyond the limit."""
        where = f"{self._path}: array {stated.name!r}"
        if stated.dtype.kind not in _KINDS or stated.dtype.itemsize == 0:
            raise DataError(f"{where} is of a type that is not read; save numbers or texts, not objects")
        if prod(stated.shape) > MAX_NUMBERS or size > _MAX_BYTES:
            raise DataError(f"{where} has more than {MAX_NUMBERS:,} numbers; give fewer or smaller records")
        if size != prod(stated.shape) * stated.dtype.itemsize:
            raise DataError(f"{where} is not as long as its head states; copy the file again")


@contextlib.contextmanager
def open_arrays(path: Path) -> Iterator[ArrayFile]:
    """Open an ``.npz`` file; turn every way in which that or reading it fails into an error that says what to do.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is damaged, or no such file at all.
    """
    where = str(path)
    if not path.exists():
        raise ConfigError("does not exist; check the path", where=where)
    if not path.is_file():
        raise ConfigError("is not a regular file; give the path of an .npz file", where=where)
    try:
        with zipfile.ZipFile(path) as archive:
            yield ArrayFile(path, archive)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise DataError(f"{path}: is not a complete .npz file; save it by numpy.savez and copy it again") from None
    except (NotImplementedError, RuntimeError):  # a packing that is not known here, or a password
        raise DataError(f"{path}: is packed in a way that is not read; save it by numpy.savez") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}; check its permissions", where=where) from None


@dataclass(frozen=True, slots=True)
class Written:
    """One array of a file to be written: its name, and the part of it that a chunk of records makes, row by row."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    values: Callable[[Records], RawArray]


def write_arrays(path: Path, arrays: Sequence[Written], chunks: Iterable[Records]) -> None:
    """Write an ``.npz`` file, all or nothing; memory holds one chunk, the disk for a while the unpacked arrays.

    An array's head states how many rows follow it, which only the last chunk tells; until then each
    array waits in a nameless temporary file beside the target.

    Raises:
        ConfigError: the file cannot be written.
    """
    with whole_file(path) as file, contextlib.ExitStack() as stack:
        waiting = {each.name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for each in arrays}
        rows = 0
        for chunk in chunks:
            rows += len(chunk)
            for each in arrays:
                waiting[each.name].write(each.values(chunk).astype(each.dtype, copy=False).tobytes())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for each in arrays:
                _pack(archive, each, rows, waiting[each.name])


def _pack(archive: zipfile.ZipFile, array: Written, rows: int, content: IO[bytes]) -> None:
    entry = zipfile.ZipInfo(f"{array.name}.npy", _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    descr = np.lib.format.dtype_to_descr(array.dtype)
    head = {"descr": descr, "fortran_order": False, "shape": (rows, *array.shape)}
    content.seek(0)
    with archive.open(entry, "w", force_zip64=True) as target:
        np.lib.format.write_array_header_1_0(target, head)
        while block := content.read(_BLOCK):
            target.write(block)
