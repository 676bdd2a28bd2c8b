"""The clipped gradient of fakes: the fast paths against the slow sum over records."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from synthfed.plugins.models.adversarial.critics import Critic, DenseCritic
from synthfed.plugins.models.adversarial.losses import Loss
from synthfed.plugins.models.adversarial.unit_gradients import clipped_gradient
from synthfed.plugins.models.dropout import dropped

WIDTH = 12


class ConvolvedCritic(Critic):
    """What an array family may bring: convolutions, GroupNorm and dropout before the last dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.exit = nn.Linear(40, 1)
        self.coins = 40

    def features(self, batch: torch.Tensor, coins: torch.Tensor | None = None) -> torch.Tensor:
        return dropped(self.norm(self.convolution(batch[:, None])).flatten(1), coins, 0.4)


class DenseOnMatrices(Critic):
    """Dense layers only, but on a matrix for each record: its gradient is no outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.exit = nn.Linear(20, 1)
        self.coins = 0

    def features(self, batch: torch.Tensor, coins: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        return torch.tanh(self.layer(batch.view(-1, 4, 3))).flatten(1)


def slow(
    critic: Critic, batch: torch.Tensor, coins: torch.Tensor, loss: Loss, clip_norm: float, weights: torch.Tensor
) -> torch.Tensor:
    total = torch.zeros(sum(each.numel() for each in critic.parameters()))
    for row, tossed, weight in zip(batch, coins, weights, strict=True):
        one = loss(critic(row[None], tossed[None])).sum()
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(one, list(critic.parameters()))])
        total += weight * gradient / max(1.0, float(gradient.norm()) / clip_norm)
    return total


@pytest.mark.parametrize(
    "make",
    [lambda: DenseCritic(WIDTH, 5, 2), lambda: DenseCritic(WIDTH, 5, 3, 0.3), ConvolvedCritic, DenseOnMatrices],
    ids=["dense", "dense-with-dropout", "convolved", "dense-on-matrices"],
)
def test_the_clipped_gradient_of_fakes_equals_the_slow_sum_over_records(make: Callable[[], Critic]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = make()
    rng = torch.Generator().manual_seed(1)
    batch, coins = torch.randn(130, WIDTH, generator=rng), torch.rand(130, critic.coins, generator=rng)
    weights = torch.rand(130, generator=rng)
    for clip_norm in (0.2, 100.0):
        expected = slow(critic, batch, coins, lambda scores: softplus(scores).squeeze(1), clip_norm, weights)
        found = clipped_gradient(critic, batch, coins, lambda scores: softplus(scores).squeeze(1), clip_norm, weights)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_pass_leaves_no_hook_and_no_gradient_behind() -> None:
    critic = DenseCritic(WIDTH, 5, 2)
    clipped_gradient(critic, torch.ones(3, WIDTH), torch.empty(3, 0), lambda scores: scores.squeeze(1), 1.0)
    assert all(each.grad is None for each in critic.parameters())
    assert not any(part._forward_hooks for part in critic.modules())
