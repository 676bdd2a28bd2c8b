"""The anchor of tables: one-way marginals, two-way moments, and a generator fitted to both.

Never sees more of a record than its contribution to a declared, clipped and noised sum.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Scalar, Strict
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

from ...api import Array, Payload
from ...domains.encoding import OneHotEncoder, scalars
from .conditions import CONDITIONS, ConditionalGenerator, Conditions
from .generator import Generator
from .mixture import MixtureGenerator
from .network import NetworkGenerator
from .pair_fitting import PAIRS
from .pairs import PairLayout
from .table_fitting import MARGINALS, TableFitting
from .wide_fitting import SCAN
from .wide_pairs import WideLayout, is_wide

ROUNDS: Final = 2  # both statistics are averaged, so that one failed round costs accuracy only

# Least, most, and how many for each root of a unit: finer ones would hold more noise than units. Chosen on training
# rows of Adult (12,500 declared units) and heart disease (1,280).
BINS: Final = (8, 64, 0.6)
WHOLE: Final = 4  # with up to so many values for each bin, each has a cell, as people round to some of them
REALS: Final = 2  # reals have so many times more: bounds are often far, and most of the mass in little of the range
MOST_FINE: Final = 4096  # cells of a table for that; one with more keeps to the plain number
GROUPS: Final = (4, 24, 0.22)
COMPONENTS: Final = (128, 4096, 9.0)
MOST_LOGITS: Final = 2**24  # of a mixture, unless a study names its components: the fit holds about a dozen such arrays
WIDE_LOGITS: Final = 2**22  # and of a wide table's, so that its fit stays one of minutes
SCAN_PART: Final = 0.4  # of what a wide table's two-way moments have of the budget

MakeGenerator = Callable[[int, int, int, Sequence[int]], NetworkGenerator]
"""From the noise's length, hidden width, depth and the columns' cells to a generator."""

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=0, le=8)]


class TableAnchorOptions(Strict):
    """What a study may set of the anchor.

    Attributes:
        start: what is released first: the one-way marginals, or also the two-way moments.
        bins: cells of a numeric column; if not set, by the declared bound on all sites' units, and columns of few
            whole numbers, or of reals with few decimals, have a cell for each value.
        groups: most groups that a column's cells are pooled into for the two-way moments; likewise.
        marginals_share: the marginals' share of the budget.
        conditions_share: the share of the combinations of conditions, where a model takes several columns as such.
        pairs_share: the two-way moments' share; what follows the anchor gets the rest, and where nothing does, all of
            the anchor's shares are scaled up.
        generator: a mixture of products, if not set, or a network; always that in a model that tells it something.
        components: of a mixture; likewise.
        latent: dimensions of a network's input.
        generator_hidden: width of its layers.
        generator_depth: number of its residual blocks.
        fit_rate: the first learning rate of the fit to the two-way moments; if not set, the generator's own.
        fit_steps: steps of that fit.
        fakes: records of one step of that fit; a mixture's are all its components.
    """

    start: Literal["marginals", "pairs"] = "pairs"
    bins: Annotated[int, Field(ge=2, le=256)] | None = None
    groups: Annotated[int, Field(ge=2, le=64)] | None = None
    marginals_share: Share = 0.25
    conditions_share: Share = 0.02
    pairs_share: Share = 0.6
    generator: Literal["mixture", "network"] | None = None
    components: Annotated[int, Field(ge=2, le=16_384)] | None = None
    latent: Width = 32
    generator_hidden: Width = 128
    generator_depth: Depth = 2
    fit_rate: Rate | None = None
    fit_steps: Annotated[int, Field(ge=1, le=100_000)] = 600
    fakes: Annotated[int, Field(ge=16, le=65_536)] = 1024

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.marginals_share + (self.pairs_share if self.start == "pairs" else 0.0) >= 1.0:
            raise ValueError(
                "marginals_share and pairs_share must leave the network a share: sum below 1; a GAN without a critic "
                "scales them to all of the budget"
            )
        return self


class TableAnchor:
    """The declared statistics of a table and what a record contributes to them.

    Attributes:
        encoder: of the study's columns.
        sizes: cells of each column.
        groups: of neighbouring cells: moments see no finer, and noise is smoothed inside them.
        layout: of the two-way moments of all pairs; None without them.
        wide: of a scan and of chosen pairs instead, where a table is too wide for that; otherwise None.
        conditions: what the generator is told; None for nothing.
        target: position of the target column.
        components: of a mixture.
        sites: how many take part.
        most_units_per_site: declared upper bound on a site's units.
        options: as the study sets them.
    """

    def __init__(
        self,
        study: Study,
        options: TableAnchorOptions,
        plugin: str,
        *,
        make: MakeGenerator | None = None,
        conditions: Sequence[str] = (),
    ) -> None:
        """Lay out the statistics of a study's columns.

        Args:
            study: whose columns they are.
            options: as the study sets them.
            plugin: who asks, for the error message.
            make: what makes the generator, a network of its own kind; None for what the options say.
            conditions: categorical columns that the generator is told instead; it is a conditional one then.

        Raises:
            ConfigError: a column is an array, which ``plugin`` cannot take, a condition cannot be one, or a
                mixture is asked for where the generator has to be told something.
        """
        if options.generator == "mixture" and (make is not None or conditions):
            raise ConfigError(
                f"{plugin} tells its generator something, which a mixture cannot hear; leave `generator` out",
                where="model.options.generator",
            )
        self.sites = len(study.cohort.sites)
        units = study.privacy.units_per_site * self.sites
        bins = _resolution(units, *BINS)
        self.encoder = _encoder(scalars(study.columns, plugin), bins, options.bins)
        self.sizes = tuple(block.width for block in self.encoder.blocks)
        self.groups = options.groups or _resolution(units, *GROUPS)
        self.target = [column.name for column in study.columns].index(study.target)
        self.layout: PairLayout | None = None
        self.wide: WideLayout | None = None
        if options.start == "pairs" and len(self.sizes) > 1:
            self.layout = PairLayout(self.encoder.blocks, self.groups)
            if is_wide(self.layout, self.groups):
                self.layout, self.wide = None, WideLayout(self.encoder.blocks, self.groups, self.target)
        bounded = min(
            _resolution(units, *COMPONENTS), max((WIDE_LOGITS if self.wide else MOST_LOGITS) // self.encoder.width, 2)
        )
        self.components = options.components or bounded
        self.most_units_per_site = study.privacy.units_per_site
        self.options, self._make = options, make
        self.conditions = Conditions(study.columns, self.sizes, conditions) if conditions else None

    @property
    def share(self) -> float:
        """The part of the budget that the statistics take."""
        return sum(each.share for each in self.sums())

    def sums(self) -> tuple[Sum, ...]:
        """Return the marginals, the combinations of several conditions and, unless left out, the two-way moments."""
        options, conditions = self.options, self.conditions
        sums = [Sum(MARGINALS, "statistic", self.encoder.width, 1.0, 1.0, ROUNDS, options.marginals_share)]
        if conditions is not None and conditions.is_joint:
            sums.append(conditions.sum(ROUNDS, options.conditions_share))
        if self.layout is not None:
            shapes = self.layout.payload
            sums.append(Sum(PAIRS, "statistic", self.layout.dim, 1.0, 1.0, ROUNDS, options.pairs_share, shapes))
        if self.wide is not None:
            parts = {SCAN: (self.wide.scan, SCAN_PART), PAIRS: (self.wide.chosen, 1.0 - SCAN_PART)}
            for name, (each, part) in parts.items():
                share = part * options.pairs_share
                sums.append(Sum(name, "statistic", each.dim, 1.0, 1.0, ROUNDS, share, each.payload))
        return tuple(sums)

    def contributions(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return contributions to marginals, combinations (norm 1) or two-way moments, shape ``(rows, dim)``."""
        if name == CONDITIONS and self.conditions is not None:
            return self.conditions.contributions(batch)
        if name == PAIRS and self.layout is not None:
            arrays = {name: each.astype(np.float64) for name, each in payload.items()}
            return self.layout.contributions(batch, arrays)
        if name in (SCAN, PAIRS) and self.wide is not None:
            arrays = {name: each.astype(np.float64) for name, each in payload.items()}
            return (self.wide.scan if name == SCAN else self.wide.chosen).contributions(batch, arrays)
        return np.asarray(batch / np.sqrt(len(self.sizes)))

    def generator(self, seed: int) -> Generator:
        """Return a generator of the study's columns, weights by ``seed``, the process's random state untouched."""
        options = self.options
        size = (options.latent, options.generator_hidden, options.generator_depth, self.sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.conditions is not None:
                return ConditionalGenerator(*size, conditions=self.conditions)
            if self._make is not None:
                return self._make(*size)
            if options.generator == "network":
                return NetworkGenerator(*size)
            return MixtureGenerator(self.components, self.sizes)

    def fitting(self, seed: int) -> TableFitting:
        """Return the coordinator's half."""
        return TableFitting(self, seed)


def _encoder(columns: Sequence[Scalar], bins: int, asked: int | None) -> OneHotEncoder:
    """Return an encoder with the number of cells that was asked for, or as fine as the units and the table bear."""
    if asked is not None:
        return OneHotEncoder(columns, asked)
    fine = OneHotEncoder(columns, bins, WHOLE * bins, REALS * bins)
    return fine if fine.width <= MOST_FINE else OneHotEncoder(columns, bins, WHOLE * bins)


def _resolution(units: int, least: int, most: int, per_root: float) -> int:
    """Return how finely a column is told apart, by the public bound on the units of all sites."""
    return min(max(round(per_root * math.sqrt(units)), least), most)
