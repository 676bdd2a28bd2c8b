"""What the GANs for arrays have in common: labelled arrays, convolutions, a start that is exactly the anchor.

Never lets a real record meet the generator: it learns from the critic and from released moments alone.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study

from ...api import Array, Given
from ..arrays.moment_anchor import MomentAnchor, MomentAnchorOptions
from ..arrays.moment_fitting import MomentFitting
from ..tables.conditions import check_given
from .convolutions import GROUPS, ArrayCritic, Refiner
from .critics import Critic
from .gan_family import Fakes, GanFamily
from .gan_options import GanOptions, Part, Rate, Weight
from .gan_options import Records as Batch
from .losses import LOGISTIC

AT_ONCE: Final = 1024  # records refined in one piece, so that memory stays bounded
LEAST_VARIANCE: Final = 1e-4  # draws without any spread must not make the change endless
LEAST_SIZE: Final = 4  # of an axis: two strides down


class ArrayGanOptions(GanOptions, MomentAnchorOptions):
    """What a study may set of every GAN for arrays.

    Attributes:
        anchor_share: the anchor's share of the budget; the critic gets the rest.
        latent: numbers of noise that the generator adds to a draw of the anchor.
        critic_channels: feature maps of the critic's first layer; the noise grows with the root of its parameters.
        generator_channels: of the generator's.
        anchor_hold: weight of the mean squared change of the anchor's draws, in parts of their variance, in the
            generator's loss.
    """

    critics_own: ClassVar[frozenset[str]] = frozenset({"anchor_share", "anchor_hold", "generator_channels"})

    batch: Batch = 256
    critic_rate: Rate = 1e-3
    generator_rate: Rate = 2e-4
    generator_steps: Annotated[int, Field(ge=1, le=64)] = 1
    averaging: Part = 0.98
    anchor_share: Annotated[float, Field(gt=0, lt=1)] = 0.9
    latent: Annotated[int, Field(ge=1, le=1024)] = 8
    critic_channels: Annotated[int, Field(ge=GROUPS, le=256, multiple_of=GROUPS)] = 16
    generator_channels: Annotated[int, Field(ge=GROUPS, le=256, multiple_of=GROUPS)] = 16
    anchor_hold: Weight = 5.0


class ArrayGenerator(Refiner):
    """A refiner that holds the anchor whose draws it refines.

    Attributes:
        fitting: the anchor's, set whenever something was released.
    """

    fitting: MomentFitting


class ArrayGan(GanFamily[MomentFitting]):
    """A GAN for records of one array and labels; all labels are conditions."""

    options: ArrayGanOptions
    anchor: MomentAnchor
    losses = LOGISTIC

    def __init__(self, study: Study, options: ArrayGanOptions) -> None:
        """Lay out arrays and labels.

        Raises:
            ConfigError: the columns are not one array and a few labels, or an axis is too short.
        """
        plugin = f"model {study.model.plugin!r}"
        super().__init__(study, options, MomentAnchor(study, options, plugin, options.anchor_share))
        encoder = self.anchor.encoder
        self.conditions = tuple(label.name for label in encoder.labels)
        self.shape = encoder.array.shape if len(encoder.array.shape) > 1 else (1, *encoder.array.shape)
        if min(self.shape[1:]) < LEAST_SIZE:
            raise ConfigError(
                f"{plugin} needs arrays of at least {LEAST_SIZE} numbers along every axis; use 'moments'",
                where="columns",
            )

    @property
    def encoded_width(self) -> int:
        """Numbers of the array and cells of the labels."""
        return self.anchor.encoder.width

    def encode(self, records: Records) -> Array:
        """Return numbers in [-1, 1] and one-hot labels, shape ``(rows, width)``."""
        return self.anchor.encoder.encode(records)

    def critic(self) -> Critic:
        """Return a convolutional critic of arrays and their labels."""
        labels = sum(self.anchor.encoder.sizes)
        return ArrayCritic(self.shape, labels, self.options.critic_channels, self.options.critic_dropout)

    def fitting(self, seed: int) -> MomentFitting:
        """Return the coordinator's half of the anchor."""
        return self.anchor.fitting(seed)

    def generator(self, seed: int) -> ArrayGenerator:
        """Return a generator that leaves draws as they are, inner weights by ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            labels = sum(self.anchor.encoder.sizes)
            made = ArrayGenerator(self.shape, labels, self.options.generator_channels, self.options.latent)
        made.fitting = self.fitting(seed)
        return made

    def warm_start(self, generator: nn.Module, fitting: MomentFitting) -> None:
        """Do nothing: it starts at the anchor from the first."""

    def follow(self, generator: nn.Module, fitting: MomentFitting) -> None:
        """Draw from what was released."""
        of_arrays(generator).fitting = fitting

    def fakes(self, generator: nn.Module, rows: int, rng: torch.Generator) -> Fakes:
        """Return refined draws of the anchor; what they are refined from is the expectation."""
        maker, options = of_arrays(generator), self.options
        draws, noise = maker.fitting.sample(rows, rng), torch.randn(rows, options.latent, generator=rng)
        kept = None
        if options.generator_dropout > 0:
            coins = torch.rand(rows, 2 * options.generator_channels, generator=rng)
            kept = (coins >= options.generator_dropout) / (1 - options.generator_dropout)
        return Fakes(maker(draws, noise, kept), draws, noise)

    def public_losses(
        self,
        generator: nn.Module,  # noqa: ARG002
        fitting: MomentFitting,  # noqa: ARG002
        fakes: Fakes,
    ) -> Mapping[str, tuple[float, torch.Tensor]]:
        """Return the mean squared change of the anchor's draws, in parts of their variance."""
        numbers = self.anchor.encoder.numbers
        drawn, refined = fakes.expected[:, :numbers], fakes.records[:, :numbers]
        spread = drawn.var(0).mean().clamp_min(LEAST_VARIANCE)
        return {"anchor_change": (self.options.anchor_hold, functional.mse_loss(refined, drawn) / spread)}

    def sample(self, generator: nn.Module, fitting: MomentFitting, rows: int, seed: int, given: Given) -> Records:
        """Return synthetic records, all with the given categories."""
        check_given(given, self.conditions)
        rng = torch.Generator().manual_seed(seed)
        parts = [np.empty((0, self.anchor.encoder.numbers + len(self.conditions)))]
        for start in range(0, rows, AT_ONCE):
            group = fitting.draw_classes(min(AT_ONCE, rows - start), rng, given)
            noise = torch.randn(len(group), self.options.latent, generator=rng)
            parts.append(self._refined(generator, fitting, fitting.draw(group, rng), group, noise))
        return np.concatenate(parts)

    def walk(self, generator: nn.Module, fitting: MomentFitting, walks: int, steps: int, seed: int) -> Records:
        """Return records on straight lines between two draws of one class, their noise on a line, too."""
        rng = torch.Generator().manual_seed(seed)
        parts = [np.empty((0, self.anchor.encoder.numbers + len(self.conditions)))]
        for group in fitting.draw_classes(walks, rng, {}) if steps > 0 else ():
            same = np.repeat(group, steps)
            first, last = fitting.draw(same[:1], rng), fitting.draw(same[:1], rng)
            ends = torch.randn(2, self.options.latent, generator=rng)
            part = np.linspace(0, 1, steps)[:, None]
            noise = torch.lerp(ends[:1], ends[1:], torch.from_numpy(part).float())
            parts.append(self._refined(generator, fitting, first + part * (last - first), same, noise))
        return np.concatenate(parts)

    @torch.no_grad()
    def _refined(
        self, generator: nn.Module, fitting: MomentFitting, coefficients: Array, group: np.ndarray, noise: torch.Tensor
    ) -> Records:
        """Return the records of cosine coefficients ``(rows, count)`` and classes, refined with noise."""
        refined = of_arrays(generator)(fitting.encoded(coefficients, group), noise)
        encoder = self.anchor.encoder
        return encoder.decode(refined[:, : encoder.numbers].numpy(), self.anchor.codes_of(group))


def of_arrays(generator: nn.Module) -> ArrayGenerator:
    """Return a generator as what a family of arrays has made it."""
    if not isinstance(generator, ArrayGenerator):
        raise TypeError("an array's generator is an ArrayGenerator")
    return generator
