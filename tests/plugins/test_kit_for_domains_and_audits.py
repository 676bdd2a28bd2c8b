"""The kit's checks of domains and audits: each check notices its own violation."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthfed.plugins.audits.estimate import Estimate
from synthfed.plugins.domains.table import TableDomain
from synthfed.plugins.testing import check_audit, check_domain
from synthfed.plugins.testing.audits import CHECKS as AUDIT_CHECKS
from synthfed.plugins.testing.domains import CHECKS as DOMAIN_CHECKS
from synthfed.protocols.errors import ConfigError, DataError


def domain(**members: Any) -> type:
    return type("Wrong", (TableDomain,), {"__doc__": "Tables with a fault."} | members)


def crash_on_arrays(self: Any, columns: Any) -> None:
    if any(column.kind == "array" for column in columns):
        raise TypeError


def reading(change: Callable[[np.ndarray], np.ndarray]) -> type:
    def read(self: Any, path: Path, columns: Any, *, unit: str | None, records_per_unit: int, **more: Any) -> Any:
        table = TableDomain.read(self, path, columns, unit=unit, records_per_unit=records_per_unit, **more)
        return dataclasses.replace(table, records=change(table.records))

    return domain(read=read)


def stray(records: np.ndarray) -> np.ndarray:
    return records + random.SystemRandom().uniform(0, 1e-10)


def keep(self: Any, path: Path, columns: Any, *, unit: str | None, records_per_unit: int, **more: Any) -> Any:
    self.last = TableDomain.read(self, path, columns, unit=unit, records_per_unit=records_per_unit, **more)
    return self.last


def write_as_it_comes(self: Any, path: Path, columns: Any, chunks: Any) -> None:
    path.write_text(",".join(column.name for column in columns) + "\n")
    for i, chunk in enumerate(chunks):
        part = path.with_name(f"part-{i}")
        TableDomain.write(self, part, columns, [chunk])
        with path.open("a") as file:
            file.writelines(part.read_text().splitlines(keepends=True)[1:])


def read_with_crashes(
    self: Any, path: Path, columns: Any, *, unit: str | None, records_per_unit: int, **more: Any
) -> Any:
    path.stat()
    return TableDomain.read(self, path, columns, unit=unit, records_per_unit=records_per_unit, **more)


def read_and_tell(self: Any, path: Path, columns: Any, *, unit: str | None, records_per_unit: int, **more: Any) -> Any:
    try:
        return TableDomain.read(self, path, columns, unit=unit, records_per_unit=records_per_unit, **more)
    except DataError:
        if columns[-1].values[0] == "no no":
            cell = path.read_text().splitlines()[1].split(",")[-1]
            raise DataError(f"a record of class {cell!r} does not fit") from None
        raise


WRONG_DOMAINS = [
    ("domain-is-documented", domain(__doc__=None)),
    ("odd-columns-are-refused", domain(check=crash_on_arrays)),
    ("written-records-are-read-back", reading(lambda records: records[::-1])),
    ("reading-repeats", reading(stray)),
    ("domain-keeps-nothing", domain(read=keep)),
    ("writing-is-whole", domain(write=write_as_it_comes)),
    ("bad-files-are-refused", domain(read=read_with_crashes)),
    ("errors-hold-no-value", domain(read=read_and_tell)),
    ("draft-is-a-schema", domain(draft=lambda self, path, *, exclude=(): ())),
    ("picture-is-a-png", domain(picture=lambda self, columns, records, across: b"GIF89a")),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG_DOMAINS, ids=[name for name, _ in WRONG_DOMAINS])
def test_a_check_of_domains_notices_its_own_violation(name: str, wrong: type) -> None:
    assert set(check_domain(wrong).failed()) == {name}


class Spread:
    """How far the synthetic first column spreads, in its own units."""

    name = "spread"
    question = "How far does the first column spread?"
    needs = ("synthetic", "train")

    def unfit(self, study: Any) -> str:
        return "" if study.columns[0].kind == "real" else "the first column is no real number"

    def run(self, study: Any, rows: Any, seed: int) -> tuple[Estimate, ...]:  # noqa: ARG002
        spread, real = (float(np.nanstd(rows[each][:, 0])) for each in self.needs)
        slack = float(np.random.default_rng(seed).uniform(0.1, 0.2))
        return (Estimate("spread", spread, spread - slack, spread + slack, 0.95, 0.0, real),)


def audit(**members: Any) -> type:
    return type("Wrong", (Spread,), {"__doc__": "An audit with a fault."} | members)


def running(change: Callable[[tuple[Estimate, ...], Any], Any]) -> type:
    return audit(run=lambda self, study, rows, seed: change(Spread.run(self, study, rows, seed), rows))


def crash(self: Any, study: Any) -> str:
    raise TypeError


def shuffle_in_place(estimates: tuple[Estimate, ...], rows: Any) -> tuple[Estimate, ...]:
    rows["train"][:] = rows["train"][::-1].copy()
    return estimates


def draw_globally(estimates: tuple[Estimate, ...], rows: Any) -> tuple[Estimate, ...]:
    np.random.random()
    return estimates


def write_away(estimates: tuple[Estimate, ...], rows: Any) -> tuple[Estimate, ...]:
    Path("/dev/null").write_text("seen")
    return estimates


WRONG_AUDITS = [
    ("audit-is-documented", audit(__doc__=None)),
    ("audit-says-what-it-asks", audit(question="Spread")),
    ("unfit-studies-are-told", audit(unfit=crash)),
    ("estimates-are-whole", running(lambda estimates, rows: [dataclasses.replace(estimates[0], low=9e9)])),
    (
        "a-seed-fixes-the-numbers",
        running(lambda estimates, rows: [dataclasses.replace(estimates[0], control=random.SystemRandom().random())]),
    ),
    ("rows-are-left-alone", running(shuffle_in_place)),
    ("audit-leaves-randomness-alone", running(draw_globally)),
    ("audit-opens-nothing", running(write_away)),
    (
        "other-rows-give-other-numbers",
        running(lambda estimates, rows: [dataclasses.replace(estimates[0], value=1.0, low=0.0, high=2.0)]),
    ),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG_AUDITS, ids=[name for name, _ in WRONG_AUDITS])
def test_a_check_of_audits_notices_its_own_violation(name: str, wrong: type) -> None:
    assert set(check_audit(wrong).failed()) == {name}


def test_every_check_of_domains_and_audits_has_a_violation() -> None:
    assert {name for name, _ in WRONG_DOMAINS} == {check.name for check in DOMAIN_CHECKS}
    assert {name for name, _ in WRONG_AUDITS} == {check.name for check in AUDIT_CHECKS}


def test_a_plugin_that_takes_no_data_of_the_kit_is_not_taken_for_a_good_one() -> None:
    def refuse(self: Any, columns: Any) -> None:
        raise ConfigError("not for me")

    with pytest.raises(ConfigError, match="takes none of the kit's kinds of data"):
        check_domain(domain(check=refuse))
    with pytest.raises(ConfigError, match="takes none of the kit's kinds of data"):
        check_audit(audit(unfit=lambda self, study: "no such study"))
