"""Images and series by private statistics alone: a baseline that trains no network.

Never asks for a gradient: real records are touched by the sums of the moment anchor only.

Records: one array, `(channels, height, width)` or `(leads, steps)`, and any categories. Loss: none;
the sampler is a mixture of Gaussians over cosine coefficients, one or a few for each combination of
categories, with the released means and covariances (`arrays/moment_anchor.py`), its levels brought to the
released histogram. Moment matching under privacy goes back to Harder, Adamczewski and Park (2021,
arXiv:2002.11603), who use random features in place of cosines. Private part: all five statistics.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from synthfed.protocols.errors import ConfigError, LocalProtocolError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study, describe
from synthfed.protocols.sums import Sum

from ..api import Answer, Array, Ask, Given, Payload
from .arrays.moment_anchor import MomentAnchor, MomentAnchorOptions

AT_ONCE: Final = 4096  # records drawn in one piece, so that memory stays bounded


class Moments:
    """The model plugin ``moments``."""

    Options: type[BaseModel] = MomentAnchorOptions
    conditions: tuple[str, ...]

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is wrong, or the columns are not one array and a few categories.
        """
        try:
            options = MomentAnchorOptions.model_validate(study.model.options)
        except ValidationError as error:
            raise ConfigError(describe(error), where="model.options") from None
        self.anchor = MomentAnchor(study, options, "model 'moments'", 1.0)
        self.conditions = tuple(label.name for label in self.anchor.encoder.labels)

    def sums(self) -> tuple[Sum, ...]:
        """Return the anchor's statistics."""
        return self.anchor.sums()

    def private(self) -> "MomentsAtSite":
        """Return the half that runs at a site."""
        return MomentsAtSite(self.anchor)

    def trainer(self, seed: int) -> "MomentsTrainer":
        """Return the half that runs at the coordinator."""
        return MomentsTrainer(self.anchor, seed)


class MomentsAtSite:
    """The private part: scaled arrays with their labels, and their statistics."""

    def __init__(self, anchor: MomentAnchor) -> None:
        """Serve an anchor; nothing of a record is ever kept."""
        self._anchor = anchor

    def encode(self, records: Records) -> Array:
        """Return numbers in [-1, 1] and one-hot labels, shape ``(rows, width)``."""
        return self._anchor.encoder.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return contributions to one of the anchor's statistics, shape ``(rows, dim)``."""
        return self._anchor.contributions(name, batch, payload)

    def module(self, name: str) -> nn.Module:
        """Refuse: there is no gradient sum."""
        raise LocalProtocolError(f"model 'moments' was asked for the module of {name!r}; it declares statistics only")

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Refuse: there is no gradient sum."""
        raise LocalProtocolError(f"model 'moments' was asked for the loss of {name!r}; it declares statistics only")


class MomentsTrainer:
    """The trainer: asks for every statistic, then draws from the sampler fitted to them."""

    def __init__(self, anchor: MomentAnchor, seed: int) -> None:
        """Start without a release."""
        self._anchor, self._fitting = anchor, anchor.fitting(seed)

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the next statistic; None when all rounds were asked for."""
        return self._fitting.ask(remaining)

    def overlap(self) -> None:
        """Do nothing: all public work is done in a moment."""

    def receive(self, answer: Answer) -> None:
        """Use a released statistic."""
        self._fitting.receive(answer)

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        """Return synthetic records, all with the given categories, shape ``(rows, width)``."""
        fitting, rng = self._fitting, torch.Generator().manual_seed(seed)
        parts = []
        for start in range(0, rows, AT_ONCE):
            group = fitting.draw_classes(min(AT_ONCE, rows - start), rng, given)
            numbers = fitting.numbers(fitting.draw(group, rng))
            parts.append(self._anchor.encoder.decode(numbers, self._anchor.codes_of(group)))
        return np.concatenate(parts) if parts else self._none()

    def walk(self, walks: int, steps: int, seed: int) -> Records:
        """Return records on straight lines between two draws of one class, shape ``(walks * steps, width)``."""
        if walks * steps == 0:
            return self._none()
        fitting, rng = self._fitting, torch.Generator().manual_seed(seed)
        group = fitting.draw_classes(walks, rng, {})
        first, last = fitting.draw(group, rng)[:, None], fitting.draw(group, rng)[:, None]
        path = first + np.linspace(0, 1, steps)[:, None] * (last - first)
        numbers = fitting.numbers(path.reshape(walks * steps, -1))
        return self._anchor.encoder.decode(numbers, self._anchor.codes_of(np.repeat(group, steps)))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the released sums and what was derived from them."""
        return self._fitting.state()

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore a checkpoint; ConfigError where it belongs to another study."""
        self._fitting.load(state)

    def progress(self) -> Mapping[str, float]:
        """Return the units per site and the clipping radii."""
        return self._fitting.progress()

    def _none(self) -> Records:
        encoder = self._anchor.encoder
        return np.empty((0, encoder.numbers + len(encoder.labels)))
