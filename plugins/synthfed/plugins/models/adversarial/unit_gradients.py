"""The public half of a clipped sum: per-record gradients of a critic on fakes, each clipped like a real record's.

Never sees a real record: those are clipped at their sites by the core.
"""

from typing import Any, Final

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from .losses import Loss

CHUNK: Final = 64  # records whose gradients are held at once where they must be formed


def clipped_gradient(
    critic: nn.Module,
    batch: torch.Tensor,
    coins: torch.Tensor,
    loss: Loss,
    clip_norm: float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the weighted sum of every record's gradient clipped to an L2 norm, shape ``(parameters,)``.

    Args:
        critic: called with a batch and coins; returns scores ``(rows, 1)``.
        batch: shape ``(rows, width)``.
        coins: for dropout, shape ``(rows, coins)``.
        loss: of each score.
        clip_norm: the bound on each record's gradient.
        weights: of the records, shape ``(rows,)``; 1 if None.
    """
    factors = torch.ones(len(batch)) if weights is None else weights
    dense = _DensePass(critic)
    if dense.fits:
        backward = dense.run(batch, coins, loss)
        if dense.fits:
            return dense.clipped(backward, clip_norm, factors)
    return _formed(critic, batch, coins, loss, clip_norm, factors)


class _DensePass:
    """One pass through a critic of dense layers only.

    A dense layer's gradient for one record is the outer product of its input and the gradient at
    its output, so its norm is the product of theirs (Goodfellow 2015, arXiv:1510.01799).

    Attributes:
        fits: whether the critic is such a one: every parameter in a dense layer that is used once, on flat input.
    """

    def __init__(self, critic: nn.Module) -> None:
        self._critic = critic
        self._layers = [layer for layer in critic.modules() if isinstance(layer, nn.Linear)]
        held = {id(each) for layer in self._layers for each in layer.parameters()}
        self.fits = held == {id(each) for each in critic.parameters()}
        self._taken: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def run(self, batch: torch.Tensor, coins: torch.Tensor, loss: Loss) -> tuple[torch.Tensor, ...]:
        """Return the gradient at each layer's output, summed losses; none where a layer does not fit."""
        handles = [layer.register_forward_hook(self._take) for layer in self._layers]
        try:
            total = loss(self._critic(batch, coins)).sum()
        finally:
            for handle in handles:
                handle.remove()
        if len(self._taken) < len(self._layers):
            self.fits = False
        if not self.fits:
            return ()
        return torch.autograd.grad(total, [self._taken[id(layer)][1] for layer in self._layers])

    def clipped(self, backward: tuple[torch.Tensor, ...], clip_norm: float, weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of clipped gradients, flat in parameter order."""
        inputs = [self._taken[id(layer)][0] for layer in self._layers]
        squares = [
            (x.square().sum(1) + float(layer.bias is not None)) * g.square().sum(1)
            for layer, x, g in zip(self._layers, inputs, backward, strict=True)
        ]
        factors = (weights * _scales(torch.stack(squares).sum(0), clip_norm))[:, None]
        parts = {}
        for layer, x, g in zip(self._layers, inputs, backward, strict=True):
            scaled = g * factors
            parts[id(layer.weight)] = (scaled.T @ x).flatten()
            if layer.bias is not None:
                parts[id(layer.bias)] = scaled.sum(0)
        return torch.cat([parts[id(each)] for each in self._critic.parameters()])

    def _take(self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if output.dim() != 2 or id(layer) in self._taken:
            self.fits = False
        self._taken[id(layer)] = (inputs[0].detach(), output)


def _formed(
    critic: nn.Module, batch: torch.Tensor, coins: torch.Tensor, loss: Loss, clip_norm: float, weights: torch.Tensor
) -> torch.Tensor:
    """Return the same sum for any critic that treats records alone, its per-record gradients formed in chunks."""
    parameters = {name: each.detach() for name, each in critic.named_parameters()}

    def of_one(held: dict[str, torch.Tensor], record: torch.Tensor, tossed: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = functional_call(critic, held, (record[None], tossed[None]))
        return loss(scores).sum()

    of_each: Any = vmap(grad(of_one), in_dims=(None, 0, 0))
    total = torch.zeros(sum(each.numel() for each in parameters.values()))
    for start in range(0, len(batch), CHUNK):
        part = slice(start, start + CHUNK)
        rows = torch.cat([each.flatten(1) for each in of_each(parameters, batch[part], coins[part]).values()], 1)
        total += (weights[part] * _scales(rows.square().sum(1), clip_norm)) @ rows
    return total


def _scales(squares: torch.Tensor, clip_norm: float) -> torch.Tensor:
    return (clip_norm / squares.sqrt().clamp_min(1e-12)).clamp_max(1.0)
