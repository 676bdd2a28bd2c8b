"""The coordinator's half of a family: statistics, a public warm start, then steps along private gradients.

Never sees a record: only released sums, and records drawn from what they tell.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records

from ...api import Answer, Ask, Given
from ...domains.encoding import Codes
from ..adam import Adam, flat_gradient, flatten, set_flat
from ..anchor import tensor
from .held_columns import HeldColumns
from .scaled import Scaled, scale_for

if TYPE_CHECKING:
    from .likelihood import Family, RefinementOptions

NETWORK: Final = "network"
PUBLIC_MOMENTUM: Final = 0.9
RESCALED_EVERY: Final = 50  # rounds
SCALED_BY: Final = 64  # records
AT_ONCE: Final = 4096  # records drawn with one call of a network
POOL_SEED: Final = 0  # the anchor's records are the same in every process that knows the same statistics


class Public:
    """What a family may draw with at the coordinator: the anchor's records and how often their cells occur.

    Attributes:
        records: encoded records of the anchor, shape ``(rows, width)``, float32.
        marginals: mean of their cells, shape ``(width,)``.
    """

    def __init__(self, records: torch.Tensor) -> None:
        """Keep records of the anchor."""
        self.records = records
        self.marginals = records.mean(0)

    def draw(self, held: HeldColumns, given: Given, rows: int, rng: np.random.Generator) -> Codes:
        """Return cells of held columns as they occur together among the anchor's records, those given held.

        The shape is ``(rows, columns)``.
        """
        return held.draw(held.codes(self.records), np.ones(len(self.records)), given, rows, rng)


class Refinement:
    """The trainer of a family."""

    def __init__(self, family: "Family[Any]", options: "RefinementOptions", seed: int) -> None:
        """Draw initial weights from ``seed`` without touching the process's random state."""
        self._family, self._options, self._sum = family, options, family.gradient()
        self._fitting = family.anchor.fitting(seed)
        self._network, self._average = family.fresh(seed), family.fresh(seed)
        self._weights, self._mean = family.trained(self._network), family.trained(self._average)
        self._scaled = Scaled(self._network)
        self._adam = Adam.of(self._weights)
        self._rng = torch.Generator().manual_seed(seed)
        self._steps, self._started = 0, False
        self._pool: Public | None = None  # follows from the released statistics
        self._log: dict[str, float] = {}
        self._settle()

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the next sum: every round of the anchor's statistics, then gradients until none is left."""
        statistic = self._fitting.ask(remaining)
        if statistic is not None:
            return statistic
        self._start()
        if remaining.get(NETWORK, 0) > 0:
            if self._steps % RESCALED_EVERY == 0:
                self._rescale()
            weights = self._scaled.named_parameters()
            return Ask(NETWORK, {name: each.detach().numpy().copy() for name, each in weights})
        return None

    def overlap(self) -> None:
        """Do nothing: a step needs the released gradient."""

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average, or move the network along the released gradient."""
        if answer.sum != NETWORK:
            self._fitting.receive(answer)
            self._settle()
            return
        options, each = self._options, self._sum
        lot = each.sample_rate * self._fitting.units_per_site * answer.sites * float(self._scaled.factor.value)
        gradient = torch.tensor(answer.total / lot, dtype=torch.float32)
        rate = options.rate * fallen(self._steps, each.rounds)
        self._adam.step(self._weights, gradient, rate, options.momentum)
        set_flat(self._mean, flatten(self._weights).lerp(flatten(self._mean), options.averaging))
        self._steps += 1
        noise = answer.noise_std / lot * np.sqrt(each.dim)
        self._log |= {"gradient": float(gradient.norm()), "gradient_noise": float(noise)}

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        """Return synthetic records from the averaged network."""
        with torch.no_grad():
            return self._family.draw(self._average, self._public(), rows, seed, given)

    def walk(self, walks: int, steps: int, seed: int) -> Records:
        """Return records along straight walks through the averaged network's latent space, if it has one."""
        with torch.no_grad():
            return self._family.walk(self._average, self._public(), walks, steps, seed)

    def progress(self) -> Mapping[str, float]:
        """Return steps, the anchor's numbers, the loss on its records, and the last gradient's and noise's norm."""
        return {"steps": float(self._steps), **self._fitting.progress(), **self._log}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return weights, optimiser, released sums and the random state."""
        return {
            "network": flatten(self._weights).numpy(),
            "average": flatten(self._mean).numpy(),
            "adam.mean": self._adam.mean.numpy().copy(),
            "adam.square": self._adam.square.numpy().copy(),
            "scale": self._scaled.factor.value.numpy().copy(),
            "progress": np.array([self._steps, self._adam.count, self._started], dtype=np.int64),
            "rng": self._rng.get_state().numpy().copy(),
            **self._fitting.state(),
        }

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore a checkpoint; what follows is bit for bit what would have followed it.

        Raises:
            ConfigError: the checkpoint belongs to another study or lacks an array.
        """
        for name, mine in self.state().items():
            if name not in state or state[name].shape != mine.shape:
                raise ConfigError(f"array {name!r} does not fit; use a checkpoint of this study")
        self._fitting.load(state)
        set_flat(self._weights, tensor(state["network"]))
        set_flat(self._mean, tensor(state["average"]))
        steps, count, started = (int(each) for each in state["progress"])
        self._scaled.factor.value.copy_(tensor(state["scale"]))
        self._adam = Adam(tensor(state["adam.mean"]), tensor(state["adam.square"]), count)
        self._steps, self._started = steps, bool(started)
        self._rng.set_state(tensor(state["rng"]))
        self._log = {}
        self._settle()

    def _settle(self) -> None:
        """Tell both networks what was released, and forget what was drawn from less."""
        self._pool = None
        for network in (self._network, self._average):
            self._family.settle(network, self._fitting)

    def _rescale(self) -> None:
        """Choose by the anchor's records what the sites multiply losses by."""
        rng = torch.Generator().manual_seed(POOL_SEED)
        records = self._family.examples(self._public().records[:SCALED_BY])
        coins = tossed(len(records), self._family.coins, rng)
        self._scaled.factor.value.fill_(
            scale_for(self._family, self._network, self._weights, records, coins, self._sum.clip_norm)
        )

    def _public(self) -> Public:
        """Return records of the anchor, the same whenever the same statistics were released."""
        if self._pool is None:
            rng = torch.Generator().manual_seed(POOL_SEED)
            self._pool = Public(self._fitting.sample(self._options.public_records, rng))
        return self._pool

    def _start(self) -> None:
        """Fit the anchor to the released statistics and the network to the anchor, once."""
        if self._started:
            return
        self._started = True
        self._fitting.fit()
        self._settle()
        family, options = self._family, self._options
        records = family.examples(self._public().records)
        adam = Adam.of(self._weights)
        for step in range(options.public_steps):
            chosen = torch.randint(len(records), (options.batch,), generator=self._rng)
            coins = tossed(options.batch, family.coins, self._rng)
            loss = family.loss(self._network, records[chosen], coins).mean()
            rate = options.public_rate * fallen(step, options.public_steps)
            adam.step(self._weights, flat_gradient(loss, self._weights), rate, PUBLIC_MOMENTUM)
            self._log["public_loss"] = float(loss.detach())
        set_flat(self._mean, flatten(self._weights))


def fallen(step: int, steps: int) -> float:
    """Return the part of a first learning rate that is left at a step: half a cosine, from 1 to 0."""
    return float(1 + np.cos(np.pi * min(step / steps, 1))) / 2


def tossed(rows: int, coins: int, rng: torch.Generator) -> torch.Tensor:
    """Return public coins for the loss of the anchor's records, in (0, 1), shape ``(rows, coins)``."""
    return torch.rand(rows, coins, generator=rng).clamp_(1e-6, 1 - 1e-6)
