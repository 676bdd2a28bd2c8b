"""A discriminator between the fakes of two generators: how much likelier one of them makes a record.

Never sees a real record while it learns: both generators' fakes are public.
"""

import math
from typing import Final

import torch
from torch.nn import functional

from ..adam import Adam, flat_gradient
from .critics import Critic
from .losses import LOGISTIC

RATE: Final = 5e-3
MOMENTUM: Final = 0.9
LEAST_ROWS: Final = 1024
BATCHES: Final = 16
MOST_NUMBERS: Final = 2**24  # of a pool of fakes, so that memory stays bounded
HELD_OUT: Final = 4  # one in so many
INSIDE: Final = 0.95  # part of the fakes whose logits are not clipped: a few odd records must not set the noise
LEAST_TOLD: Final = 4.0  # nats by which the held-out fakes must be told apart; chance does so one time in 50
LARGEST: Final = 1e3  # of a weight that is sent; sites refuse huge ones


def votes(scores: torch.Tensor) -> torch.Tensor:
    """Return what each record contributes, within [-1, 1] whatever its score, shape ``(rows, 1)``."""
    return scores.nan_to_num(nan=0.0).clamp(-1.0, 1.0)


def pool_size(width: int, batch: int) -> int:
    """Return how many fakes of each generator a discriminator is given, those held out among them."""
    return max(LEAST_ROWS, min(BATCHES * batch, MOST_NUMBERS // width))


def learn(
    critic: Critic, first: torch.Tensor, second: torch.Tensor, *, steps: int, batch: int, rng: torch.Generator
) -> tuple[float, float]:
    """Train a critic until its scores are the logarithm of the second density over the first, in parts of a bound.

    Where held-out fakes cannot be told apart, the bound is 0: scores are of the usual size, but mean nothing.

    Args:
        critic: with fresh weights; it is changed.
        first: encoded fakes of one generator, shape ``(rows, width)``.
        second: of the other, as many.
        steps: of training.
        batch: fakes of each kind in a step.
        rng: of the batches.

    Returns:
        The bound in nats, and the variance of votes among fakes of one generator.
    """
    held = len(first) // HELD_OUT
    adam = Adam.of(critic)
    for step in range(steps):
        one, other = (torch.randint(held, len(first), (batch,), generator=rng) for _ in range(2))
        loss = LOGISTIC.real(critic(second[one])).mean() + LOGISTIC.fake(critic(first[other])).mean()
        rate = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        adam.step(critic, flat_gradient(loss, critic), rate, MOMENTUM)
    return _calibrate(critic, first[:held], second[:held])


@torch.no_grad()
def _calibrate(critic: Critic, first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Scale the last layer to calibrated logits of held-out fakes over their bound, and return what ``learn`` does."""
    scores = torch.cat([critic(second), critic(first)]).squeeze(1).double()
    slope, shift = calibration(scores)
    tells = slope > 0
    slope = slope if tells else 1.0
    weight, bias = critic.exit.weight, critic.exit.bias
    largest = max(slope * float(weight.abs().max()), abs(slope * float(bias[0]) + shift))
    bound = max(float((slope * scores + shift).abs().quantile(INSIDE)), largest / LARGEST)
    weight.mul_(slope / bound if bound > 0 else 0.0)
    bias.mul_(slope).add_(shift).div_(bound if bound > 0 else 1.0)
    return bound if tells else 0.0, float((votes(critic(first)).var() + votes(critic(second)).var()) / 2)


def calibration(scores: torch.Tensor) -> tuple[float, float]:
    """Return slope and shift that turn scores into calibrated logits; zeros where they tell nothing.

    It is a logistic regression on the score (Platt 1999, Advances in Large Margin Classifiers), held a
    little to slope 1 and shift 0, so that fakes without overlap do not send it to infinity.

    Args:
        scores: of held-out fakes, those of the second generator first, as many of each, float64, shape ``(rows,)``.
    """
    signs = torch.ones_like(scores)
    signs[len(scores) // 2 :] = -1
    found = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([found], max_iter=50, line_search_fn="strong_wolfe")

    def misfit() -> torch.Tensor:
        return functional.softplus(-signs * (found[0] * scores + found[1])).sum()

    def held() -> torch.Tensor:
        search.zero_grad()
        loss = misfit() + ((found[0] - 1).square() + found[1].square()) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        search.step(held)  # type: ignore[no-untyped-call]
        told = len(scores) * math.log(2) - float(misfit().detach())
    slope, shift = found.tolist()
    return (slope, shift) if slope > 0 and told > LEAST_TOLD else (0.0, 0.0)
