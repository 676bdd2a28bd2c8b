"""What a private loss may toss, and the parameters it may use without training them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from synthfed.client.train import clipped_sum
from synthfed.plugins.api import Array, Payload
from synthfed.protocols.errors import UnsupportedMechanism
from synthfed.protocols.schema import Records
from synthfed.protocols.sums import Kind, Sum

WIDTH = 3


class Noisy:
    """A private part whose loss adds a normal number, made of a coin, to each record."""

    def encode(self, records: Records) -> Array:
        return records

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        return batch

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        return nn.Linear(WIDTH, 1)

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        assert coins.shape == (len(batch), 2)
        assert coins.dtype == torch.float64
        losses: torch.Tensor = module(batch + torch.special.ndtri(coins[:, :1])).squeeze(1)
        return losses


class Half:
    """A private part whose first layer is frozen: it takes part in the loss, and nobody learns of it."""

    encode, statistic = Noisy.encode, Noisy.statistic

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        first = nn.Linear(WIDTH, 4).requires_grad_(False)
        return nn.Sequential(first, nn.Tanh(), nn.Linear(4, 1))

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        losses: torch.Tensor = module(batch).square().squeeze(1)
        return losses


def weights(module: nn.Module, rng: np.random.Generator) -> Payload:
    return {name: rng.normal(size=tuple(each.shape)).astype(np.float32) for name, each in module.named_parameters()}


def kind_of(payload: Payload, dim: int, coins: int, slots: int = 64) -> Kind:
    shapes = tuple((name, array.shape) for name, array in payload.items())
    return Kind(Sum("g", "gradient", dim, 1.0, 0.5, 1, 1.0, shapes, coins), 1.0, slots, 32)


def test_each_slot_gets_its_own_coins_in_every_batch_of_a_round() -> None:
    rng = np.random.default_rng(0)
    payload = weights(nn.Linear(WIDTH, 1), rng)
    batch, coins = rng.normal(size=(700, WIDTH)), rng.random((1024, 2))
    total = clipped_sum(Noisy(), kind_of(payload, 4, 2, 1024), payload, batch, coins)
    one_by_one = np.zeros(4)
    for row, coin in zip(batch, coins, strict=False):
        spread = np.tile(coin, (64, 1))
        one_by_one += clipped_sum(Noisy(), kind_of(payload, 4, 2), payload, row[None], spread)
    np.testing.assert_allclose(total, one_by_one, atol=1e-9)


def test_a_frozen_parameter_is_loaded_and_takes_part_but_has_no_place_in_the_sum() -> None:
    rng = np.random.default_rng(1)
    payload, batch = weights(Half().module(""), rng), rng.normal(size=(5, WIDTH))
    total = clipped_sum(Half(), kind_of(payload, 5, 0), payload, batch)
    hidden = np.tanh(batch @ payload["0.weight"].T.astype(float) + payload["0.bias"])
    scores = hidden @ payload["2.weight"][0].astype(float) + payload["2.bias"]
    gradients = 2 * scores[:, None] * np.column_stack([hidden, np.ones(5)])
    norms = np.linalg.norm(gradients, axis=1)
    np.testing.assert_allclose(total, (gradients * np.minimum(1, 1 / norms)[:, None]).sum(0), atol=1e-12)


def test_a_frozen_parameter_must_not_be_counted_in_the_declaration() -> None:
    payload = weights(Half().module(""), np.random.default_rng(2))
    with pytest.raises(UnsupportedMechanism, match="5 parameters to be trained, declared 21"):
        clipped_sum(Half(), kind_of(payload, 21, 0), payload, np.ones((2, WIDTH)))


def test_a_wide_contribution_is_formed_a_tile_at_a_time() -> None:
    seen: list[int] = []

    class Wide(Noisy):
        def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
            seen.append(len(batch))
            return np.repeat(batch[:, :1], 2**16 + 1, axis=1) * 1e-3

    kind = Kind(Sum("s", "statistic", 2**16 + 1, 1.0, 0.5, 1, 1.0), 1.0, 192, 32)
    total = clipped_sum(Wide(), kind, {}, np.ones((100, WIDTH)))
    assert seen == [64, 64, 64]
    np.testing.assert_allclose(total, 0.1)


class Rounds(torch.autograd.Function):
    """The same number, but a gradient that is drawn anew each time."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return scores.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return gradient * torch.rand(gradient.shape, dtype=gradient.dtype)


class DrawsBehind(Half):
    """A private part that tosses coins of its own on the way back, and in its statistic."""

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        plain = super().loss(name, module, batch, coins)
        losses: torch.Tensor = Rounds.apply(plain)  # type: ignore[no-untyped-call]
        return losses

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        return np.asarray(batch * torch.rand(batch.shape).numpy())


def test_a_module_that_draws_on_the_way_back_is_refused() -> None:
    payload = weights(Half().module(""), np.random.default_rng(3))
    with pytest.raises(UnsupportedMechanism, match="drew random numbers while it saw records"):
        clipped_sum(DrawsBehind(), kind_of(payload, 5, 0), payload, np.ones((2, WIDTH)))


def test_a_statistic_that_draws_from_torch_is_refused() -> None:
    kind = Kind(Sum("s", "statistic", WIDTH, 1.0, 0.5, 1, 1.0), 1.0, 64, 32)
    with pytest.raises(UnsupportedMechanism, match="drew random numbers while it saw records"):
        clipped_sum(DrawsBehind(), kind, {}, np.ones((2, WIDTH)))
