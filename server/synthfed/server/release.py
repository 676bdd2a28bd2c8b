"""A release on disk: synthetic rows, the model that made them, the terms, the evidence and the report.

Never replaces a release by another, and never leaves half a folder under the asked-for name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from synthfed.plugins.api import Source, Trainer
from synthfed.plugins.domains.table import write_csv
from synthfed.plugins.registry import Plugin, find, installed
from synthfed.protocols.errors import ConfigError, LocalProtocolError, PluginError, SynthfedError
from synthfed.protocols.schema import Column, Records, Strict
from synthfed.protocols.study import Study, describe, parse_study

from .evidence import Evidence, PluginEvidence
from .report import FORMAT as REPORT_FORMAT
from .report import Document, Finding, render, report, with_audits

CHUNK: Final = 100_000
"""Rows sampled and written at a time; part of the format, because each chunk has a seed of its own."""


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

    ``plugin`` is the one installed here; `has_same_plugin` tells whether it is the one that trained.
    """

    folder: Path
    study: Study
    evidence: Evidence
    manifest: Manifest
    plugin: Plugin
    trainer: Trainer

    @property
    def has_same_plugin(self) -> bool:
        """Whether the installed plugin is byte for byte the one that trained; if not, rows may differ."""
        return self.plugin.hash.hex() == self.evidence.plugin.hash

    def sample(self, rows: int, seed: int) -> Records:
        """Return synthetic records, shape ``(rows, columns)``; the release's own rows and seed give its file."""
        return np.concatenate(list(draw(self.trainer, rows, seed)))


def draw(trainer: Trainer, rows: int, seed: int) -> Iterator[Records]:
    """Yield synthetic records in chunks, so that memory does not grow with their number.

    Raises:
        ConfigError: ``rows`` or ``seed`` is out of range.
    """
    if rows < 1:
        raise ConfigError(f"cannot sample {rows} rows; ask for at least one")
    if seed < 0:
        raise ConfigError(f"cannot sample with seed {seed}; choose one that is not negative")
    for index, start in enumerate(range(0, rows, CHUNK)):
        own = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        yield trainer.sample(min(CHUNK, rows - start), own)


def write_release(
    folder: Path,
    *,
    study: Study,
    study_text: str,
    trainer: Trainer,
    evidence: Evidence,
    history: Sequence[Mapping[str, float]],
    rows: int,
    seed: int,
) -> None:
    """Write a release folder, all or nothing.

    Args:
        folder: where to; must not exist, or be an empty folder.
        study: the signed terms.
        study_text: the file they were read from, kept as it is.
        trainer: the trained model.
        evidence: what was promised and spent.
        history: public numbers of the training, each with its ``step``.
        rows: how many synthetic rows to publish.
        seed: public seed of the sampling.

    Raises:
        ConfigError: the folder is in use or cannot be written, or rows or seed is out of range.
        LocalProtocolError: study, text and evidence are not of one study.
    """
    if not evidence.study_hash == study.hash.hex() == parse_study(study_text, where="study.toml").hash.hex():
        raise LocalProtocolError("the study, its text and the evidence of a release disagree; report this")
    _check_free(folder)
    weights = save_arrays({name: np.asarray(array, order="C") for name, array in trainer.state().items()})
    digest = hashlib.sha256(weights).hexdigest()
    manifest = Manifest(plugin=evidence.plugin, rows=rows, seed=seed, weights_sha256=digest)
    first = next(draw(trainer, rows, seed))
    document = report(study=study, evidence=evidence, synthetic=first, rows=rows, seed=seed, history=history)
    with _new_folder(folder) as part:
        write_rows(part / "synthetic.csv", study.columns, draw(trainer, rows, seed))
        (part / "model").mkdir()
        _write(part / "model" / "weights.safetensors", weights)
        _write(part / "model" / "model.json", manifest.model_dump_json(indent=2).encode() + b"\n")
        _write(part / "study.toml", study_text.encode())
        _write(part / "evidence.json", evidence.to_json().encode())
        _write_report(part, document)


def open_release(folder: Path) -> Release:
    """Return a release with its trainer restored.

    Raises:
        ConfigError: a file is missing, corrupt, of another study, or of an unknown format.
        PluginError: the model plugin is not installed, or does not accept the weights.
    """
    study = parse_study(_read_text(folder / "study.toml"), where=str(folder / "study.toml"))
    evidence = Evidence.from_json(_read(folder / "evidence.json"), where=str(folder / "evidence.json"))
    if evidence.study_hash != study.hash.hex():
        raise ConfigError(
            "is of another study than study.toml; copy the release again", where=str(folder / "evidence.json")
        )
    manifest = _read_manifest(folder / "model" / "model.json")
    state = _read_weights(folder / "model" / "weights.safetensors", manifest.weights_sha256)
    plugin = find("synthfed.models", study.model.plugin)
    with _foreign(plugin, "cannot restore the release"):
        trainer: Trainer = plugin.load()(study).trainer(manifest.seed)
        trainer.load(state)
    return Release(folder, study, evidence, manifest, plugin, trainer)


def sample_to(folder: Path, rows: int, seed: int, out: Path) -> None:
    """Write new synthetic rows of a release into a CSV file, replacing it all or nothing.

    Raises:
        ConfigError: the release cannot be read, ``out`` not written, or rows or seed is out of range.
        PluginError: the model plugin is not installed.
    """
    release = open_release(folder)
    write_rows(out, release.study.columns, draw(release.trainer, rows, seed))


def audit_release(folder: Path, *, train: Records, holdout: Records, seed: int) -> tuple[Finding, ...]:
    """Run every installed audit on a release and put the findings into its report.

    The findings are statistics of real rows and not differentially private; the report says so.

    Args:
        folder: the release.
        train: real rows that the release was trained on, shape ``(rows, columns)``.
        holdout: real rows that nothing was trained on, shape ``(rows, columns)``.
        seed: of the audits' own draws.

    Raises:
        ConfigError: the release cannot be read, the tables do not fit it, or an audit lacks software.
        PluginError: an audit is broken.
    """
    release = open_release(folder)
    document = _read_report(folder / "report.json")
    for name, table in (("train", train), ("holdout", holdout)):
        if table.ndim != 2 or len(table) == 0 or table.shape[1] != len(release.study.columns):
            raise ConfigError(
                f"the {name} rows of an audit must be a table with the study's columns and at least one row"
            )
    published = next(draw(release.trainer, release.manifest.rows, release.manifest.seed))
    rows: dict[Source, Records] = {"synthetic": published, "train": train, "holdout": holdout}
    findings = tuple(_audit(plugin, release.study, rows, seed) for plugin in installed("synthfed.audits"))
    _write_report(folder, with_audits(document, findings, train=len(train), holdout=len(holdout), seed=seed))
    return findings


def write_rows(path: Path, columns: Sequence[Column], chunks: Iterable[Records]) -> None:
    """Write chunks of records as one CSV file, all or nothing, holding one chunk in memory at a time.

    Raises:
        ConfigError: the file cannot be written.
    """
    part, piece = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("rows", "piece"))
    try:
        write_csv(part, columns, np.empty((0, len(columns))))
        header = part.stat().st_size
        with part.open("ab") as whole:
            for chunk in chunks:
                write_csv(piece, columns, chunk)
                with piece.open("rb") as source:
                    source.seek(header)
                    shutil.copyfileobj(source, whole)
            whole.flush()
            os.fsync(whole.fileno())
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}; choose another place", where=str(path)) from None
    finally:
        part.unlink(missing_ok=True)
        piece.unlink(missing_ok=True)


def _audit(plugin: Plugin, study: Study, rows: Mapping[Source, Records], seed: int) -> Finding:
    with _foreign(plugin, "failed"):
        audit = plugin.load()()
        return Finding(audit.name, audit.question, tuple(audit.run(study, rows, seed)))


@contextmanager
def _foreign(plugin: Plugin, what: str) -> Iterator[None]:
    """Turn whatever a plugin raises into an error that names it."""
    try:
        yield
    except SynthfedError:
        raise
    except Exception as error:  # the edge to foreign code
        message = f"{what} ({type(error).__name__}: {error}); the installed version is {plugin.version}"
        raise PluginError(message, plugin=plugin.name, distribution=plugin.distribution) from error


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("exists already and is never overwritten; choose another --out", where=str(folder))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a sibling folder to write into; when all went well, put it on disk and under its name."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        for path in (*part.rglob("*"), part):
            _sync(path)
        _check_free(folder)
        part.replace(folder)
        _sync(folder.parent)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}; choose another --out", where=str(folder)) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        _sync(part)
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def _write_report(folder: Path, document: Document) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(document)
    _write(folder / "report.json", text.encode())
    _write(folder / "report.html", page.encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror}; is this the folder of a release?"
        raise ConfigError(message, where=str(path)) from None


def _read_text(path: Path) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8 text; copy the release again", where=str(path)) from None


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
