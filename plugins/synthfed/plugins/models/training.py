"""The coordinator's half of the tabular GAN: fakes, optimisers, checkpoints, on top of the table anchor.

Never sees more of the records than released sums; all that it computes is post-processing.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records
from synthfed.protocols.sums import Sum

from ..api import Answer, Ask, Given
from .anchor import tensor
from .networks import Adam, clipped_gradient, flat_gradient, flatten, set_flat
from .sampling import sample_codes
from .table_anchor import TableAnchor

if TYPE_CHECKING:
    from .tabular_gan import Options

CRITIC: Final = "critic"
GENERATOR_MOMENTUM: Final = 0.5


class Training:
    """The trainer: asks for statistics first, starts the generator at them, then trains both networks."""

    def __init__(
        self, anchor: TableAnchor, options: "Options", critic: Callable[[], nn.Sequential], each: Sum, seed: int
    ) -> None:
        """Draw initial weights from ``seed`` without touching the process's random state.

        Args:
            anchor: the table's statistics.
            options: as the study sets them.
            critic: makes a critic with fresh weights.
            each: the declared sum of the critic's gradients.
            seed: fixes weights and public draws.
        """
        self._options, self._sum = options, each
        self._encoder = anchor.encoder
        self._fitting = anchor.fitting(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._critic = critic()
        self._generator = self._fitting.generator
        self._average = anchor.generator(seed)
        set_flat(self._average, flatten(self._generator))
        self._rng = torch.Generator().manual_seed(seed)
        self._critic_adam, self._generator_adam = Adam.of(self._critic), Adam.of(self._generator)
        self._started = False
        self._steps = 0
        self._fakes = torch.empty(0)  # gradient on fakes at the critic's present weights; empty until computed
        self._log: dict[str, float] = {}
        self._follow()

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the next sum: every round of the statistics, then critic steps until none is left."""
        statistic = self._fitting.ask(remaining)
        if statistic is not None:
            return statistic
        self._start()
        if remaining.get(CRITIC, 0) > 0:
            weights = self._critic.named_parameters()
            return Ask(CRITIC, {name: each.detach().numpy().copy() for name, each in weights})
        return None

    def overlap(self) -> None:
        """Do the public work of a step once for each of the critic's weights: fakes, then the generator."""
        if not self._started or len(self._fakes):
            return
        options = self._options
        with torch.no_grad():
            logits = self._generator.logits(options.fakes, self._rng)
            cells = self._generator.cells(logits, self._rng, options.temperature)
        # Clipped like the real half, so that both cancel where fakes and records are alike.
        gradient = clipped_gradient(self._critic, cells, functional.softplus, self._sum.clip_norm)
        for _ in range(options.generator_steps):
            self._step_generator()
        self._fakes = gradient / options.fakes

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average, or move the critic along the released gradient."""
        if answer.sum == CRITIC:
            self._step_critic(answer)
        else:
            self._fitting.receive(answer)
            self._follow()

    def sample(self, rows: int, seed: int, given: Given) -> Records:  # noqa: ARG002  (there are no conditions)
        """Return synthetic records from the averaged generator, its marginals centred on the released ones."""
        codes = sample_codes(self._average, self._fitting.target, rows, seed)
        return self._encoder.decode(codes, np.random.default_rng(seed))

    def walk(self, walks: int, steps: int, seed: int) -> Records:  # noqa: ARG002
        """Return nothing: between two rows of a table there is nothing to see."""
        return np.empty((0, len(self._encoder.blocks)))

    def progress(self) -> Mapping[str, float]:
        """Return the critic's steps, its mean score of fakes, the generator's misfits and the units per site."""
        return {"steps": float(self._steps), **self._fitting.progress(), **self._log}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return weights, optimisers, released sums, the gradient on fakes and the random state."""
        return {
            "critic": flatten(self._critic).numpy(),
            "average": flatten(self._average).numpy(),
            **_adam_state("critic_adam", self._critic_adam),
            **_adam_state("generator_adam", self._generator_adam),
            **self._fitting.state(),
            "fakes": self._fakes.numpy().copy(),
            "progress": np.array([self._steps, self._started], dtype=np.int64),
            "rng": self._rng.get_state().numpy().copy(),
        }

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore a checkpoint; what follows is bit for bit what would have followed it.

        Raises:
            ConfigError: the checkpoint belongs to another study or lacks an array.
        """
        mine = self.state()
        wrong = [
            name for name in mine if name != "fakes" and (name not in state or state[name].shape != mine[name].shape)
        ]
        if wrong or "fakes" not in state:
            raise ConfigError(f"array {(wrong or ['fakes'])[0]!r} does not fit; use a checkpoint of this study")
        self._fitting.load(state)
        for name, network in (("critic", self._critic), ("average", self._average)):
            set_flat(network, tensor(state[name]))
        self._critic_adam = _adam("critic_adam", state)
        self._generator_adam = _adam("generator_adam", state)
        self._fakes = tensor(state["fakes"])
        self._steps, self._started = int(state["progress"][0]), bool(state["progress"][1])
        self._rng.set_state(tensor(state["rng"]))
        self._log = {}
        self._follow()

    def _follow(self) -> None:
        """Let the averaged generator's logits start where the trained one's do."""
        self._average.start.copy_(self._generator.start)

    def _start(self) -> None:
        """Fit the generator to the released two-way moments, once."""
        if not self._started:
            self._started = True
            self._fitting.fit()
            set_flat(self._average, flatten(self._generator))

    def _step_generator(self) -> None:
        """Move the generator towards higher scores, held to the released statistics, and average it."""
        options, fitting = self._options, self._fitting
        logits = self._generator.logits(options.fakes, self._rng)
        scores = self._critic(self._generator.cells(logits, self._rng, options.temperature))
        expected = self._generator.probabilities(logits)
        drift = fitting.drift(expected)
        loss = functional.softplus(-scores).mean() + options.marginals_anchor * drift
        self._log = {"fake_score": float(scores.detach().mean()), "marginals_drift": float(drift.detach())}
        pairs_misfit = fitting.pairs_misfit()
        if pairs_misfit is not None:
            misfit = pairs_misfit(expected)
            loss = loss + options.pairs_anchor * misfit
            self._log["pairs_misfit"] = float(misfit.detach())
        gradient = flat_gradient(loss, self._generator)
        self._generator_adam.step(self._generator, gradient, options.generator_rate, GENERATOR_MOMENTUM)
        set_flat(self._average, flatten(self._generator).lerp(flatten(self._average), options.averaging))

    def _step_critic(self, answer: Answer) -> None:
        self.overlap()
        # A wrong scale of the real half only shifts the logistic critic's scores by a constant.
        lot = self._sum.sample_rate * self._fitting.units_per_site * answer.sites
        real = torch.tensor(answer.total / lot, dtype=torch.float32)
        options = self._options
        self._critic_adam.step(self._critic, real + self._fakes, options.critic_rate, options.critic_momentum)
        self._fakes = torch.empty(0)
        self._steps += 1


def _adam_state(name: str, adam: Adam) -> dict[str, npt.NDArray[Any]]:
    return {
        f"{name}.mean": adam.mean.numpy().copy(),
        f"{name}.square": adam.square.numpy().copy(),
        f"{name}.count": np.array([adam.count], dtype=np.int64),
    }


def _adam(name: str, state: Mapping[str, npt.NDArray[Any]]) -> Adam:
    return Adam(tensor(state[f"{name}.mean"]), tensor(state[f"{name}.square"]), int(state[f"{name}.count"][0]))
