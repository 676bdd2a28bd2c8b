"""The anchor of images and series: means and products of their cosine coefficients, class by class.

Never sees more of a record than its contribution to a declared, clipped and noised sum.

Five statistics in sequence; each is scaled by what the ones before it released, by nothing else.
    levels: the histogram of all numbers; its mean and variance set the centre and radius of `means`.
    means: the mean coefficients of every class.
    basis: pooled products of coefficients about their class mean; its first eigenvectors, the
        directions in which records differ most, become the basis of the next two.
    cells: sums by which each class is divided into a few cells (k-means); left out with one cell.
    moments: the mean and products of every cell in that basis.
"""

import math
from typing import Annotated, Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Strict
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

from ...api import Array, Given, Payload
from ...domains.arrays import ArrayEncoder
from .dct import CosineBasis
from .grey_levels import level_shares
from .moment_fitting import MomentFitting
from .moment_sums import Group, clipped, mean_parts, moment_parts, moment_size, products

LEVELS: Final = "levels"
MEANS: Final = "means"
BASIS: Final = "basis"
CELLS: Final = "cells"
MOMENTS: Final = "moments"
ROUNDS: Final = 2  # each is averaged, so that one failed round costs accuracy only
MOST_CLASSES: Final = 256

Part = Annotated[float, Field(gt=0, le=1)]


class MomentAnchorOptions(Strict):
    """What a study may set of the anchor; the parts are relative to one another.

    Attributes:
        levels: values of the histogram of all numbers.
        coefficients: how many cosine coefficients of an array are looked at, those of lowest frequency.
        directions: in how many directions of these the moments are taken.
        cells: into how many cells each class is divided.
        levels_part: part of the anchor's budget for the histogram.
        means_part: for the class means.
        basis_part: for the pooled products.
        cells_part: for the division, if there is more than one cell.
        moments_part: for the moments.
    """

    levels: Annotated[int, Field(ge=2, le=256)] = 24
    coefficients: Annotated[int, Field(ge=1, le=256)] = 100
    directions: Annotated[int, Field(ge=1, le=128)] = 32
    cells: Annotated[int, Field(ge=1, le=64)] = 1
    levels_part: Part = 0.03
    means_part: Part = 0.3
    basis_part: Part = 0.2
    cells_part: Part = 0.2
    moments_part: Part = 0.5

    @model_validator(mode="after")
    def _directions_are_of_the_coefficients(self) -> Self:
        if self.directions > self.coefficients:
            raise ValueError("directions must not exceed coefficients")
        return self


class MomentAnchor:
    """The declared statistics of arrays with labels and what a record contributes to them.

    Attributes:
        encoder: of the study's columns.
        waves: the cosine basis.
        classes: how many there are, one for each combination of labels.
        dim: number of directions.
        most_units_per_site: declared upper bound on a site's units.
        options: as the study sets them.
        share: the part of the budget that the statistics take.
    """

    def __init__(self, study: Study, options: MomentAnchorOptions, plugin: str, share: float) -> None:
        """Lay out the statistics of a study's columns.

        Raises:
            ConfigError: naming ``plugin``, where the columns are not one array and a few labels.
        """
        self.encoder = ArrayEncoder(study.columns, plugin)
        self.waves = CosineBasis(self.encoder.array.shape, options.coefficients)
        self.classes = math.prod(self.encoder.sizes)
        if self.classes > MOST_CLASSES:
            raise ConfigError(
                f"{plugin} keeps statistics of each combination of labels, and there are {self.classes:,}; "
                f"leave columns out or merge categories until there are at most {MOST_CLASSES}",
                where="columns",
            )
        self.dim = min(options.directions, self.waves.count)
        self.most_units_per_site = study.privacy.units_per_site
        self.options, self.share = options, share

    def sums(self) -> tuple[Sum, ...]:
        """Return the statistics in the order in which they are asked for."""
        options, count, groups = self.options, self.waves.count, self.classes * self.options.cells
        frame, means = ("frame", (2,)), ("means", (self.classes, count))
        centres = (("axes", (count, self.dim)), ("centres", (self.classes, options.cells, self.dim)))
        halves = count * (count + 1) // 2
        drafts = [
            (LEVELS, options.levels, options.levels_part, ()),
            (MEANS, self.classes * (1 + count), options.means_part, (frame,)),
            (BASIS, halves, options.basis_part, (frame, means)),
            (CELLS, groups * (1 + self.dim), options.cells_part, (frame, *centres)),
            (MOMENTS, groups * moment_size(self.dim), options.moments_part, (frame, *centres)),
        ]
        kept = [draft for draft in drafts if draft[0] != CELLS or options.cells > 1]
        whole = sum(part for _, _, part, _ in kept) / self.share
        return tuple(
            Sum(name, "statistic", dim, 1.0, 1.0, ROUNDS, part / whole, payload) for name, dim, part, payload in kept
        )

    def contributions(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return each encoded record's contribution to a statistic, of norm at most 1, shape ``(rows, dim)``."""
        numbers, group = batch[:, : self.encoder.numbers], self.class_of(batch)
        if name == LEVELS:
            return level_shares(numbers, self.options.levels)
        sent = {key: values.astype(np.float64) for key, values in payload.items()}
        centre, radius = sent["frame"]
        waves = self.waves.analyse(numbers - centre)
        if name == MEANS:
            return mean_parts(clipped(waves, radius), group, self.classes)
        if name == BASIS:
            return products(clipped(waves - sent["means"][group], radius))
        places, centres = waves @ sent["axes"], sent["centres"]
        cell = _nearest(places, centres[group])
        vectors = clipped(places - centres[group, cell], radius)
        form = mean_parts if name == CELLS else moment_parts
        return form(vectors, group * self.options.cells + cell, self.classes * self.options.cells)

    def class_of(self, batch: npt.NDArray[Any]) -> Group:
        """Return the number of each encoded record's combination of labels, shape ``(rows,)``."""
        group = np.zeros(len(batch), dtype=np.int64)
        start = self.encoder.numbers
        for size in self.encoder.sizes:
            group = group * size + batch[:, start : start + size].argmax(1)
            start += size
        return group

    def codes_of(self, group: Group) -> Group:
        """Return the label cells of classes, shape ``(rows, labels)``; the inverse of ``class_of``."""
        codes = np.zeros((len(group), len(self.encoder.sizes)), dtype=np.int64)
        for place, size in reversed(list(enumerate(self.encoder.sizes))):
            group, codes[:, place] = np.divmod(group, size)
        return codes

    def allowed(self, given: Given) -> npt.NDArray[np.bool_]:
        """Return which classes have the given labels, shape ``(classes,)``."""
        codes = self.codes_of(np.arange(self.classes))
        fits = np.ones(self.classes, dtype=np.bool_)
        for place, label in enumerate(self.encoder.labels):
            if label.name in given:
                fits &= codes[:, place] == given[label.name].cell(len(label.values))
        return fits

    def fitting(self, seed: int) -> MomentFitting:
        """Return the coordinator's half."""
        return MomentFitting(self, seed)


def _nearest(places: Array, centres: Array) -> Group:
    """Return which of its class's centres lies nearest to each place, shape ``(rows,)``.

    Args:
        places: shape ``(rows, dim)``.
        centres: of each place's own class, shape ``(rows, cells, dim)``.
    """
    return np.asarray(((places[:, None] - centres) ** 2).sum(2).argmin(1))
