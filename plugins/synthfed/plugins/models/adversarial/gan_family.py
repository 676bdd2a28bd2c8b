"""What makes a GAN one of a family: its networks and losses, and the parts of the contract that all share.

Never lets a loss on real records see anything but one record's score, the payload and that unit's coins.

A family is one class. Its private part is `encode`, `critic` and `losses.real` (and the
anchor's contributions); everything else runs at the coordinator on fakes. The engine is `engine.py`.
"""

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

from ...api import Array, Given, Payload
from ..anchor import Anchor, Fitting
from .comparison import COMPARISON, ROUNDS
from .critics import MIXING_COINS, Critic, Mixed, limit_spectra
from .discriminator import votes
from .engine import CRITIC, Adversarial
from .feature_matching import FEATURES, bounded
from .gan_options import GanOptions
from .local_steps import LocalSteps, Travelling
from .losses import Losses

F = TypeVar("F", bound=Fitting)


@dataclass(frozen=True, slots=True)
class Fakes:
    """A batch of generated records, in the tape of autograd.

    Attributes:
        records: encoded, shape ``(rows, width)``.
        expected: what the anchor compares with its release: the records, or what they are draws of.
        latents: what they were made from, shape ``(rows, inputs)``.
        weights: how much each counts, with expectation 1, shape ``(rows,)``; None where all count alike.
    """

    records: torch.Tensor
    expected: torch.Tensor
    latents: torch.Tensor
    weights: torch.Tensor | None = None

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of one value for each record, as they count."""
        return (values if self.weights is None else values * self.weights).mean()


class GanFamily(ABC, Generic[F]):
    """A family of GANs, which is a model plugin once its abstract methods are written.

    Attributes:
        Options: what a study may set, a subclass of `GanOptions`.
        conditions: categorical columns that sampling can fix exactly.
        losses: of the critic and the generator; ``losses.real`` is private.
        options: as the study sets them.
        anchor: the statistics that the generator starts from.
    """

    Options: type[BaseModel]
    conditions: tuple[str, ...] = ()
    losses: Losses
    options: GanOptions
    anchor: Anchor

    def __init__(self, study: Study, options: GanOptions, anchor: Anchor) -> None:
        """Remember the public description.

        Raises:
            ConfigError: the shares leave nothing for the critic, or its steps are no whole number of rounds.
        """
        self.options, self.anchor, self._privacy = options, anchor, study.privacy
        if anchor.share + options.features_share + options.comparison_share >= 1.0:
            raise ConfigError(
                "features_share, comparison_share and the anchor's shares must leave the critic a share: sum below 1",
                where="model.options",
            )
        if study.privacy.steps % options.local_steps:
            raise ConfigError(
                f"privacy.steps = {study.privacy.steps} is no multiple of {options.local_steps} steps in a round; "
                "change one of them",
                where="model.options.local_steps",
            )

    # The private part: what a site computes of one record.

    @abstractmethod
    def encode(self, records: Records) -> Array:
        """Return each record as a vector, shape ``(rows, width)``, from the schema alone, row by row."""

    @abstractmethod
    def critic(self) -> Critic:
        """Return a critic; its weights come from torch's generator, which the engine has seeded and restores."""

    # The public part: what the coordinator computes of fakes.

    @abstractmethod
    def fitting(self, seed: int) -> F:
        """Return the coordinator's half of the anchor."""

    @abstractmethod
    def generator(self, seed: int) -> nn.Module:
        """Return a generator, weights by ``seed``; only this class's methods call it."""

    @abstractmethod
    def warm_start(self, generator: nn.Module, fitting: F) -> None:
        """Set a generator's parameters to what the fit gave, where it gave any; called once, after ``fit``."""

    @abstractmethod
    def fakes(self, generator: nn.Module, rows: int, rng: torch.Generator) -> Fakes:
        """Return fresh fakes with gradients by the generator's parameters, dropout included."""

    @abstractmethod
    def sample(self, generator: nn.Module, fitting: F, rows: int, seed: int, given: Given) -> Records:
        """Return synthetic records, shape ``(rows, width)``."""

    @abstractmethod
    def walk(self, generator: nn.Module, fitting: F, walks: int, steps: int, seed: int) -> Records:
        """Return records along straight walks through the latent space, shape ``(walks * steps, width)``."""

    # What a family may add to both.

    def follow(self, generator: nn.Module, fitting: F) -> None:
        """Set a generator's buffers to what was released; called after every release and after ``load``."""

    def public_losses(
        self,
        generator: nn.Module,  # noqa: ARG002
        fitting: F,  # noqa: ARG002
        fakes: Fakes,  # noqa: ARG002
    ) -> Mapping[str, tuple[float, torch.Tensor]]:
        """Return weight and value of each loss beside the critic's: misfits to the anchor, a head on fakes."""
        return {}

    def penalty(
        self,
        critic: Critic,  # noqa: ARG002
        fakes: torch.Tensor,  # noqa: ARG002
        rng: torch.Generator,  # noqa: ARG002
    ) -> torch.Tensor | None:
        """Return what is added to the critic's loss, computed from fakes alone; None for nothing."""
        return None

    def project(self, critic: Critic) -> None:
        """Bring the critic's weights back to where they may be; called after each of its steps."""

    def boundary(self, critic: Critic, samples: torch.Tensor) -> float:  # noqa: ARG002
        """Return the score below which the critic takes a record for a fake.

        Args:
            critic: as it stands.
            samples: of the anchor, which stand in for records, shape ``(rows, width)``.
        """
        return 0.0

    # The contract's methods, alike for all.

    def sums(self) -> tuple[Sum, ...]:
        """Return the anchor's sums and, to refine it, mean features, the comparison and the gradient as asked for."""
        options = self.options
        if not options.refine:
            sums = self.anchor.sums()
            whole = sum(each.share for each in sums)
            return tuple(dataclasses.replace(each, share=each.share / whole) for each in sums)
        features = (self._features(),) if options.features_share > 0 else ()
        comparison = (self._comparison(),) if options.comparison_share > 0 else ()
        return (*self.anchor.sums(), *features, *comparison, self.gradients())

    def gradients(self) -> Sum:
        """Return the sum of the critic's gradients on real records."""
        privacy, module = self._privacy, self.site_module()
        trained = [each for each in module.parameters() if each.requires_grad]
        return Sum(
            CRITIC,
            "gradient",
            sum(each.numel() for each in trained),
            privacy.clip_norm,
            privacy.sample_rate,
            privacy.steps // self.options.local_steps,
            1.0 - self.anchor.share - self.options.features_share - self.options.comparison_share,
            _payload(module),
            self._coins(),
            self.options.local_steps,
        )

    def _coins(self) -> int:
        return self.fresh_critic(0).coins + (MIXING_COINS if self.options.mixup > 0 else 0)

    def _features(self) -> Sum:
        privacy, options, critic = self._privacy, self.options, self.fresh_critic(0)
        rounds = -(-privacy.steps // math.lcm(options.features_every, options.local_steps))
        size, share = critic.exit.in_features, options.features_share
        return Sum(FEATURES, "statistic", size, 1.0, privacy.sample_rate, rounds, share, _payload(critic))

    def _comparison(self) -> Sum:
        share = self.options.comparison_share
        return Sum(COMPARISON, "statistic", 1, 1.0, 1.0, ROUNDS, share, _payload(self.fresh_critic(0)))

    def fresh_critic(self, seed: int) -> Critic:
        """Return a critic with weights by ``seed``, the process's random state untouched."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.critic()

    def site_module(self) -> nn.Module:
        """Return the module of the gradient sum: the critic, beside what else the sites need in a round."""
        options = self.options
        module: Critic | Mixed = self.fresh_critic(0)
        if isinstance(module, Critic) and options.mixup:
            module = Mixed(module, torch.zeros(options.mixup_partners, self.encoded_width), options.mixup)
        if options.local_steps == 1:
            return module
        return Travelling(module, torch.zeros(options.local_fakes, self.encoded_width))

    def bound(self, critic: Critic) -> None:
        """Bring the critic's weights to where they may be, before any site sees them."""
        if self.options.spectral > 0:
            limit_spectra(critic, self.options.spectral)
        self.project(critic)

    @property
    @abstractmethod
    def encoded_width(self) -> int:
        """Length of an encoded record."""

    def private(self) -> "GanAtSite":
        """Return the half that runs at a site."""
        return GanAtSite(self)

    def local(self) -> LocalSteps:
        """Return what a site does between two steps of one round."""
        return LocalSteps(self)

    def trainer(self, seed: int) -> Adversarial[F]:
        """Return the half that runs at the coordinator."""
        return Adversarial(self, seed)


class GanAtSite:
    """The private part of every GAN: encoded records, their statistics, and the critic's loss on them."""

    def __init__(self, family: GanFamily[F]) -> None:
        """Serve a family; nothing of a record is ever kept."""
        self._family = family
        # Made here, as a site lets nothing draw, not even first weights, while records are seen.
        self._fresh = family.fresh_critic(0).double()

    def encode(self, records: Records) -> Array:
        """Return encoded records, shape ``(rows, width)``."""
        return self._family.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return contributions to the anchor's statistics, the critic's mean features, or the comparison."""
        if name not in (FEATURES, COMPARISON):
            return self._family.anchor.contributions(name, batch, payload)
        critic = copy.deepcopy(self._fresh)
        with torch.no_grad():
            for each, values in zip(critic.parameters(), payload.values(), strict=True):
                each.copy_(torch.from_numpy(values.astype(np.float64)))
            rows = torch.from_numpy(batch)
            told = bounded(critic.features(rows)) if name == FEATURES else votes(critic(rows))
        contributions: Array = told.numpy()
        return contributions

    def module(self, name: str) -> nn.Module:  # noqa: ARG002  (there is one gradient sum)
        """Return the critic, beside what else came with the round."""
        return self._family.site_module()

    def loss(
        self,
        name: str,  # noqa: ARG002
        module: nn.Module,
        batch: torch.Tensor,
        coins: torch.Tensor,
    ) -> torch.Tensor:
        """Return the critic's loss of each record, shape ``(rows,)``."""
        losses = self._family.losses
        outcome: torch.Tensor = module(batch, coins)
        if not self._family.options.mixup:
            return losses.real(outcome)
        scores, part = outcome[:, :1], outcome[:, 1]  # the label is mixed like the record
        return (1 - part) * losses.real(scores) + part * losses.fake(scores)


def _payload(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(each.shape)) for name, each in module.named_parameters())
