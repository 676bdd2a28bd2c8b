"""A model for a study with constraints: the plugin sees the free columns, everyone else whole records.

Never lets a record out that breaks a constraint, and never lets a plugin know that there are any.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.completion import Completion
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

from .api import Answer, Array, Ask, Given, LocalPart, Model, Payload, PrivatePart, Records, Trainer, local_part
from .registry import Plugin

if TYPE_CHECKING:
    import torch

REDRAWS: Final = 20
"""Draws, each of at most as many records as asked for, before those that still break a constraint are repaired."""


def make_model(plugin: Plugin, study: Study) -> Model:
    """Return the model of a study, made by its plugin for the columns that no constraint derives.

    Raises:
        PluginError: the plugin is missing or broken.
        ConfigError: an option is wrong, or the model is not made for such columns.
    """
    model: Model = plugin.make(study.free)
    if not study.constraints:
        return model
    return ConstrainedModel(model, Completion(study.released.columns, study.constraints))


class ConstrainedModel:
    """A model whose records have the study's columns, the derived ones put back."""

    def __init__(self, model: Model, completion: Completion) -> None:
        """Wrap a model of the free columns."""
        self._model, self._completion = model, completion
        self.Options = model.Options
        # What is fixed must stay: no repair may touch it.
        self.conditions = tuple(name for name in model.conditions if name not in completion.movable)

    def sums(self) -> tuple[Sum, ...]:
        """Return the model's sums: none is spent on what is derived."""
        return self._model.sums()

    def private(self) -> PrivatePart:
        """Return the half that runs at a site."""
        return _ConstrainedPart(self._model.private(), self._completion)

    def local(self) -> LocalPart:
        """Return what the model does between two steps of a round."""
        return local_part(self._model)

    def trainer(self, seed: int) -> Trainer:
        """Return the half that runs at the coordinator."""
        return _ConstrainedTrainer(self._model.trainer(seed), self._completion)


class _ConstrainedPart:
    """Encodes the free columns of whole records; all else is the plugin's."""

    def __init__(self, private: PrivatePart, completion: Completion) -> None:
        self._private, self._completion = private, completion

    def encode(self, records: Records) -> Array:
        return self._private.encode(self._completion.reduce(records))

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        return self._private.statistic(name, batch, payload)

    def module(self, name: str) -> "torch.nn.Module":
        return self._private.module(name)

    def loss(
        self, name: str, module: "torch.nn.Module", batch: "torch.Tensor", coins: "torch.Tensor"
    ) -> "torch.Tensor":
        return self._private.loss(name, module, batch, coins)


class _ConstrainedTrainer:
    """Trains as the plugin does; its samples are whole records that keep every constraint."""

    def __init__(self, trainer: Trainer, completion: Completion) -> None:
        self._trainer, self._completion = trainer, completion

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        return self._trainer.ask(remaining)

    def overlap(self) -> None:
        self._trainer.overlap()

    def receive(self, answer: Answer) -> None:
        self._trainer.receive(answer)

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        """Return whole records: one that breaks a constraint gives way to another, and at last is repaired."""
        records, kept = self._completion.complete(self._trainer.sample(rows, seed, given))
        drawn, good = rows, int(kept.sum())
        for attempt in range(1, REDRAWS + 1):
            wrong = np.flatnonzero(~kept)
            if not len(wrong):
                return records
            count = min(rows, math.ceil(len(wrong) * drawn / max(good, 1)))
            own = int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])
            more, fit = self._completion.complete(self._trainer.sample(count, own, given))
            drawn, good = drawn + count, good + int(fit.sum())
            replaced = wrong[: int(fit.sum())]
            records[replaced] = more[fit][: len(replaced)]
            kept[replaced] = True
        records[~kept] = self._completion.repair(records[~kept])
        return records

    def walk(self, walks: int, steps: int, seed: int) -> Records:
        """Return whole records along walks; where a step breaks a constraint it is repaired, for it has its place."""
        records, kept = self._completion.complete(self._trainer.walk(walks, steps, seed))
        records[~kept] = self._completion.repair(records[~kept])
        return records

    def state(self) -> dict[str, npt.NDArray[Any]]:
        return self._trainer.state()

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        self._trainer.load(state)

    def progress(self) -> Mapping[str, float]:
        return self._trainer.progress()
