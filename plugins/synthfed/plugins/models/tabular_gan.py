"""A GAN for tables: sites are private gradient oracles of its critic, the coordinator trains the rest.

Never lets a real record touch the generator: it learns from the critic and released statistics alone.

Three sums: the one-way marginals, the two-way moments (``start = "pairs"``), and the critic's gradient
on real records. The generator starts at the statistics; the critic then refines what they cannot tell.
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import nn
from torch.nn import functional

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study, describe
from synthfed.protocols.sums import Sum

from ..api import Array, Payload
from .networks import build_critic
from .table_anchor import Rate, TableAnchor, TableAnchorOptions, Width
from .training import CRITIC, Training


class Options(TableAnchorOptions):
    """What a study may set of this model; the defaults are those of its published figures.

    Attributes:
        critic_hidden: width of the critic's layers; the noise grows with the root of its parameters.
        critic_depth: number of its hidden layers.
        critic_rate: its learning rate.
        critic_momentum: Adam's decay of the mean gradient.
        generator_rate: the generator's learning rate against the critic.
        generator_steps: its steps for each of the critic's.
        temperature: of the straight-through gradient.
        marginals_anchor: weight of the marginals' divergence in the generator's loss.
        pairs_anchor: weight of the two-way misfit, a mean square in units of the noise.
        averaging: decay of the running mean of the generator's weights, per step of the generator.
    """

    critic_hidden: Width = 64
    critic_depth: Annotated[int, Field(ge=1, le=8)] = 2
    critic_rate: Rate = 2e-3
    critic_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    generator_rate: Rate = 5e-4
    generator_steps: Annotated[int, Field(ge=1, le=64)] = 2
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.7
    marginals_anchor: Annotated[float, Field(ge=0, le=1000)] = 1.0
    pairs_anchor: Annotated[float, Field(ge=0, le=1000)] = 0.1
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.98


class TabularGan:
    """The model plugin ``tabular-gan``."""

    Options: type[BaseModel] = Options
    conditions: tuple[str, ...] = ()

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is unknown or out of range, or a column is an array.
        """
        try:
            self.options = Options.model_validate(study.model.options)
        except ValidationError as error:
            raise ConfigError(describe(error), where="model.options") from None
        self.anchor = TableAnchor(study, self.options, "model 'tabular-gan'")
        self._privacy = study.privacy

    def sums(self) -> tuple[Sum, ...]:
        """Return the sums: marginals, two-way moments unless left out, the critic's gradient."""
        return (*self.anchor.sums(), self._gradients())

    def _gradients(self) -> Sum:
        weights = tuple((name, tuple(each.shape)) for name, each in self.critic().named_parameters())
        dim, privacy = sum(int(np.prod(shape)) for _, shape in weights), self._privacy
        rest = 1.0 - self.anchor.share
        return Sum(CRITIC, "gradient", dim, privacy.clip_norm, privacy.sample_rate, privacy.steps, rest, weights)

    def private(self) -> "TabularGanAtSite":
        """Return the half that runs at a site."""
        return TabularGanAtSite(self)

    def trainer(self, seed: int) -> Training:
        """Return the half that runs at the coordinator."""
        return Training(self.anchor, self.options, self.critic, self._gradients(), seed)

    def critic(self) -> nn.Sequential:
        """Return a critic with fresh weights, drawn without moving the process's random state."""
        with torch.random.fork_rng(devices=[]):
            return build_critic(self.anchor.encoder.width, self.options.critic_hidden, self.options.critic_depth)


class TabularGanAtSite:
    """The private part: one-hot records, their statistics, and the critic's loss on them."""

    def __init__(self, model: TabularGan) -> None:
        """Serve a model; nothing of a record is ever kept."""
        self._model = model

    def encode(self, records: Records) -> Array:
        """Return one-hot records, shape ``(rows, width)``."""
        return self._model.anchor.encoder.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return contributions to the marginals or to the two-way moments, shape ``(rows, dim)``."""
        return self._model.anchor.contributions(name, batch, payload)

    def module(self, name: str) -> nn.Module:  # noqa: ARG002  (there is one module)
        """Return the critic."""
        return self._model.critic()

    def loss(
        self,
        name: str,  # noqa: ARG002
        module: nn.Module,
        batch: torch.Tensor,
        coins: torch.Tensor,  # noqa: ARG002
    ) -> torch.Tensor:
        """Return the logistic loss of taking each record for a fake, shape ``(rows,)``."""
        return functional.softplus(-module(batch)).squeeze(1)
