"""A release audited against real rows, by whoever has them.

Never changes a number of the release's own report, and never says of real rows' statistics that they are private.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from synthfed.plugins.api import Audit, Domain, Source
from synthfed.plugins.files import make_private_folder, read_text
from synthfed.plugins.registry import Plugin, find, installed
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records, places
from synthfed.protocols.study import Study, parse_study

from ..release import ADVICE, open_release, read_part, write_report
from ..report import FORMAT as REPORT_FORMAT
from ..report import Document, Finding, with_audits
from ..sampling import draw


def audit_release(
    folder: Path, *, train: Records, holdout: Records, seed: int, out: Path | None = None
) -> tuple[Finding, ...]:
    """Run every installed audit on a release and put the findings into a report.

    The findings are statistics of real rows and not differentially private; the report says so.

    Args:
        folder: the release.
        train: real rows that the release was trained on, shape ``(rows, width)``.
        holdout: real rows that nothing was trained on, shape ``(rows, width)``.
        seed: of the audits' own draws.
        out: the folder of the report; the release itself if None.

    Raises:
        ConfigError: the release cannot be read, the tables do not fit it, or an audit lacks software.
        PluginError: an audit is broken.
    """
    release = open_release(folder)
    document = _read_report(folder / "report.json")
    for name, table in (("train", train), ("holdout", holdout)):
        if table.ndim != 2 or len(table) == 0 or table.shape[1] != places(release.columns)[-1]:
            site = release.study.site_column
            last = "" if site is None else f" and last of its site column {site!r}, which these files must have"
            raise ConfigError(f"the {name} rows of an audit must be records of the study's columns{last}, at least one")
    published = next(draw(release.trainer, release.columns, release.manifest.rows, release.manifest.seed))
    rows: dict[Source, Records] = {"synthetic": published, "train": train, "holdout": holdout}
    findings = tuple(_audit(plugin, release.study.released, rows, seed) for plugin in installed("synthfed.audits"))
    audited = with_audits(document, findings, train=len(train), holdout=len(holdout), seed=seed)
    write_report(folder, audited, out)
    return findings


def audit_files(folder: Path, train: Path, holdout: Path, out: Path, seed: int) -> tuple[Finding, ...]:
    """Audit a release against real rows in two files, as the sites' are, and write a report of its own.

    Args:
        folder: the release, which is left as it is.
        train: real rows that it was trained on; one of each unit is used.
        holdout: real rows of the same population that nothing was trained on, likewise.
        out: the folder of the report, which may not hold one.
        seed: of the audits' own draws.

    Raises:
        ConfigError: as `audit_release`, a file cannot be read, or ``out`` holds a report.
        DataError: a file's rows do not fit the study; names columns and rows, never a value.
        PluginError: an audit or the domain is broken or not installed.
    """
    if any((out / name).exists() for name in ("report.json", "report.html")):
        raise ConfigError("holds a report, which is never overwritten; name a new folder", where=f"--out {out}")
    terms = folder / "study.toml"
    study = parse_study(read_text(terms, advice=ADVICE), where=str(terms))
    rows = [real_rows(study, path, seed) for path in (train, holdout)]
    make_private_folder(out)  # its report tells statistics of real rows
    return audit_release(folder, train=rows[0], holdout=rows[1], seed=seed, out=out)


def real_rows(study: Study, path: Path, seed: int) -> Records:
    """Return one record of each unit in a file as the sites' are, drawn evenly, shape ``(units, width)``.

    A model is trained on such records. And only of them are rows independent: with several of one person, both halves
    of a test would hold that person, and intervals would be too narrow.

    Raises:
        ConfigError: the file cannot be read.
        DataError: its rows do not fit the study; names columns and rows, never a value.
    """
    domain: Domain = find("synthfed.domains", study.domain).make()
    privacy = study.privacy
    most = privacy.records_per_unit * privacy.sites_per_unit  # a file may be of all sites together
    table = domain.read(path, study.released.columns, unit=privacy.unit, records_per_unit=most)
    order = np.random.default_rng(seed).permutation(len(table.units))
    _, first = np.unique(table.units[order], return_index=True)
    return table.records[np.sort(order[first])]


def _audit(plugin: Plugin, study: Study, rows: Mapping[Source, Records], seed: int) -> Finding:
    if plugin.unfit:
        return Finding(plugin.name, f"an audit of {plugin.distribution} {plugin.version}", (), plugin.unfit)
    with plugin.blamed("failed"):
        audit: Audit = plugin.load()()
        if reason := audit.unfit(study):
            return Finding(audit.name, audit.question, (), reason)
        return Finding(audit.name, audit.question, tuple(audit.run(study, rows, seed)))


def _read_report(path: Path) -> Document:
    try:
        document = json.loads(read_part(path))
    except ValueError:
        raise ConfigError("is not valid JSON; copy the release again", where=str(path)) from None
    if not isinstance(document, dict) or document.get("format") != REPORT_FORMAT:
        raise ConfigError(f"is not a report of format {REPORT_FORMAT}; use the synthfed that wrote it", where=str(path))
    return document
