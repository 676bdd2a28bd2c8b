"""The pictures of a release: samples, their means, walks through the latent space, curves of the training.

Never shows a real record: all that is drawn was sampled from the model or is a public number.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from synthfed.plugins.api import Domain, Span, Trainer
from synthfed.plugins.pictures import curves
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Records, places, width_of
from synthfed.protocols.study import Study

FOLDER: Final = "pictures"
NAMES: Final = ("samples", "means", "walk", "curves")
"""The pictures there can be, each a PNG of that name."""

_ACROSS: Final = 8  # samples of one label
_MOST_LABELS: Final = 16
_WALKS: Final = 8
_STEPS: Final = 10
_MOST_CURVES: Final = 12
_WALK_ALT: Final = (
    f"{_WALKS} walks from one point of the latent space to another, each a row of {_STEPS} synthetic records."
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: its name among ``NAMES``, a title, what it shows in words, and its PNG."""

    name: str
    title: str
    alt: str
    png: bytes


def check_drawing(domain: Domain, columns: Sequence[Column]) -> None:
    """Refuse, with a ConfigError, a coordinator that lacks what a domain draws with, before a round is spent."""
    domain.picture(columns, np.empty((0, places(columns)[-1])), 1)


def draw_pictures(
    study: Study,
    domain: Domain,
    conditions: Collection[str],
    trainer: Trainer,
    rows: Records,
    history: Sequence[Mapping[str, Any]],
    seed: int,
) -> tuple[Picture, ...]:
    """Return the pictures of a release; none for data that no picture shows.

    Args:
        study: the terms.
        domain: draws records.
        conditions: the columns whose values the model can fix.
        trainer: the trained model.
        rows: synthetic records, to take samples and means from.
        history: the training curves of the report: ``name``, ``steps`` and ``values`` of each.
        seed: of further draws.
    """
    if domain.picture(study.columns, rows[:1], 1) is None:
        return ()
    samples, by_label = _samples(study, conditions, trainer, rows, seed)
    order = f"one row for each value of {study.target!r}: {_listed(by_label)}" if by_label else "in no order"
    walk = trainer.walk(_WALKS, _STEPS, seed)
    means = _means(study, rows)
    means_alt = "The mean of the synthetic records of each label, in the schema's order."
    shown = [
        ("samples", "Samples", f"Synthetic records, {_ACROSS} in a row, {order}.", samples, _ACROSS),
        ("means", "Means", means_alt, means, max(1, len(means))),
        ("walk", "Walks through the latent space", _WALK_ALT, walk, _STEPS),
    ]
    drawn = [
        Picture(name, title, alt, png)
        for name, title, alt, records, across in shown
        if len(records) and (png := domain.picture(study.columns, records, across)) is not None
    ]
    kept = [curve for curve in history if curve["values"]][:_MOST_CURVES]
    if kept:
        alt = f"Public numbers of the training over its steps: {_listed([curve['name'] for curve in kept])}."
        png = curves([(curve["name"], curve["steps"], curve["values"]) for curve in kept])
        drawn.append(Picture("curves", "Training curves", alt, png))
    return tuple(drawn)


def read_pictures(folder: Path, document: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the PNG of every picture that a release's report names and that is there."""
    named = [each["name"] for each in document.get("pictures", []) if each["name"] in NAMES]
    files = {name: folder / FOLDER / f"{name}.png" for name in named}
    return {name: file.read_bytes() for name, file in files.items() if file.is_file()}


def _samples(
    study: Study, conditions: Collection[str], trainer: Trainer, rows: Records, seed: int
) -> tuple[Records, list[str]]:
    """Return records of each label after those of the one before, and the labels; any records where there are none."""
    column, place = _target(study)
    if not isinstance(column, Categorical):
        return rows[: _ACROSS * _ACROSS], []
    found: dict[str, Records] = {}
    for code, value in enumerate(column.values[:_MOST_LABELS]):
        mine = rows[rows[:, place] == code][:_ACROSS]
        if column.name in conditions:
            mine = trainer.sample(_ACROSS, seed, {column.name: Span.at(code)})
        if len(mine) == _ACROSS:  # a shorter row would shift all others
            found[value] = mine
    if not found:
        return rows[: _ACROSS * _ACROSS], []
    return np.concatenate(list(found.values())), list(found)


def _means(study: Study, rows: Records) -> Records:
    """Return one record per label with the mean of each array and the label; of all records where there is no label."""
    column, place = _target(study)
    codes = rows[:, place] if isinstance(column, Categorical) else np.zeros(len(rows))
    means = []
    for code in np.unique(codes[~np.isnan(codes)])[:_MOST_LABELS]:
        mine = rows[codes == code]
        record = mine[0].copy()
        for each, first in zip(study.columns, places(study.columns), strict=False):
            if isinstance(each, ArrayColumn):
                record[first : first + width_of(each)] = mine[:, first : first + width_of(each)].mean(axis=0)
        means.append(record)
    return np.stack(means) if means else rows[:0]


def _target(study: Study) -> tuple[Column, int]:
    index = [column.name for column in study.columns].index(study.target)
    return study.columns[index], places(study.columns)[index]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
