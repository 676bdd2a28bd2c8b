"""A GAN for tables: sites are private gradient oracles of its critic, the coordinator trains the rest.

Never lets a real record touch the generator: it learns from the critic and released statistics alone.

Three sums: the one-way marginals, the two-way moments (``start = "pairs"``), and the critic's gradient
on real records. The generator starts at the statistics; the critic then refines what they cannot tell.
"""

from typing import Annotated, Final, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import nn
from torch.nn import functional

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records, Strict
from synthfed.protocols.study import Study, describe
from synthfed.protocols.sums import Sum

from ..api import Array, Payload
from ..domains.encoding import OneHotEncoder
from .networks import build_critic
from .pairs import PairLayout
from .training import CRITIC, EMBEDDING, MARGINALS, PAIRS, Plan, Training

STATISTIC_ROUNDS: Final = 2  # both are averaged, so that one failed round costs accuracy only

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=0, le=8)]


class Options(Strict):
    """What a study may set of this model; the defaults are those of its published figures.

    Attributes:
        start: what the generator starts from: the one-way marginals, or also the two-way moments.
        bins: cells of a numeric column.
        groups: most groups that a column's cells are pooled into for the two-way moments.
        marginals_share: the marginals' share of the budget.
        pairs_share: the two-way moments' share; the critic gets the rest.
        critic_hidden: width of the critic's layers; the noise grows with the root of its parameters.
        critic_depth: number of its hidden layers.
        critic_rate: its learning rate.
        critic_momentum: Adam's decay of the mean gradient.
        latent: dimensions of the generator's input.
        generator_hidden: width of its layers.
        generator_depth: number of its residual blocks.
        generator_rate: its learning rate against the critic.
        generator_steps: its steps for each of the critic's.
        fit_rate: its first learning rate when it is fitted to the two-way moments.
        fit_steps: steps of that fit.
        fakes: records of one public batch.
        temperature: of the straight-through gradient.
        marginals_anchor: weight of the marginals' divergence in the generator's loss.
        pairs_anchor: weight of the two-way misfit, a mean square in units of the noise.
        averaging: decay of the running mean of the generator's weights, per step of the generator.
    """

    start: Literal["marginals", "pairs"] = "pairs"
    bins: Annotated[int, Field(ge=2, le=256)] = 32
    groups: Annotated[int, Field(ge=2, le=64)] = 12
    marginals_share: Share = 0.1
    pairs_share: Share = 0.6
    critic_hidden: Width = 64
    critic_depth: Annotated[int, Field(ge=1, le=8)] = 2
    critic_rate: Rate = 2e-3
    critic_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    latent: Width = 32
    generator_hidden: Width = 128
    generator_depth: Depth = 2
    generator_rate: Rate = 5e-4
    generator_steps: Annotated[int, Field(ge=1, le=64)] = 2
    fit_rate: Rate = 1e-2
    fit_steps: Annotated[int, Field(ge=1, le=100_000)] = 600
    fakes: Annotated[int, Field(ge=16, le=65_536)] = 1024
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.7
    marginals_anchor: Annotated[float, Field(ge=0, le=1000)] = 1.0
    pairs_anchor: Annotated[float, Field(ge=0, le=1000)] = 0.1
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.98

    @model_validator(mode="after")
    def _critic_has_a_share(self) -> Self:
        if self.marginals_share + (self.pairs_share if self.start == "pairs" else 0.0) >= 1.0:
            raise ValueError("marginals_share and pairs_share must leave the critic a share: sum below 1")
        return self


class TabularGan:
    """The model plugin ``tabular-gan``."""

    Options: type[BaseModel] = Options

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        try:
            options = Options.model_validate(study.model.options)
        except ValidationError as error:
            raise ConfigError(describe(error), where="model.options") from None
        encoder = OneHotEncoder(study.columns, options.bins)
        sizes = tuple(block.width for block in encoder.blocks)
        layout = PairLayout(sizes, options.groups)
        self.plan = Plan(
            encoder=encoder,
            sizes=sizes,
            layout=layout if options.start == "pairs" and layout.dim else None,
            target=[column.name for column in study.columns].index(study.target),
            clip_norm=study.privacy.clip_norm,
            sample_rate=study.privacy.sample_rate,
            most_units_per_site=study.privacy.units_per_site,
        )
        self.options, self.steps = options, study.privacy.steps

    def sums(self) -> tuple[Sum, ...]:
        """Return the sums: marginals, two-way moments unless left out, the critic's gradient."""
        plan, options = self.plan, self.options
        weights = tuple((name, tuple(each.shape)) for name, each in self.critic().named_parameters())
        dim = sum(int(np.prod(shape)) for _, shape in weights)
        marginals = Sum(MARGINALS, "statistic", plan.encoder.width, 1.0, 1.0, STATISTIC_ROUNDS, options.marginals_share)
        rest = 1.0 - options.marginals_share
        pairs: tuple[Sum, ...] = ()
        if plan.layout is not None:
            payload = ((EMBEDDING, plan.layout.shape),)
            pairs = (
                Sum(PAIRS, "statistic", plan.layout.dim, 1.0, 1.0, STATISTIC_ROUNDS, options.pairs_share, payload),
            )
            rest -= options.pairs_share
        critic = Sum(CRITIC, "gradient", dim, plan.clip_norm, plan.sample_rate, self.steps, rest, weights)
        return (marginals, *pairs, critic)

    def private(self) -> "TabularGanAtSite":
        """Return the half that runs at a site."""
        return TabularGanAtSite(self)

    def trainer(self, seed: int) -> Training:
        """Return the half that runs at the coordinator."""
        return Training(self.plan, self.options, self.critic, seed)

    def critic(self) -> nn.Sequential:
        """Return a critic with fresh weights, drawn without moving the process's random state."""
        with torch.random.fork_rng(devices=[]):
            return build_critic(self.plan.encoder.width, self.options.critic_hidden, self.options.critic_depth)


class TabularGanAtSite:
    """The private part: one-hot records, their statistics, and the critic's loss on them."""

    def __init__(self, model: TabularGan) -> None:
        """Serve a model; nothing of a record is ever kept."""
        self._model = model

    def encode(self, records: Records) -> Array:
        """Return one-hot records, shape ``(rows, width)``."""
        return self._model.plan.encoder.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return contributions to the marginals (of norm 1) or to the two-way moments, shape ``(rows, dim)``."""
        plan = self._model.plan
        if name == PAIRS and plan.layout is not None:
            return plan.layout.contributions(batch, payload[EMBEDDING].astype(np.float64))
        return np.asarray(batch / np.sqrt(len(plan.sizes)))

    def module(self, name: str) -> nn.Module:  # noqa: ARG002  (there is one module)
        """Return the critic."""
        return self._model.critic()

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the logistic loss of taking each record for a fake, shape ``(rows,)``."""
        return functional.softplus(-module(batch)).squeeze(1)
