"""Images with labels: an ``.npz`` file, or a folder of PNG and JPEG files with their labels in a table.

Never decodes an image before its size is known to be the schema's, and never shows a value of a private one.
"""

import math
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import ArrayColumn, Column, Records

from ..api import Table
from ..pictures import grid, image_tile, pillow
from .array_draft import draft_arrays, draft_labels
from .array_file import parse_numbers, read_arrays, write_records
from .arrays import ArrayEncoder
from .captions import captions
from .cells import Parsed, as_table, every_record, faults_of, parse_cells, parse_units
from .csv_files import read_cells, read_header
from .draft import check_dropped
from .npz import MAX_NUMBERS

LABELS: Final = "labels.csv"
"""The table of a folder: a column ``file`` with each image's name, and one column per label and unit."""

_FILE: Final = "file"
_PIXELS: Final = "image"  # the array column that a folder is drafted with
_FORMATS: Final = ("PNG", "JPEG")
_MODES: Final = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3}  # 8 bits or fewer, and their channels
_CHANNELS: Final = (1, 3)


class ImageDomain:
    """The domain of images with labels: what the entry point ``image`` names.

    A record is one array of shape ``(channels, height, width)`` with 1 or 3 channels, and any
    number of categories.
    """

    suffix = ".npz"

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse a schema but of one array of images and categories."""
        _pixels(columns)

    def read(
        self,
        path: Path,
        columns: Sequence[Column],
        *,
        unit: str | None,
        records_per_unit: int,
        drop_invalid: bool = False,
    ) -> Table:
        """Return a site's images: from a folder with ``labels.csv``, else from an ``.npz`` file; see `read_arrays`."""
        if path.is_dir():
            return _read_folder(path, columns, unit, records_per_unit, drop_invalid=drop_invalid)
        return read_arrays(path, columns, unit=unit, records_per_unit=records_per_unit, drop_invalid=drop_invalid)

    def write(self, path: Path, columns: Sequence[Column], chunks: Iterable[Records]) -> None:
        """Write synthetic records as an ``.npz`` file; see `write_records`."""
        write_records(path, columns, chunks)

    def picture(self, columns: Sequence[Column], records: Records, across: int) -> bytes | None:
        """Return a PNG of the images, each row under the label that its images share; None if there is no image.

        Raises:
            ConfigError: Pillow is not installed.
        """
        pillow()
        encoder = _pixels(columns)
        shares = (encoder.encode(records)[:, : encoder.numbers] + 1) / 2
        tiles = [image_tile(share.reshape(encoder.array.shape)) for share in shares]
        return grid(tiles, across, captions(columns, records, across)) if tiles else None

    def draft(self, path: Path, *, exclude: Collection[str] = ()) -> tuple[Column, ...]:
        """Return a schema drafted from a public folder or ``.npz`` file; see `draft_arrays`."""
        return _draft_folder(path, exclude) if path.is_dir() else draft_arrays(path, "images", _shape, exclude=exclude)


def _pixels(columns: Sequence[Column]) -> ArrayEncoder:
    encoder = ArrayEncoder(columns, "domain 'image'")
    shape = encoder.array.shape
    if len(shape) != 3 or shape[0] not in _CHANNELS:
        raise ConfigError(
            f"column {encoder.array.name!r} has shape {shape}; images have (channels, height, width), channels 1 or 3",
            where="columns",
        )
    return encoder


def _shape(own: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the schema's shape of images that an array holds with or without channels, first or last."""
    if len(own) == 2:
        return (1, *own)
    if len(own) == 3 and own[0] in _CHANNELS:
        return own
    return (own[2], *own[:2]) if len(own) == 3 and own[2] in _CHANNELS else None


def _read_folder(
    path: Path, columns: Sequence[Column], unit: str | None, records_per_unit: int, *, drop_invalid: bool
) -> Table:
    column = _pixels(columns).array
    names = [each.name for each in columns if each is not column] + ([] if unit is None else [unit])
    header, cells = read_cells(path / LABELS, [_FILE, *names])
    by_name = dict(zip(header, cells, strict=True))
    rows = len(by_name[_FILE])
    if rows * math.prod(column.shape) > MAX_NUMBERS:
        raise DataError(f"{path}: the images have more than {MAX_NUMBERS:,} numbers; give fewer or smaller ones")
    parsed = [
        _read_images(path, column, by_name[_FILE])
        if isinstance(each, ArrayColumn)
        else parse_cells(each, by_name[each.name])
        for each in columns
    ]
    units = every_record(rows) if unit is None else parse_units(unit, [by_name[unit]])
    table = path / LABELS
    return as_table(table, parsed, units, records_per_unit, read_header(table), drop_invalid=drop_invalid)


def _read_images(folder: Path, column: ArrayColumn, names: Sequence[str]) -> Parsed:
    pixels = np.zeros((len(names), *column.shape), dtype=np.uint8)
    problems: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        decoded, problem = _decode(folder, name, column.shape)
        if decoded is None:
            problems.setdefault(problem, []).append(i)
        else:
            pixels[i] = decoded
    parsed = parse_numbers(folder, column, pixels)
    undecoded = [row for rows in problems.values() for row in rows]
    # Of an image that could not be decoded nothing else is said.
    others = [(np.setdiff1d(fault.rows, undecoded).tolist(), fault.problem) for fault in parsed.faults]
    faults = faults_of([*((rows, problem) for problem, rows in problems.items()), *others])
    return Parsed(f"column {_FILE!r}", parsed.values, faults)


def _decode(folder: Path, name: str, shape: tuple[int, ...]) -> tuple[Any, str]:
    """Return an image's pixels, shape ``(channels, height, width)``, or None and what is wrong."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None, "a file that is not in the folder; mend its name"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow only warns of an image too large to be meant
            with pillow().open(path, formats=_FORMATS) as image:
                if image.mode not in _MODES:
                    return None, "an image of more than 8 bits; reduce it, or save all as .npz"
                if image.size != (shape[2], shape[1]):
                    return None, "an image of another size than the schema's; crop or resize it"
                decoded = np.asarray(image.convert("L" if shape[0] == 1 else "RGB"))
    except ConfigError:
        raise
    except Exception:  # noqa: BLE001  (a decoder at the edge may raise anything; what it says may show content)
        return None, "a file that is no PNG or JPEG image; save it as one"
    return decoded.reshape(shape) if shape[0] == 1 else np.moveaxis(decoded, -1, 0), ""


def _draft_folder(path: Path, exclude: Collection[str]) -> tuple[Column, ...]:
    header, cells = read_cells(path / LABELS)
    by_name = dict(zip(header, cells, strict=True))
    check_dropped(path, header, exclude)
    if _FILE not in by_name:
        raise ConfigError(f"lacks column {_FILE!r}; name each image's file there", where=str(path / LABELS))
    labels = [name for name in header if name != _FILE and name not in exclude]
    pixels = ArrayColumn(name=_PIXELS, shape=_first_shape(path, by_name[_FILE][0]), lower=0.0, upper=255.0)
    return (pixels, *(draft_labels(path / LABELS, name, by_name[name]) for name in labels))


def _first_shape(folder: Path, name: str) -> tuple[int, int, int]:
    path = folder / name
    try:
        with pillow().open(path, formats=_FORMATS) as image:
            return (_MODES.get(image.mode, 0) or 1, image.height, image.width)
    except (OSError, ValueError):
        raise ConfigError("is not a PNG or JPEG image that can be read", where=str(path)) from None
