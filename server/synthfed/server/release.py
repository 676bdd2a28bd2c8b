"""A release on disk: what it holds, read back, sampled again and audited; `finish` is what writes it.

Never takes a file for part of a release that is damaged, of another study or of an unknown format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from synthfed.plugins.api import Audit, Domain, Model, Source, Trainer
from synthfed.plugins.constrained import make_model
from synthfed.plugins.files import read_text, write_whole
from synthfed.plugins.registry import Plugin, find, installed
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Columns, Records, Strict, places
from synthfed.protocols.study import Study, describe, parse_study

from .evidence import Evidence, PluginEvidence
from .guarded import GuardedTrainer
from .pictures import read_pictures
from .quotas import Supply, draw_by, find_quota
from .report import FORMAT as REPORT_FORMAT
from .report import Document, Finding, render, with_audits
from .sampling import draw
from .where import parse_conditions

_ADVICE: Final = "is this the folder of a release?"


class Manifest(Strict):
    """``model/model.json``: how the weights are read and how the published rows were sampled from them."""

    format: Literal[1] = 1
    plugin: PluginEvidence
    rows: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Release:
    """A release that was read back, its trainer restored.

    ``plugin`` is the one installed here, and ``model`` made from it; `has_same_plugin` tells whether it
    is the one that trained.
    """

    folder: Path
    study: Study
    evidence: Evidence
    manifest: Manifest
    plugin: Plugin
    model: Model
    trainer: Trainer

    @property
    def has_same_plugin(self) -> bool:
        """Whether the installed plugin is byte for byte the one that trained; if not, rows may differ."""
        return self.plugin.hash.hex() == self.evidence.plugin.hash

    @property
    def columns(self) -> Columns:
        """The columns of its rows: those of the sites' files and, where the terms ask for it, the site column."""
        return self.study.released.columns

    def sample(self, rows: int, seed: int) -> Records:
        """Return synthetic records, shape ``(rows, width)``; the release's own rows and seed give its file."""
        return np.concatenate(list(draw(self.trainer, self.columns, rows, seed)))


def open_release(folder: Path) -> Release:
    """Return a release with its trainer restored.

    Raises:
        ConfigError: a file is missing, corrupt, of another study, or of an unknown format.
        PluginError: the model plugin is not installed, or does not accept the weights.
    """
    terms = folder / "study.toml"
    study = parse_study(read_text(terms, advice=_ADVICE), where=str(terms))
    evidence = Evidence.from_json(_read(folder / "evidence.json"), where=str(folder / "evidence.json"))
    if evidence.study_hash != study.hash.hex():
        raise ConfigError(
            "is of another study than study.toml; copy the release again", where=str(folder / "evidence.json")
        )
    manifest = _read_manifest(folder / "model" / "model.json")
    state = _read_weights(folder / "model" / "weights.safetensors", manifest.weights_sha256)
    plugin = find("synthfed.models", study.model.plugin)
    model = make_model(plugin, study)
    trainer = GuardedTrainer(plugin, model, manifest.seed)
    trainer.load(state)
    return Release(folder, study, evidence, manifest, plugin, model, trainer)


@dataclass(frozen=True, slots=True)
class Asked:
    """What new rows must have.

    Attributes:
        where: conditions that every row meets; see `parse_conditions`.
        balance: a column whose categories come equally often.
        equalise: a column whose categories come as often in every group
        across: of this one.
    """

    where: Sequence[str] = ()
    balance: str | None = None
    equalise: str | None = None
    across: str | None = None


PLAIN: Final = Asked()
"""Rows as the model draws them."""


def sample_to(folder: Path, rows: int, seed: int, out: Path, asked: Asked = PLAIN) -> str:
    """Write new synthetic rows of a release into a file, replacing it all or nothing.

    Returns what makes them differ from the release's own rows beside conditions, in one sentence; empty if nothing.

    Args:
        folder: the release.
        rows: how many rows.
        seed: of the draws.
        out: the file.
        asked: what the rows must have.

    Raises:
        ConfigError: the release cannot be read, ``out`` not written, rows or seed is out of range, or what is
            asked for is none of this study's or too rarely met.
        PluginError: the model plugin is not installed.
    """
    release = open_release(folder)
    columns = release.columns
    conditions = parse_conditions(asked.where, columns)
    quota = find_quota(columns, conditions, balance=asked.balance, equalise=asked.equalise, across=asked.across)
    domain = _domain(release, out)
    trainer, native = release.trainer, release.model.conditions
    if quota is None:
        domain.write(out, columns, draw(trainer, columns, rows, seed, conditions, native))
        return ""
    domain.write(out, columns, draw_by(quota, Supply(trainer, columns, conditions, native), rows, seed))
    return quota.notice


def walk_to(folder: Path, rows: int, seed: int, out: Path, walks: int) -> None:
    """Write straight walks through a release's latent space into a file, one after the other, all or nothing.

    Args:
        folder: the release.
        rows: synthetic records of all walks together, which memory holds at once.
        seed: of the walks' ends.
        out: the file.
        walks: how many walks the rows are split into.

    Raises:
        ConfigError: as `sample_to`, the rows cannot be split so, or the model has no latent space.
        PluginError: the model plugin is not installed.
    """
    if rows % walks or rows < 2 * walks:
        raise ConfigError(f"{walks} must divide --rows {rows} into walks of at least 2 rows each", where="--walks")
    release = open_release(folder)
    records = release.trainer.walk(walks, rows // walks, seed)
    if not len(records):
        model = release.plugin.name
        raise ConfigError(f"model {model!r} has no latent space to walk through; leave the option out", where="--walks")
    _domain(release, out).write(out, release.columns, [records])


def audit_release(folder: Path, *, train: Records, holdout: Records, seed: int) -> tuple[Finding, ...]:
    """Run every installed audit on a release and put the findings into its report.

    The findings are statistics of real rows and not differentially private; the report says so.

    Args:
        folder: the release.
        train: real rows that the release was trained on, shape ``(rows, width)``.
        holdout: real rows that nothing was trained on, shape ``(rows, width)``.
        seed: of the audits' own draws.

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
    write_report(folder, with_audits(document, findings, train=len(train), holdout=len(holdout), seed=seed))
    return findings


def write_report(folder: Path, document: Document) -> None:
    """Write a release's report, for programs and for people; its pictures are in the folder already.

    Raises:
        ConfigError: a file cannot be written.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(document, read_pictures(folder, document))
    write_whole(folder / "report.json", [text.encode()])
    write_whole(folder / "report.html", [page.encode()])


def _audit(plugin: Plugin, study: Study, rows: Mapping[Source, Records], seed: int) -> Finding:
    if plugin.unfit:
        return Finding(plugin.name, f"an audit of {plugin.distribution} {plugin.version}", (), plugin.unfit)
    with plugin.blamed("failed"):
        audit: Audit = plugin.load()()
        if reason := audit.unfit(study):
            return Finding(audit.name, audit.question, (), reason)
        return Finding(audit.name, audit.question, tuple(audit.run(study, rows, seed)))


def _domain(release: Release, out: Path) -> Domain:
    """Return the domain that writes a release's rows; ConfigError where the file's name is of another kind."""
    domain: Domain = find("synthfed.domains", release.study.domain).make()
    if not out.name.endswith(domain.suffix):
        raise ConfigError(f"must end with {domain.suffix}, as the release's own file does", where=f"--out {out}")
    return domain


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}; {_ADVICE}", where=str(path)) from None


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(_read(path))
    except ValidationError as error:
        raise ConfigError(describe(error), where=str(path)) from None


def _read_weights(path: Path, digest: str) -> dict[str, Any]:
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ConfigError("differs from what model.json names; copy the release again", where=str(path))
    try:
        return load_arrays(content)
    except SafetensorError:
        raise ConfigError("is not a safetensors file; copy the release again", where=str(path)) from None


def _read_report(path: Path) -> Document:
    try:
        document = json.loads(_read(path))
    except ValueError:
        raise ConfigError("is not valid JSON; copy the release again", where=str(path)) from None
    if not isinstance(document, dict) or document.get("format") != REPORT_FORMAT:
        raise ConfigError(f"is not a report of format {REPORT_FORMAT}; use the synthfed that wrote it", where=str(path))
    return document
