"""``cgan``: the conditional GAN, for tables (Mirza and Osindero 2014, arXiv:1411.1784).

Never draws a condition that contradicts what was asked for: a given category is the record's, always.

Shapes: a record is one-hot, ``(width,)``; the critic is an MLP from the whole record, conditions
included, to one score; the generator is a residual MLP from noise and the one-hot conditions,
``(latent + cells,)``, to logits, in which the conditions' own cells have no choice.

Private part: the anchor's statistics; where several columns are conditions, also the count of each
combination of their categories; the gradient of -log sigmoid(score) of each real record.
Public part: the original GAN's losses of fakes. With ``balance`` a part of the fakes is drawn with all
combinations alike: the generator practises rare classes as often as common ones. In the critic's
loss, in the misfits to the anchor and in the mean of features such a fake counts by the ratio of its
true chance to that of being drawn, so that what the critic learns, and the optimum, stay the same.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import BaseModel, Field

from synthfed.protocols.study import Study

from .adversarial.gan_options import Part, read_options
from .adversarial.losses import LOGISTIC
from .adversarial.table_gan import TableGan, TableGanOptions
from .tables.conditions import ConditionalGenerator
from .tables.generator import Generator


class CganOptions(TableGanOptions):
    """What a study may set besides what every GAN for tables has.

    Attributes:
        conditions: categorical columns that the generator is told; the study's target if none is named.
        balance: part of the training fakes whose conditions are drawn evenly instead of as released.
    """

    critics_own: ClassVar[frozenset[str]] = TableGanOptions.critics_own | {"balance"}

    conditions: Annotated[tuple[str, ...], Field(max_length=16, strict=False)] = ()
    balance: Part = 0.0


class Cgan(TableGan):
    """The model plugin ``cgan``."""

    Options: type[BaseModel] = CganOptions
    losses = LOGISTIC
    options: CganOptions

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is unknown or out of range, a column is an array, or a condition is not categorical.
        """
        options = read_options(CganOptions, study)
        super().__init__(study, options, conditions=options.conditions or (study.target,))

    def latents(
        self, generator: Generator, rows: int, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return noise and conditions, a part of these drawn evenly, and how much each counts."""
        balance = self.options.balance
        if balance == 0 or not isinstance(generator, ConditionalGenerator):
            return generator.latents(rows, rng), None
        latents = generator.latents(rows, rng, balance=balance)
        return latents, generator.weights(latents, balance)
