"""Series of several leads with labels, in an ``.npz`` or a long CSV file: the way of an ECG, of sensors, of prices.

Never rescales a record by itself: bounds come from the schema, as the units of the measurement do.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Column, Records, places

from ..api import Table
from ..pictures import grid, pillow, plot_tile
from .array_draft import draft_arrays
from .array_file import read_arrays, write_records
from .arrays import ArrayEncoder
from .captions import captions
from .long_form import draft_long, read_long


class SignalDomain:
    """The domain of series with labels: what the entry point ``signal`` names.

    A record is one array of shape ``(leads, steps)`` and any number of categories. A file may hold
    a series of one lead without the first axis.
    """

    suffix = ".npz"

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse a schema but of one array of series and categories."""
        _series(columns)

    def read(
        self,
        path: Path,
        columns: Sequence[Column],
        *,
        unit: str | None,
        records_per_unit: int,
        drop_invalid: bool = False,
    ) -> Table:
        """Return a site's series: from a CSV file with a row per time step (`read_long`), else see `read_arrays`."""
        read = read_long if _is_csv(path) else read_arrays
        return read(path, columns, unit=unit, records_per_unit=records_per_unit, drop_invalid=drop_invalid)

    def write(self, path: Path, columns: Sequence[Column], chunks: Iterable[Records]) -> None:
        """Write synthetic records as an ``.npz`` file; see `write_records`."""
        write_records(path, columns, chunks)

    def picture(self, columns: Sequence[Column], records: Records, across: int) -> bytes | None:
        """Return a PNG of line plots, a strip for each lead, all on one scale; None if there is no record.

        Raises:
            ConfigError: Pillow is not installed.
        """
        pillow()
        encoder = _series(columns)
        if not len(records):
            return None
        first = places(columns)[[column.kind for column in columns].index("array")]
        lines = records[:, first : first + encoder.numbers].reshape(-1, *encoder.array.shape)
        low, high = lines.min(axis=(0, 2)), lines.max(axis=(0, 2))
        return grid([plot_tile(each, low, high) for each in lines], across, captions(columns, records, across))

    def draft(self, path: Path, *, exclude: Collection[str] = ()) -> tuple[Column, ...]:
        """Return a schema drafted from a public file; see `draft_long` and `draft_arrays`."""
        if _is_csv(path):
            return draft_long(path, exclude=exclude)
        return draft_arrays(path, "series", _shape, exclude=exclude)


def _is_csv(path: Path) -> bool:
    return path.name.endswith((".csv", ".csv.gz"))


def _series(columns: Sequence[Column]) -> ArrayEncoder:
    encoder = ArrayEncoder(columns, "domain 'signal'")
    shape = encoder.array.shape
    if len(shape) != 2:
        raise ConfigError(
            f"column {encoder.array.name!r} has shape {shape}; series have (leads, steps)", where="columns"
        )
    return encoder


def _shape(own: tuple[int, ...]) -> tuple[int, ...] | None:
    return (1, *own) if len(own) == 1 else own if len(own) == 2 else None
