"""A release on disk: what it holds, read back and sampled again; `finish` is what writes it.

Never takes a file for part of a release that is damaged, of another study or of an unknown format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from synthfed.plugins.api import Domain, Model, Trainer
from synthfed.plugins.constrained import make_model
from synthfed.plugins.files import read_text, write_whole
from synthfed.plugins.registry import Plugin, find
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Columns, Records, Strict
from synthfed.protocols.study import Study, describe, parse_study

from .evidence import Evidence, PluginEvidence
from .guarded import GuardedTrainer
from .pictures import read_pictures
from .quotas import Supply, draw_by, find_quota
from .report import Document, render
from .sampling import draw
from .where import parse_conditions

ADVICE: Final = "is this the folder of a release?"


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
    study = parse_study(read_text(terms, advice=ADVICE), where=str(terms))
    evidence = Evidence.from_json(read_part(folder / "evidence.json"), where=str(folder / "evidence.json"))
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


def write_report(folder: Path, document: Document, out: Path | None = None) -> None:
    """Write a release's report, for programs and for people, with the pictures that are in its folder already.

    Args:
        folder: the release.
        document: the report.
        out: the folder of the report; the release itself if None.

    Raises:
        ConfigError: a file cannot be written.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(document, read_pictures(folder, document))
    write_whole((out or folder) / "report.json", [text.encode()])
    write_whole((out or folder) / "report.html", [page.encode()])


def _domain(release: Release, out: Path) -> Domain:
    """Return the domain that writes a release's rows; ConfigError where the file's name is of another kind."""
    domain: Domain = find("synthfed.domains", release.study.domain).make()
    if not out.name.endswith(domain.suffix):
        raise ConfigError(f"must end with {domain.suffix}, as the release's own file does", where=f"--out {out}")
    return domain


def read_part(path: Path) -> bytes:
    """Return the content of a release's file; ConfigError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}; {ADVICE}", where=str(path)) from None


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(read_part(path))
    except ValidationError as error:
        raise ConfigError(describe(error), where=str(path)) from None


def _read_weights(path: Path, digest: str) -> dict[str, Any]:
    content = read_part(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ConfigError("differs from what model.json names; copy the release again", where=str(path))
    try:
        return load_arrays(content)
    except SafetensorError:
        raise ConfigError("is not a safetensors file; copy the release again", where=str(path)) from None
