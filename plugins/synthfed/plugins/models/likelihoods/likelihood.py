"""Families whose whole network learns from private gradients of a loss that each record has for itself.

Never uses more of a record than its clipped gradient: the warm start and every draw are public.

One engine for all of them. The anchor's statistics are released first. The network is then trained, in
the clear and at no cost, on records drawn from the anchor. After that every round sums the gradients of
real records (Abadi et al. 2016, arXiv:1607.00133), and the coordinator takes a step of Adam with them.
A family is a class that says what its network is, what a record's loss is (the private part) and how
records are drawn from the network (the public part).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import nn

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records, Strict
from synthfed.protocols.study import Study, describe
from synthfed.protocols.sums import Sum

from ...api import Array, Given, Payload
from ..anchor import Anchor
from ..tables.table_anchor import Rate
from .layout import Layout
from .refinement import NETWORK, Public, Refinement
from .scaled import Scaled


class RefinementOptions(Strict):
    """What a study may set of the training of any of these families.

    Attributes:
        public_steps: steps of the warm start on the anchor's records; 0 leaves the network cold.
        public_rate: first learning rate of these, falling to 0 as a cosine does.
        public_records: how many of the anchor's records they learn from.
        batch: records of one public step.
        rate: first learning rate of the private rounds, falling likewise over the declared number of them.
        momentum: Adam's decay of the mean gradient in these.
        averaging: decay of the running mean of the weights, which is what records are drawn from.
    """

    public_steps: Annotated[int, Field(ge=0, le=100_000)] = 1500
    public_rate: Rate = 3e-3
    public_records: Annotated[int, Field(ge=64, le=1_000_000)] = 16_384
    batch: Annotated[int, Field(ge=8, le=65_536)] = 256
    rate: Rate = 5e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.98


Network = TypeVar("Network", bound=nn.Module)


class Family(ABC, Generic[Network]):
    """A model plugin whose whole network is trained on private gradients; see `Model` for the contract.

    Attributes:
        name: the entry point's.
        layout: of an encoded record.
        anchor: statistics and the sampler fitted to them, where the network starts.
        conditions: the categorical columns that sampling can fix exactly.
        coins: how many uniform numbers the loss of one record needs.
    """

    name: ClassVar[str]
    Options: type[BaseModel]
    layout: Layout
    anchor: Anchor
    conditions: tuple[str, ...] = ()
    coins: int = 0

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is unknown or out of range, or the columns do not suit the family.
        """
        try:
            options: Any = self.Options.model_validate(study.model.options)
        except ValidationError as error:
            raise ConfigError(describe(error), where="model.options") from None
        self._privacy = study.privacy
        self._training: RefinementOptions = options
        self.prepare(study, options)

    @abstractmethod
    def prepare(self, study: Study, options: Any) -> None:
        """Set layout, anchor, conditions, coins and what else the network needs; ConfigError where it cannot."""

    # What a site computes.

    @abstractmethod
    def network(self) -> Network:
        """Return a network with fresh weights from torch's generator."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        """Return the loss of each encoded record, in nats where that has a meaning, shape ``(rows,)``."""

    def encode(self, records: Records) -> Array:
        """Return records as the loss takes them, row by row, the anchor's encoding first."""
        return self.layout.encode(records)

    # What the coordinator does with weights and the anchor's records.

    @abstractmethod
    def draw(self, network: Network, public: Public, rows: int, seed: int, given: Given) -> Records:
        """Return synthetic records with the given categories, fixed by network, anchor and seed."""

    def walk(self, network: Network, public: Public, walks: int, steps: int, seed: int) -> Records:  # noqa: ARG002
        """Return records along walks through the latent space; none for a family that has no such space."""
        return np.empty((0, self.record_width))

    def settle(self, network: Network, fitting: Any) -> None:
        """Set what the network knows of the released statistics in frozen parameters."""

    def trained(self, network: Network) -> nn.Module:
        """Return the part of the network that has all trained parameters and no others."""
        return network

    def examples(self, records: torch.Tensor) -> torch.Tensor:
        """Return the anchor's records as ``encode`` would have made them, shape ``(rows, width)``."""
        return records

    # The model plugin.

    @property
    def record_width(self) -> int:
        """How many numbers a record has."""
        return self.layout.numbers + len(self.layout.sizes)

    def sums(self) -> tuple[Sum, ...]:
        """Return the anchor's sums and the network's gradient, which gets the rest of the budget."""
        return (*self.anchor.sums(), self.gradient())

    def gradient(self) -> Sum:
        """Return the declared sum of the network's gradients."""
        network, privacy = Scaled(self.fresh()), self._privacy
        payload = tuple((name, tuple(each.shape)) for name, each in network.named_parameters())
        dim = sum(each.numel() for each in network.parameters() if each.requires_grad)
        rest, rate = 1.0 - self.anchor.share, privacy.sample_rate
        return Sum(NETWORK, "gradient", dim, privacy.clip_norm, rate, privacy.steps, rest, payload, self.coins)

    def private(self) -> "AtSite":
        """Return the half that runs at a site."""
        return AtSite(self)

    def trainer(self, seed: int) -> Refinement:
        """Return the half that runs at the coordinator."""
        return Refinement(self, self._training, seed)

    def fresh(self, seed: int = 0) -> Network:
        """Return a network with weights by ``seed``, drawn without moving the process's random state."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: Network = self.network()
            return network


class AtSite:
    """The private part: encoded records, the anchor's statistics of them, and the network's loss on them."""

    def __init__(self, family: Family[Any]) -> None:
        """Serve a family; nothing of a record is ever kept."""
        self._family = family

    def encode(self, records: Records) -> Array:
        """Return encoded records, shape ``(rows, width)``."""
        return self._family.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return contributions to one of the anchor's statistics, shape ``(rows, dim)``."""
        return self._family.anchor.contributions(name, batch[:, : self._family.layout.width], payload)

    def module(self, name: str) -> nn.Module:  # noqa: ARG002  (there is one module)
        """Return the network, and beside it what its losses are multiplied by."""
        return Scaled(self._family.fresh())

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return each record's loss times the payload's factor, shape ``(rows,)``."""
        losses: torch.Tensor = module.get_submodule("factor")(self._family.loss(module, batch, coins))
        return losses


def dense(sizes: Sequence[int]) -> nn.Sequential:
    """Return dense layers with smooth steps between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
