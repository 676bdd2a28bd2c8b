"""A model's trainer as the coordinator uses it: what its code raises names the plugin.

Never calls a plugin's mistake a bug of ours, and never goes on after one.
"""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from synthfed.plugins.api import Answer, Ask, Given, Model, Records, Trainer
from synthfed.plugins.registry import Plugin


class GuardedTrainer:
    """Passes every call on; raises PluginError where the plugin raised anything but an error of ours."""

    def __init__(self, plugin: Plugin, model: Model, seed: int) -> None:
        """Make the trainer of ``plugin``'s ``model``, with the same seed."""
        self._plugin = plugin
        with plugin.blamed("cannot make its trainer"):
            self._trainer: Trainer = model.trainer(seed)

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the next sum wanted."""
        with self._plugin.blamed("cannot ask for a sum"):
            return self._trainer.ask(remaining)

    def overlap(self) -> None:
        """Do public work."""
        with self._plugin.blamed("failed in its public work"):
            self._trainer.overlap()

    def receive(self, answer: Answer) -> None:
        """Use a released sum."""
        with self._plugin.blamed(f"cannot use the sum {answer.sum!r}"):
            self._trainer.receive(answer)

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        """Return synthetic records, shape ``(rows, width)``."""
        with self._plugin.blamed("cannot sample"):
            return self._trainer.sample(rows, seed, given)

    def walk(self, walks: int, steps: int, seed: int) -> Records:
        """Return records along walks, shape ``(walks * steps, width)``."""
        with self._plugin.blamed("cannot walk through its latent space"):
            return self._trainer.walk(walks, steps, seed)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of the whole state."""
        with self._plugin.blamed("cannot tell its state"):
            return self._trainer.state()

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        with self._plugin.blamed("cannot take its state back"):
            self._trainer.load(state)

    def progress(self) -> Mapping[str, float]:
        """Return public numbers of the training so far."""
        with self._plugin.blamed("cannot tell its progress"):
            return self._trainer.progress()
