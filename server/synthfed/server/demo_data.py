"""The demo's data: the RAND Health Insurance Experiment, as the package statsmodels ships it.

Never mixes sites, and never lets a person stand in both training and held-out rows.
"""

import csv
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Categorical, Column, Integer, Real

UNIT: Final = "person"
TARGET: Final = "admitted"
RECORDS_PER_PERSON: Final = 5
SITES: Final = 6
"""Of the experiment: Dayton, Seattle, Fitchburg, Franklin County, Charleston, Georgetown County."""
_HELD_OUT_OF_FIVE: Final = 1
_YES_NO: Final = ("no", "yes")

# Public knowledge of the experiment's design and questionnaires; no bound was read off the records.
COLUMNS: Final[tuple[Column, ...]] = (
    Categorical(name="plan", values=tuple(str(number) for number in range(1, 25))),
    Categorical(name="year", values=("1", "2", "3", "4", "5")),
    Categorical(name="coins", values=("0", "25", "50", "95", "100")),
    Categorical(name="female", values=_YES_NO),
    Categorical(name="child", values=_YES_NO),
    Real(name="age", lower=0, upper=70, decimals=1),
    Integer(name="education", lower=0, upper=25, missing=True),
    Real(name="income", lower=0, upper=30000, decimals=0),
    Categorical(name="black", values=_YES_NO),
    Integer(name="diseases", lower=0, upper=60),
    Categorical(name="limited", values=_YES_NO),
    Categorical(name="health", values=("excellent", "good", "fair", "poor")),
    Real(name="mental", lower=0, upper=100, decimals=1),
    Integer(name="visits", lower=0, upper=100, scale="log"),
    Real(name="dollars", lower=0, upper=50000, decimals=2, scale="log"),
    Categorical(name=TARGET, values=_YES_NO),
)


@dataclass(frozen=True, slots=True)
class DemoTables:
    """Where the demo's files lie: one table per site, and what only the demo's audits see."""

    sites: Mapping[str, Path]
    train: Path
    holdout: Path


def write_demo_tables(folder: Path, count: int = SITES) -> DemoTables:
    """Write each site's training rows, all training rows together, and held-out persons' rows.

    A fifth of the persons of every site is held out, by a hash of the person's number.

    Args:
        folder: where the files go.
        count: of the experiment's sites, the first ones; 1 to 6.

    Raises:
        ConfigError: statsmodels is not installed.
    """
    by_site: dict[str, list[dict[str, str]]] = defaultdict(list)
    holdout: list[dict[str, str]] = []
    for row in _read():
        if int(row["site"]) > count:
            continue
        record = _record(row)
        if zlib.crc32(record[UNIT].encode()) % 5 < _HELD_OUT_OF_FIVE:
            holdout.append(record)
        else:
            by_site[f"site-{row['site']}"].append(record)
    sites = {site: _write(folder / f"{site}.csv", by_site[site]) for site in sorted(by_site)}
    train = _write(folder / "train.csv", [record for records in by_site.values() for record in records])
    return DemoTables(sites, train, _write(folder / "holdout.csv", holdout))


def _read() -> Sequence[dict[str, str]]:
    found = find_spec("statsmodels")
    if found is None or found.origin is None:
        raise ConfigError('the demo needs its extra; run `pip install "synthfed[demo]"`')
    path = Path(found.origin).parent / "datasets" / "randhie" / "src" / "randhie.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _record(row: Mapping[str, str]) -> dict[str, str]:
    return {
        UNIT: row["zper"],
        "plan": row["plan"],
        "year": row["year"],
        "coins": row["coins"],
        "female": _yes(row["female"]),
        "child": _yes(row["child"]),
        "age": row["xage"],
        "education": _whole(row["educdec"]),
        "income": row["income"],
        "black": _yes(row["black"]),
        "diseases": _whole(row["disea"]),
        "limited": _yes(row["physlm"]),
        "health": _health(row),
        "mental": row["mhi"],
        "visits": row["mdvis"],
        "dollars": row["meddol"],
        TARGET: _yes(row["totadm"]),
    }


def _whole(number: str) -> str:
    """Return a number rounded: imputed answers have fractions, given ones do not."""
    return str(round(float(number))) if number else ""


def _yes(number: str) -> str:
    """Return yes from one half on: a few yes-no answers are imputed means between 0 and 1."""
    return _YES_NO[float(number) >= 0.5]


def _health(row: Mapping[str, str]) -> str:
    marked = [name for name, column in (("good", "hlthg"), ("fair", "hlthf"), ("poor", "hlthp")) if row[column] == "1"]
    return marked[0] if marked else "excellent"


def _write(path: Path, records: Iterable[Mapping[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [UNIT, *(column.name for column in COLUMNS)])
        writer.writeheader()
        writer.writerows(records)
    return path
