"""The rows of a data set: read from a public file or package, held out by the seed, dealt to sites.

Never lets a row stand both in what a site holds and in what is held out.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Domain
from synthfed.plugins.domains.csv_files import read_cells as read_csv_cells
from synthfed.plugins.domains.npz import open_arrays
from synthfed.plugins.registry import find
from synthfed.plugins.site_column import at_site
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import ArrayColumn, Categorical, Records

from .entries import DataSet
from .entries import Split as Dealing

Cells = Mapping[str, npt.NDArray[Any]]
"""A source's columns by name, one entry per row: texts, numbers or arrays."""

_PACKAGE: Final = "sklearn:"
_SHIPPED: Final = ("breast_cancer", "digits", "iris", "wine")
_DRAW, _SKEW = 0x5E7, 0x5E8  # apart from every other use of the run's seed
_SKEWNESS: Final = 0.5
_LEAST_SHARE: Final = 100
_DEALS: Final = 1000
_INSTALL: Final = 'a comparison needs scikit-learn; run: pip install "synthfed[demo]"'


@dataclass(frozen=True, slots=True)
class Split:
    """One way to part a data set.

    Attributes:
        sites: each site's file.
        train: the rows of all sites, shape ``(rows, width)``.
        test: rows that no site has, shape ``(rows, width)``.
        declared: the rows of the largest site, rounded up as one would declare them in public; 0 where sites are
            alike, and the data set's own number holds.
    """

    sites: Mapping[str, Path]
    train: Records
    test: Records
    declared: int = 0


def check_source(data: DataSet, folder: Path | None) -> None:
    """Refuse a data set that is not there before anything is run.

    Args:
        data: the data set.
        folder: where files are.

    Raises:
        ConfigError: scikit-learn, the folder or the file is missing.
    """
    if find_spec("sklearn") is None:  # the judges of every run need it, too
        raise ConfigError(_INSTALL)
    if data.source.startswith(_PACKAGE):
        if data.source.removeprefix(_PACKAGE) not in _SHIPPED:
            raise ConfigError(f"{data.source!r} is none of {', '.join(_SHIPPED)}", where=f"data {data.name!r}")
    elif folder is None:
        raise ConfigError(f"data {data.name!r} needs {data.source}: say where it is, or leave it out", where="--data")
    elif not (folder / data.source).is_file():
        raise ConfigError(
            f"has no {data.source}, which data {data.name!r} needs; get it, or leave the data out with --only",
            where=f"--data {folder}",
        )


def read_cells(data: DataSet, folder: Path | None) -> Cells:
    """Return the columns of a data set's source that its schema and its sites need.

    Raises:
        ConfigError: the source cannot be read.
        DataError: it is no table, or lacks a column.
    """
    wanted = [column.name for column in data.columns]
    wanted += [data.sites] if isinstance(data.sites, str) and data.sites not in wanted else []
    if data.source.startswith(_PACKAGE):
        cells = _shipped(data.source.removeprefix(_PACKAGE))
        lost = next((name for name in wanted if name not in cells), None)
        if lost is not None:
            raise DataError(f"{data.source}: lacks column {lost!r}; check the schema's spelling")
        return {name: cells[name] for name in wanted}
    path = (folder or Path()) / data.source
    if path.suffix == ".npz":
        with open_arrays(path) as file:
            return {name: file.read(name) for name in wanted}
    header, columns = read_csv_cells(path, wanted)
    return {name: np.array(column) for name, column in zip(header, columns, strict=True)}


def _shipped(name: str) -> dict[str, npt.NDArray[Any]]:
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{name}")()
    cells = {str(name): column for name, column in zip(loaded.feature_names, loaded.data.T, strict=True)}
    if "images" in loaded:
        cells["images"] = loaded.images
    return cells | {"target": np.asarray(loaded.target_names)[loaded.target]}


def split(data: DataSet, cells: Cells, seed: int, folder: Path, dealing: Dealing | None = None) -> Split:
    """Hold out rows, deal the rest to sites and write each site's file; the same for the same seed.

    Args:
        data: the data set.
        cells: its columns.
        seed: of the draw.
        folder: where the files go.
        dealing: how rows are dealt to a number of sites; in equal parts if it is not said.

    Raises:
        DataError: a row does not fit the schema, or too few are left for so many sites.
    """
    rows = len(next(iter(cells.values())))
    order = np.random.default_rng([seed, _DRAW]).permutation(rows)
    held_out = round(rows * data.test_share)
    train = order[held_out:][: data.most_train]
    if isinstance(data.sites, int):
        parts = [train[i :: data.sites] for i in range(data.sites)]
        if dealing == "skewed":
            parts = skewed(
                data, cells[data.target][train].astype(str), data.sites, np.random.default_rng([seed, _SKEW])
            )
            parts = [train[part] for part in parts]
        dealt = {f"site-{i + 1}": part for i, part in enumerate(parts)}
    else:
        named = np.array([_site(name) for name in cells[data.sites][train].astype(str)])
        dealt = {name: train[named == name] for name in np.unique(named).tolist()}
    asked = {"": order[:held_out]}
    if data.site_column is not None:
        home = np.array([_site(name) for name in cells[str(data.sites)][order[:held_out]].astype(str)])
        asked = {name: order[:held_out][home == name] for name in np.unique(home).tolist()}
    if held_out == 0 or any(len(part) == 0 for part in dealt.values()):
        raise DataError(f"data {data.name!r}: has too few rows for so many sites; deal it to fewer")
    domain: Domain = find("synthfed.domains", data.domain).make()
    sites = {site: _write(folder / site, data, cells, part) for site, part in dealt.items()}
    tests = {site: _write(folder / f"held-out{site}", data, cells, part) for site, part in asked.items()}
    declared = _declared(max(map(len, dealt.values()))) if dealing == "skewed" else 0
    roster = sorted(sites)
    return Split(sites, _read(data, domain, sites, roster), _read(data, domain, tests, roster), declared)


def _read(data: DataSet, domain: Domain, files: Mapping[str, Path], roster: Sequence[str]) -> Records:
    """Return the rows of several sites' files, each with its site where the data set asks for it."""
    tables = []
    for site, path in files.items():
        table = domain.read(path, data.columns, unit=None, records_per_unit=1)
        tables.append(table if data.site_column is None else at_site(path, table, data.site_column, roster, site))
    return np.concatenate([table.records for table in tables])


def skewed(
    data: DataSet, labels: npt.NDArray[Any], sites: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Return the places of each site's rows: every category is dealt in shares drawn from a Dirichlet law of 0.5.

    Sites then differ in size and in the target's distribution (Hsu, Qi, Brown 2019, arXiv:1909.06335). A target
    that is no category is dealt as one, so that sites differ in size alone. Draws that leave a site less than a
    hundredth of the rows are repeated: a federation would not have it.

    Args:
        data: the data set.
        labels: the target's cells, shape ``(rows,)``.
        sites: how many.
        rng: of the shares and the dealing.

    Raises:
        DataError: no draw leaves each site enough.
    """
    is_category = any(column.name == data.target and isinstance(column, Categorical) for column in data.columns)
    labels = labels if is_category else np.full(len(labels), "")
    groups = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    least = max(1, len(labels) // _LEAST_SHARE)
    for _ in range(_DEALS):
        cuts = [np.cumsum(rng.dirichlet(np.full(sites, _SKEWNESS)))[:-1] for _ in groups]
        parts = [
            np.split(group, np.rint(cut * len(group)).astype(np.int64)) for group, cut in zip(groups, cuts, strict=True)
        ]
        dealt = [np.sort(np.concatenate([part[site] for part in parts])) for site in range(sites)]
        if min(map(len, dealt)) >= least:
            return dealt
    raise DataError(f"data {data.name!r}: has too few rows for so many skewed sites; deal it to fewer")


def _declared(rows: int) -> int:
    """Return a number rounded up to two digits."""
    unit = int(10 ** max(0, len(str(rows)) - 2))
    return -(-rows // unit) * unit


def _site(name: str) -> str:
    """Return a site's name as it can name a folder: va_long_beach becomes va-long-beach."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32].strip("-") or "site"


def _write(path: Path, data: DataSet, cells: Cells, rows: npt.NDArray[np.int64]) -> Path:
    """Write some rows as a site has them, and return the file."""
    kept = {column.name: cells[column.name][rows] for column in data.columns}
    if any(isinstance(column, ArrayColumn) for column in data.columns):
        path = path.with_name(f"{path.name}.npz")
        np.savez(path, **kept)  # type: ignore[arg-type]  # numpy types any keyword as its own flag
        return path
    path = path.with_name(f"{path.name}.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(kept)
        writer.writerows(zip(*(column.tolist() for column in kept.values()), strict=True))
    return path
