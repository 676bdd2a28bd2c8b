"""Several steps of the critic at a site in one round: what goes there for them, and how the weights move on.

Never sees a record: a site moves its copy by noised sums and by fakes that everyone knows.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...api import Answer, Array, Payload
from ..adam import Adam, flat_gradient, flatten, set_flat
from .critics import Critic, Mixed
from .unit_gradients import clipped_gradient

if TYPE_CHECKING:
    from .gan_family import GanFamily

LARGEST: Final = 1e4
"""Sites refuse greater numbers in a payload, and bring what a step moved within them."""


class Travelling(nn.Module):
    """The module of the gradient sum beside what a site needs to move on by itself; a pass sees the module alone.

    Attributes:
        module: whose gradient is asked for.
        rates: how far a unit of the noised sum, and of the mean gradient of fakes, moves a weight, shape ``(2,)``.
        fakes: encoded, public, shape ``(fakes, width)``.
    """

    def __init__(self, module: Critic | Mixed, fakes: torch.Tensor) -> None:
        """Stand still until rates come with a payload."""
        super().__init__()
        self.rates = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.fakes = nn.Parameter(fakes, requires_grad=False)
        self.module = module

    @property
    def critic(self) -> Critic:
        """The critic, without what it may be beside."""
        return self.module.critic if isinstance(self.module, Mixed) else self.module

    def forward(self, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        """Return what the module returns."""
        outcome: torch.Tensor = self.module(batch, coins)
        return outcome


class LocalSteps:
    """The local part of every GAN: plain gradient descent on the noised sum and the fakes that came with the round."""

    def __init__(self, family: "GanFamily[Any]") -> None:
        """Serve a family."""
        self._family = family

    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:  # noqa: ARG002
        """Return the payload with the critic's weights one step further."""
        family, module = self._family, self._family.site_module()
        if not isinstance(module, Travelling):
            return payload
        with torch.no_grad():
            for each, values in zip(module.parameters(), payload.values(), strict=True):
                each.copy_(torch.tensor(values))
        critic, fakes = module.critic, module.fakes.detach()
        rng = torch.Generator().manual_seed(step)  # public, and the same at every site
        coins = torch.rand(len(fakes), critic.coins, generator=rng)
        clip_norm = family.gradients().clip_norm
        public = clipped_gradient(critic, fakes, coins, family.losses.fake, clip_norm) / len(fakes)
        penalty = family.penalty(critic, fakes, rng)
        if penalty is not None:
            public += flat_gradient(penalty, critic)
        private_rate, public_rate = module.rates.tolist()
        change = private_rate * torch.tensor(noised, dtype=torch.float32) + public_rate * public
        # Weights that a coordinator chose may run away, and a spectral norm is defined of finite ones only.
        set_flat(critic, (flatten(critic) - change).nan_to_num(nan=0.0).clamp(-LARGEST, LARGEST))
        family.bound(critic)
        moved = [each.detach().numpy() for each in module.parameters()]
        return dict(zip(payload, moved, strict=True))


class Pace:
    """How far sites go in their own steps: as far in a coordinate, noise included, as the critic's optimiser goes.

    A site alone sees more noise than the coordinator, to which all sites' steps come as one mean. So its steps are
    divided by what the optimiser's scale would be with that noise, the root of the mean over all coordinates.
    """

    def __init__(self) -> None:
        """Stand still: before the first sum nobody knows how large a gradient is."""
        self._more = 0.0

    def receive(self, answer: Answer, lot: float, steps: int) -> None:
        """Remember how much more noise one step of one site has than a round's mean.

        Args:
            answer: the round's sum.
            lot: expected number of units of all its steps and sites.
            steps: of the round.
        """
        parts = steps * answer.sites
        self._more = (answer.noise_std / lot) ** 2 * (parts - 1)

    def rates(self, adam: Adam, rate: float, lot: float) -> npt.NDArray[np.float32]:
        """Return the two rates that go to the sites, shape ``(2,)``.

        Args:
            adam: the critic's optimiser.
            rate: its rate.
            lot: expected number of units of one step at one site.
        """
        if adam.count == 0:
            return np.zeros(2, dtype=np.float32)
        reach = rate / (float(adam.square_estimate.mean()) + self._more) ** 0.5
        return np.array([reach / lot, reach], dtype=np.float32).clip(0, LARGEST)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what is remembered."""
        return {"pace": np.array([self._more])}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        self._more = float(state["pace"][0])
