"""The charged comparison: whether real records look more like the refined generator's or like the warm start's.

Never looks at a record outside a site, where each contributes one number between -1 and 1.

A discriminator learns, in public and from fakes alone, the log of the refined generator's density over the
warm start's. Its mean over real records is KL(real || warm) - KL(real || refined): what the refinement
added, in nats a record. That mean is one private sum.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...api import Answer, Ask
from ..adam import flatten, set_flat
from ..anchor import Fitting, tensor
from ..marginals import Released
from .discriminator import learn, pool_size

if TYPE_CHECKING:
    from .gan_family import GanFamily

COMPARISON: Final = "comparison"
ROUNDS: Final = 2  # averaged, so that one failed round costs accuracy only

Z: Final = 2.0
"""Standard deviations that the gain must be above 0 for the refinement to be kept.

One that adds nothing passes one time in 44. A smaller number would let chance decide, and most
refinements add next to nothing: what is kept by chance may do harm. A larger one would throw away gains
that are worth having, and the critic's whole share of the budget with them.
"""

F = TypeVar("F", bound=Fitting)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the released comparison says.

    Attributes:
        gain: estimate of what the refinement added, in nats a record, as far as clipping shows it.
        noise: its standard deviation, by the release's noise and by chance: other records of the kind.
    """

    gain: float
    noise: float

    @property
    def is_kept(self) -> bool:
        """Whether the refined generator is kept; a tie keeps the warm start."""
        return self.gain > Z * self.noise


class Comparison(Generic[F]):
    """The two generators to choose from, a discriminator between them, and its released sum over real records.

    Attributes:
        warm: the generator before the critic's first private step.
    """

    def __init__(self, family: "GanFamily[F]", fitting: F, refined: nn.Module, seed: int) -> None:
        """Start without a release.

        Args:
            family: of the generators.
            fitting: the anchor's, which tells what was released.
            refined: the averaged generator, which trains on elsewhere.
            seed: of the warm generator's first weights, that of the refined one's.
        """
        self._family, self._options, self._fitting = family, family.options, fitting
        self.warm, self._refined = family.generator(seed), refined
        self._critic, self._is_trained = family.fresh_critic(seed), False
        self._bound, self._variance = 0.0, 0.0
        self._released = Released(np.zeros(1))

    def begin(self) -> None:
        """Take the refined generator as it is now for the warm start."""
        set_flat(self.warm, flatten(self._refined))

    def ask(self, remaining: Mapping[str, int], rng: torch.Generator) -> Ask | None:
        """Return the next round of the comparison, for which the discriminator first learns; None after the last."""
        if remaining.get(COMPARISON, 0) < 1:
            return None
        if not self._is_trained:
            self._train(rng)
        return Ask(COMPARISON, {name: each.detach().numpy().copy() for name, each in self._critic.named_parameters()})

    def receive(self, answer: Answer) -> None:
        """Add a released sum to their average."""
        self._released = self._released.add(answer)

    @property
    def kept(self) -> nn.Module:
        """The generator that records come from; without a comparison the refined one.

        Where one was declared, the refined generator must have won it. A training that ended before the
        comparison, or lost its rounds, falls back to the warm start: an unseen refinement may be a worse one.
        """
        verdict = self.verdict()
        wins = self._options.comparison_share == 0 or (verdict is not None and verdict.is_kept)
        return self._refined if wins else self.warm

    def verdict(self) -> Verdict | None:
        """Return what was released so far says; None before a release."""
        released, of_site = self._released, self._fitting.units_per_site
        if released.weight == 0:
            return None
        units = of_site * released.sites / released.weight
        noise = math.hypot(released.noise_per_site / of_site, math.sqrt(self._variance / units))
        gain = self._bound * float(released.per_site[0]) / of_site
        return Verdict(gain + 0.0, self._bound * noise)  # where the bound is 0, no sign of it is left

    def progress(self) -> Mapping[str, float]:
        """Return the verdict as public numbers, nothing before it."""
        verdict = self.verdict()
        if verdict is None:
            return {}
        return {"comparison": verdict.gain, "comparison_noise": verdict.noise, "kept": float(verdict.is_kept)}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the warm start, the discriminator, the scale of its votes and what was released."""
        return {
            "warm": flatten(self.warm).numpy(),
            "comparison.critic": flatten(self._critic).numpy(),
            "comparison.votes": np.array([self._is_trained, self._bound, self._variance], dtype=np.float64),
            "comparison.total": self._released.total.copy(),
            "comparison.weights": np.array([self._released.sites, self._released.weight]),
        }

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        set_flat(self.warm, tensor(state["warm"]))
        set_flat(self._critic, tensor(state["comparison.critic"]))
        is_trained, bound, variance = state["comparison.votes"]
        self._is_trained, self._bound, self._variance = bool(is_trained), float(bound), float(variance)
        sites, weight = state["comparison.weights"]
        self._released = Released(state["comparison.total"].copy(), float(sites), float(weight))

    def _train(self, rng: torch.Generator) -> None:
        options, rows = self._options, pool_size(self._family.encoded_width, self._options.batch)
        self._critic = self._family.fresh_critic(_seed(rng))
        warm, refined = (self._records(each, rows, rng) for each in (self.warm, self._refined))
        self._bound, self._variance = learn(
            self._critic, warm, refined, steps=options.comparison_steps, batch=options.batch, rng=rng
        )
        self._is_trained = True

    def _records(self, generator: nn.Module, rows: int, rng: torch.Generator) -> torch.Tensor:
        """Return records as a release would hold them, encoded like real ones, shape ``(rows, width)``."""
        records = self._family.sample(generator, self._fitting, rows, _seed(rng), {})
        return torch.from_numpy(self._family.encode(records)).float()


def _seed(rng: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=rng))
