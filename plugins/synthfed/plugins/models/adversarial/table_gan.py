"""What the GANs for tables have in common: one-hot records, a dense critic, a generator of cells, the table's anchor.

Never differs between families in what a site computes, but for the loss of a score.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study

from ...api import Array, Given
from ..adam import flatten, set_flat
from ..tables.conditions import check_given
from ..tables.generator import Generator
from ..tables.sampling import sample_codes, walk_codes
from ..tables.table_anchor import MakeGenerator, TableAnchor, TableAnchorOptions, Width
from ..tables.table_fitting import TableFitting
from ..tables.waves import waves
from .critics import Critic, DenseCritic
from .gan_family import Fakes, GanFamily
from .gan_options import GanOptions, Weight


class TableGanOptions(GanOptions, TableAnchorOptions):
    """What a study may set of every GAN for tables.

    Attributes:
        refine: as of every GAN, but off: on tables the anchor alone is as good or better nearly everywhere.
        critic_hidden: width of the critic's layers; the noise grows with the root of its parameters.
        critic_depth: number of its hidden layers.
        critic_waves: cosines by which the critic sees a number's place; 0 for its cells. Fewer inputs, less noise.
        temperature: of the straight-through gradient.
        marginals_anchor: weight of the marginals' divergence in the generator's loss.
        pairs_anchor: weight of the two-way misfit, a mean square in units of the noise.
    """

    critics_own: ClassVar[frozenset[str]] = frozenset({"temperature", "marginals_anchor", "pairs_anchor"})

    refine: bool = False
    critic_hidden: Width = 64
    critic_depth: Annotated[int, Field(ge=1, le=8)] = 2
    critic_waves: Annotated[int, Field(ge=0, le=64)] = 0
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.7
    marginals_anchor: Weight = 1.0
    pairs_anchor: Weight = 0.1

    @model_validator(mode="after")
    def _something_goes_together(self) -> Self:
        if self.start == "marginals" and not self.refine:
            raise ValueError("start = 'marginals' leaves what goes together to the critic: set refine = true")
        return self


class TableGan(GanFamily[TableFitting]):
    """A GAN for tables; what is left to a family is its losses and, if it likes, its generator.

    Records are one-hot, so fakes are too: their cells are drawn, with straight-through gradients.
    """

    options: TableGanOptions
    anchor: TableAnchor

    def __init__(
        self,
        study: Study,
        options: TableGanOptions,
        *,
        make: MakeGenerator | None = None,
        conditions: Sequence[str] = (),
    ) -> None:
        """Lay out the table.

        Args:
            study: the terms.
            options: as the study sets them.
            make: as of `TableAnchor`.
            conditions: as of `TableAnchor`.

        Raises:
            ConfigError: a column is an array, a condition cannot be one, the shares leave nothing for the critic,
                or hidden units of a generator without any are to be dropped.
        """
        plugin = f"model {study.model.plugin!r}"
        is_mixture = options.generator != "network" and make is None and not conditions
        if options.generator_dropout > 0 and is_mixture:
            raise ConfigError(
                "a mixture has no hidden units to drop; set generator = 'network', or leave this out",
                where="model.options.generator_dropout",
            )
        super().__init__(study, options, TableAnchor(study, options, plugin, make=make, conditions=conditions))
        # Components can be counted and weighed by anything; a network only fills in what it was told.
        self.conditions = tuple(column.name for column in study.columns) if is_mixture else tuple(conditions)

    @property
    def encoded_width(self) -> int:
        """Number of cells of all columns."""
        return self.anchor.encoder.width

    def encode(self, records: Records) -> Array:
        """Return one-hot records, shape ``(rows, width)``."""
        return self.anchor.encoder.encode(records)

    def critic(self) -> Critic:
        """Return an MLP."""
        options, view = self.options, None
        if options.critic_waves > 0:
            view = waves(self.anchor.encoder.blocks, options.critic_waves)
        hidden, depth, dropout = options.critic_hidden, options.critic_depth, options.critic_dropout
        return DenseCritic(self.encoded_width, hidden, depth, dropout, view)

    def fitting(self, seed: int) -> TableFitting:
        """Return the coordinator's half of the anchor."""
        return self.anchor.fitting(seed)

    def generator(self, seed: int) -> Generator:
        """Return a generator that knows nothing of the release."""
        return self.anchor.generator(seed)

    def warm_start(self, generator: nn.Module, fitting: TableFitting) -> None:
        """Start where the anchor's own generator ended."""
        set_flat(generator, flatten(fitting.generator))

    def follow(self, generator: nn.Module, fitting: TableFitting) -> None:
        """Let the logits start at the released marginals."""
        of_table(generator).aim(fitting.target, fitting.joint)

    def latents(
        self, generator: Generator, rows: int, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return inputs for a training batch, and how much each counts; None where all count alike."""
        return generator.latents(rows, rng), None

    def fakes(self, generator: nn.Module, rows: int, rng: torch.Generator) -> Fakes:
        """Return drawn one-hot records, and the probabilities that they were drawn with."""
        maker, options = of_table(generator), self.options
        latents, weights = self.latents(maker, rows, rng)
        logits = maker(latents, rng, options.generator_dropout)
        cells = maker.cells(logits, rng, options.temperature)
        return Fakes(cells, maker.probabilities(logits), latents, weights)

    def public_losses(
        self,
        generator: nn.Module,  # noqa: ARG002
        fitting: TableFitting,
        fakes: Fakes,
    ) -> Mapping[str, tuple[float, torch.Tensor]]:
        """Return the misfits to the released marginals and two-way moments."""
        losses = {"marginals_drift": (self.options.marginals_anchor, fitting.drift(fakes.expected, fakes.weights))}
        pairs_misfit = fitting.pairs_misfit()
        if pairs_misfit is not None:
            losses["pairs_misfit"] = (self.options.pairs_anchor, pairs_misfit(fakes.expected, fakes.weights))
        return losses

    def sample(self, generator: nn.Module, fitting: TableFitting, rows: int, seed: int, given: Given) -> Records:
        """Return synthetic records, their marginals centred on the released ones."""
        check_given(given, self.conditions)
        encoder = self.anchor.encoder
        portions = encoder.portions(given)
        codes = sample_codes(of_table(generator), fitting.target, rows, seed, portions)
        return encoder.decode(codes, np.random.default_rng(seed), portions)

    def walk(self, generator: nn.Module, fitting: TableFitting, walks: int, steps: int, seed: int) -> Records:
        """Return the records of walks, each drawn with one and the same chance."""
        codes = walk_codes(of_table(generator), fitting.target, walks, steps, seed)
        return self.anchor.encoder.decode(codes, np.random.default_rng(seed))


def of_table(generator: nn.Module) -> Generator:
    """Return a generator as what a table's family has made it."""
    if not isinstance(generator, Generator):
        raise TypeError("a table's generator is a Generator")
    return generator
