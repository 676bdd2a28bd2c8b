"""Checks of a domain plugin: what it writes it reads back, whole or not at all, and no error holds a value.

Never reads a file but those it has written itself, in a folder that is gone afterwards.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from synthfed.protocols.errors import ConfigError, DataError, SynthfedError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Real, Records, places

from ..api import Domain
from .cases import UNITS, Case
from .check import Broken, check, promise
from .residue import difference, memory_of
from .surroundings import noting_randomness
from .trial import SEED

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_READ: Final = ("written-records-are-read-back",)


class Reading:
    """A domain plugin on one kind of data."""

    def __init__(self, plugin: type[Domain], case: Case) -> None:
        """Take part with the class itself: nothing is installed or pinned."""
        self.plugin, self.case, self.data = plugin, case, case.name
        self.told: dict[str, str] = {}
        self.records = case.draw(UNITS, np.random.default_rng(SEED))

    @contextlib.contextmanager
    def written(self, domain: Domain) -> Iterator[Path]:
        """Give a file of the made-up records, as the domain writes them in two chunks."""
        with tempfile.TemporaryDirectory(prefix="synthfed-kit-") as folder:
            path = Path(folder) / f"records{domain.suffix}"
            domain.write(path, self.case.columns, [self.records[:20], self.records[20:]])
            yield path

    def read(self, domain: Domain, path: Path, columns: Sequence[Column] | None = None) -> Records:
        """Return the records of a file."""
        return domain.read(
            path, self.case.columns if columns is None else columns, unit=None, records_per_unit=1
        ).records


def is_taken(plugin: type[Domain], case: Case) -> bool:
    """Return whether a domain says that it is for such columns."""
    try:
        plugin().check(case.columns)
    except Exception:  # noqa: BLE001  (foreign code; a check tells of what is not a ConfigError)
        return False
    return True


def domain_is_documented(reading: Reading) -> None:
    """The class says what files it reads."""
    promise((reading.plugin.__doc__ or "").strip(), "the class has no docstring; say what its files look like")


def odd_columns_are_refused(reading: Reading) -> None:
    """A schema that is not of this kind of data is refused with a ConfigError."""
    few: tuple[tuple[Column, ...], ...] = (
        (Categorical(name="only", values=("a", "b")),),
        (Integer(name="only", lower=0, upper=9),),
        (ArrayColumn(name="only", shape=(2, 2, 2, 2), lower=0, upper=1),),
        reading.case.columns[:1],
        (*reading.case.columns, ArrayColumn(name="more", shape=(3,), lower=0, upper=1)),
    )
    for columns in few:
        try:
            reading.plugin().check(columns)
        except ConfigError:
            continue
        except Exception as error:
            raise Broken(f"`check` raises {type(error).__name__}; refuse columns with ConfigError") from error


def written_records_are_read_back(reading: Reading) -> None:
    """Records written in chunks are read back as they were, one privacy unit each."""
    domain = reading.plugin()
    with reading.written(domain) as path:
        promise(path.is_file(), "`write` makes no file of the name it was given")
        table = domain.read(path, reading.case.columns, unit=None, records_per_unit=1)
        kept = domain.read(path, reading.case.columns, unit=None, records_per_unit=1, drop_invalid=True)
    shape = (UNITS, places(reading.case.columns)[-1])
    promise(
        table.records.shape == shape and table.records.dtype == np.float64,
        f"`read` returns records of shape {table.records.shape}, written were {shape} in float64",
    )
    promise(
        np.allclose(table.records, reading.records, rtol=0, atol=_grain(reading), equal_nan=True),
        "`read` returns other records than `write` was given",
    )
    promise(
        table.units.shape == (UNITS,) and len(set(table.units.tolist())) == UNITS,
        "without a unit column every record is a unit of its own; number them from 0",
    )
    promise(
        len(kept.records) == UNITS and kept.dropped == 0,
        "`read` with drop_invalid leaves out records that fit the schema",
    )


def reading_repeats(reading: Reading) -> None:
    """The same file gives the same records every time, and no global generator is moved."""
    domain = reading.plugin()
    with reading.written(domain) as path, noting_randomness() as moved:
        one, other = reading.read(domain, path), reading.read(domain, path)
    promise(np.array_equal(one, other, equal_nan=True), "two readings of one file differ")
    promise(not moved, f"reading moves the global state of {', '.join(moved)}")


def domain_keeps_nothing(reading: Reading) -> None:
    """Neither reading nor writing leaves anything of the records in the domain."""
    domain = reading.plugin()
    with reading.written(domain) as path:
        before = memory_of(reading.plugin())
        reading.read(domain, path)
        changed = difference(before, memory_of(domain))
    promise(not changed, f"{changed!r} changed while the domain read records; keep nothing of them")


def writing_is_whole(reading: Reading) -> None:
    """Where the records break off, no file of the name stays behind, and an older one stays as it was."""

    def breaking_off() -> Iterator[Records]:
        yield reading.records[:20]
        raise RuntimeError

    domain = reading.plugin()
    with reading.written(domain) as old:
        content = old.read_bytes()
        for path in (old, old.with_name(f"new{domain.suffix}")):
            with contextlib.suppress(RuntimeError, SynthfedError):
                domain.write(path, reading.case.columns, breaking_off())
        promise(not path.exists(), "half a file stays where the records break off; write whole files or none")
        promise(old.read_bytes() == content, "an older file is lost where the records break off")


def bad_files_are_refused(reading: Reading) -> None:
    """A file that is missing, empty, cut or of another kind is refused with a ConfigError or DataError."""
    domain = reading.plugin()
    with reading.written(domain) as path:
        content = path.read_bytes()
        for what, damaged in (
            ("missing", None),
            ("empty", b""),
            ("cut in its first line", content[: max(1, min(content.find(b"\n"), len(content) // 2))]),
            ("of another kind", bytes(range(256)) * 4),
        ):
            path.unlink(missing_ok=True)
            if damaged is not None:
                path.write_bytes(damaged)
            try:
                reading.read(domain, path)
            except (ConfigError, DataError):
                continue
            except Exception as error:
                raise Broken(f"a file that is {what} raises {type(error).__name__}; raise DataError") from error
            raise Broken(f"a file that is {what} is read; refuse it")


def errors_hold_no_value(reading: Reading) -> None:
    """An error about records that do not fit the schema holds none of their values."""
    domain = reading.plugin()
    with reading.written(domain) as path:
        try:
            reading.read(domain, path, _narrowed(reading.case.columns))
        except SynthfedError as error:
            text = str(error).replace(str(path), "")
        except Exception as error:
            message = f"records that do not fit raise {type(error).__name__}; raise DataError, without a value"
            raise Broken(message) from error
        else:
            raise Broken("records outside the schema's bounds are read; refuse them with DataError")
    shown = re.findall(r"-?\d+\.\d+", text)
    values = {float(each) for each in reading.records[~np.isnan(reading.records)].ravel()}
    promise(
        not any(float(each) in values for each in shown) and not any(f"{word!r}" in text for word in _words(reading)),
        "an error shows a value of a record; name the column and the number of rows",
    )


def draft_is_a_schema(reading: Reading) -> None:
    """A schema drafted from a file takes that file."""
    domain = reading.plugin()
    with reading.written(domain) as path:
        columns = domain.draft(path, exclude=())
        promise(columns, "`draft` of a file of records returns no column")
        domain.check(columns)
        promise(len(reading.read(domain, path, columns)) == UNITS, "the drafted schema does not read the file")


def picture_is_a_png(reading: Reading) -> None:
    """A picture is a PNG, or there is none."""
    shown = reading.plugin().picture(reading.case.columns, reading.records[:6], 3)
    promise(shown is None or shown[:8] == _PNG, "`picture` returns something that is no PNG; return None without one")


def _grain(reading: Reading) -> float:
    """Return half a unit of the coarsest column's last decimal."""
    decimals = [each.decimals for each in reading.case.columns if isinstance(each, Real | ArrayColumn)]
    return 0.5 * 10.0 ** -min(decimals, default=0) + 1e-9


def _narrowed(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns with bounds, or categories, that most records do not fit."""
    return tuple(
        column.model_copy(update={"values": tuple(f"no {value}" for value in column.values)})
        if isinstance(column, Categorical)
        else column.model_copy(update={"lower": column.upper + 1, "upper": column.upper + 2})
        for column in columns
    )


def _words(reading: Reading) -> list[str]:
    return [value for column in reading.case.columns if isinstance(column, Categorical) for value in column.values]


CHECKS: Final = (
    check(domain_is_documented),
    check(odd_columns_are_refused),
    check(written_records_are_read_back),
    check(reading_repeats, *_READ),
    check(domain_keeps_nothing, *_READ, is_privacy=True),
    check(writing_is_whole, *_READ),
    check(bad_files_are_refused, *_READ),
    check(errors_hold_no_value, *_READ, is_privacy=True),
    check(draft_is_a_schema, *_READ),
    check(picture_is_a_png),
)
