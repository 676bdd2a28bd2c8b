"""Clipped sums of contributions: of a statistic, or of a critic's per-unit gradients by Opacus.

Never returns one unit's contribution, its norm, or how many units there were.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.validators import ModuleValidator
from torch import nn

from synthfed.plugins.api import Array, Payload, PrivatePart
from synthfed.plugins.pinning import Pinned
from synthfed.protocols.errors import RemoteProtocolError, UnsupportedMechanism
from synthfed.protocols.privacy.sampling import Indices
from synthfed.protocols.schema import places
from synthfed.protocols.sums import SLOTS_AT_ONCE, TILE, Kind, Sum

from .coupling import batch_layers
from .data import Encoded
from .residue import NoCoins, changed, state_of

LARGEST_WEIGHT: Final = 1e4
WIDE: Final = 2**16
"""Above so many numbers a contribution is formed a tile of slots at a time, so that memory stays bounded."""


def clipped_sum(
    private: PrivatePart,
    kind: Kind,
    payload: Payload,
    batch: Encoded,
    coins: Array | None = None,
    places: Indices | None = None,
) -> Array:
    """Return the sum of the batch's contributions, each clipped to the kind's norm, shape ``(dim,)``.

    The work is that of ``kind.slots`` rows whatever the batch holds, so that its time says nothing
    of the batch's size (docs/security.md, channels). A contribution that is not finite counts as zero.

    Args:
        private: the plugin's private part.
        kind: which sum.
        payload: the round's arrays.
        batch: encoded records, at most ``kind.slots`` rows.
        coins: secret uniform numbers, shape ``(kind.slots, kind.sum.coins)``; None where a kind has none.
        places: the slot of each row, drawn in secret for what is released; None puts them into the first ones.
    """
    row, real = np.zeros(kind.slots, dtype=np.int64), np.zeros(kind.slots, dtype=np.bool_)
    taken = np.arange(len(batch)) if places is None else places
    row[taken], real[taken] = np.arange(len(batch)), True
    tossed = np.empty((kind.slots, 0)) if coins is None else coins
    total = np.zeros(kind.sum.dim)
    at_once = SLOTS_AT_ONCE if kind.sum.dim <= WIDE else TILE
    with _flushed():
        for start in range(0, kind.slots, at_once):
            part = slice(start, start + at_once)
            # Not all slots at once: they would be as many numbers as all of a site's records.
            padded = np.zeros((len(real[part]), batch.shape[1]))
            padded[real[part]] = batch[row[part][real[part]]]
            if kind.sum.family == "gradient":
                total += _gradients(private, kind.sum, payload, padded, tossed[part], real[part])
            else:
                total += _statistics(private, kind.sum, payload, padded, real[part])
    return total


def row_width(pinned: Pinned, private: PrivatePart) -> int:
    """Return how many numbers an encoded row has."""
    return len(private.encode(np.zeros((1, places(pinned.policy.study.released.columns)[-1])))[0])


def module_faults(module: nn.Module) -> list[str]:
    """Return why the core would refuse a module, one sentence each; empty if it would not."""
    faults = [str(fault) for fault in ModuleValidator.validate(module.train(), strict=False)]
    return faults + [f"{layer} normalises over the batch, also when it is frozen" for layer in batch_layers(module)]


def read_payload(kind: Kind, data: bytes) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return a round's payload as named arrays, after checking size and values.

    Raises:
        RemoteProtocolError: wrong size, a value that is not finite, or one beyond 10,000.
    """
    sizes = [int(np.prod(shape, dtype=np.int64)) for _, shape in kind.sum.payload]
    if len(data) != 4 * sum(sizes):
        raise RemoteProtocolError("a payload has the wrong size", peer="coordinator")
    values = np.frombuffer(data, dtype="<f4")
    if not (np.abs(values) <= LARGEST_WEIGHT).all():  # false for NaN, too
        raise RemoteProtocolError("a payload holds a value that is not finite or too large", peer="coordinator")
    ends = np.cumsum(sizes)
    parts = zip(kind.sum.payload, np.split(values, ends[:-1]), strict=True) if sizes else ()
    return {name: part.reshape(shape) for (name, shape), part in parts}


def contributions(private: PrivatePart, each: Sum, payload: Payload, batch: Array) -> Array:
    """Return each row's contribution to a statistic, not yet clipped, shape ``(rows, dim)``."""
    with NoCoins():  # type: ignore[no-untyped-call]
        rows = np.asarray(private.statistic(each.name, batch, payload), dtype=np.float64)
    if rows.shape != (len(batch), each.dim):
        raise UnsupportedMechanism(f"statistic {each.name!r} has shape {rows.shape}, declared {(len(batch), each.dim)}")
    return rows


def _statistics(private: PrivatePart, each: Sum, payload: Payload, batch: Array, real: np.ndarray[Any, Any]) -> Array:
    rows = contributions(private, each, payload, batch)
    scales = _scales(np.sqrt(np.einsum("ij,ij->i", rows, rows)), each.clip_norm, real)
    return np.asarray(scales @ np.where(scales[:, None] > 0, rows, 0.0))


def _gradients(
    private: PrivatePart, each: Sum, payload: Payload, batch: Array, coins: Array, real: np.ndarray[Any, Any]
) -> Array:
    taken = record_gradients(private, each, payload, batch, coins)
    scales = _scales(taken.norms(len(batch)), each.clip_norm, real)
    return taken.weighted_sum(torch.from_numpy(scales))


def record_gradients(private: PrivatePart, each: Sum, payload: Payload, batch: Array, coins: Array) -> "_UnitGradients":
    """Return every row's gradient of its loss, not yet clipped, as the core's hooks took it."""
    module = load(private.module(each.name), payload)
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    if trained != each.dim:
        raise UnsupportedMechanism(
            f"the module of {each.name!r} has {trained} parameters to be trained, declared {each.dim}"
        )
    refuse_batch_layers(each, module)
    with _refusals(), NoCoins():  # type: ignore[no-untyped-call]
        gradients = _UnitGradients(module)
        before = state_of(module)
        # Opacus' hooks want an input that asks for a gradient; none is used.
        records = torch.from_numpy(batch).requires_grad_()
        losses = private.loss(each.name, gradients, records, torch.from_numpy(coins))
        if losses.shape != (len(batch),):
            raise UnsupportedMechanism(f"the loss of {each.name!r} has shape {tuple(losses.shape)}, not one per record")
        losses.sum().backward()  # type: ignore[no-untyped-call]
    if residue := changed(before, state_of(module)):
        raise UnsupportedMechanism(f"the module of {each.name!r} changed its {residue} while it saw records")
    return gradients


def refuse_batch_layers(each: Sum, module: nn.Module) -> None:
    """Raise UnsupportedMechanism where a layer of a sum's module puts something of the whole batch into each record."""
    if layers := batch_layers(module):
        raise UnsupportedMechanism(
            f"the module of {each.name!r} normalises over the batch in {layers[0]}; use group or layer normalisation"
        )


def _scales(norms: Array, clip_norm: float, real: np.ndarray[Any, Any]) -> Array:
    """Return each slot's factor: at most clip_norm / norm, zero for padding and what is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.minimum(1.0, clip_norm / norms)
    return np.where(real & np.isfinite(norms), scales, 0.0)


def load(module: nn.Module, payload: Payload) -> nn.Module:
    """Return the module in double precision with the payload as its parameters, in their order.

    A parameter that asks for no gradient is loaded like the others and only takes part in the loss.
    """
    module = module.double().train()
    shapes = [tuple(parameter.shape) for parameter in module.parameters()]
    if shapes != [array.shape for array in payload.values()]:
        raise UnsupportedMechanism("the payload's shapes differ from the module's parameters")
    with torch.no_grad():
        for parameter, array in zip(module.parameters(), payload.values(), strict=True):
            parameter.copy_(torch.from_numpy(array.astype(np.float64)))
    return module


@contextmanager
def _flushed() -> Iterator[None]:
    """Take subnormal numbers for zero in this thread.

    Arithmetic on them is many times slower, so a coordinator's weights could make records show in a step's time.
    """
    if not torch.set_flush_denormal(True):
        raise UnsupportedMechanism("this processor cannot flush subnormal numbers, so steps would not take one time")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn Opacus' refusals, at construction or in a hook, into ours."""
    try:
        yield
    except NotImplementedError as error:
        raise UnsupportedMechanism(f"Opacus refuses the module: {error}") from None


class _UnitGradients(GradSampleModuleFastGradientClipping):  # type: ignore[misc]
    """Opacus' hooks, with the norm taken from the very numbers that are added up.

    For a linear layer on one vector per record, the hooks give input a and output gradient b; the
    record's gradient is the outer product of b and a, its norm |a||b| (Goodfellow 2015, arXiv
    1510.01799), and the clipped sum one product of matrices: no second backward pass whose rounding
    could differ. Every other layer's per-record gradient is formed by Opacus and its norm taken.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, loss_reduction="sum", strict=True)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._order = [id(parameter) for parameter in trained]
        self._shapes = [tuple(parameter.shape) for parameter in trained]
        self._norms: list[torch.Tensor] = []
        self._outer: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._formed: dict[int, torch.Tensor] = {}

    def capture_backprops_hook(
        self,
        module: nn.Module,
        _forward_input: Any,
        forward_output: Any,
        loss_reduction: str,
        batch_first: bool,
    ) -> None:
        """Keep what the weighted sum needs, and the squared norms of each record's part."""
        inputs, outputs = self.rearrange_grad_samples(
            module=module,
            backprops=forward_output[0].detach(),
            loss_reduction=loss_reduction,
            batch_first=batch_first,
        )
        if type(module) is nn.Linear and outputs.dim() == 2:
            self._take_linear(module, inputs[0], outputs)
        else:
            sampler = self.GRAD_SAMPLERS.get(type(module))
            if sampler is None:
                raise UnsupportedMechanism(f"layers of type {type(module).__name__} have no per-record gradient")
            for parameter, formed in sampler(module, inputs, outputs).items():
                self._once(parameter)
                self._formed[id(parameter)] = formed.flatten(1)
                self._norms.append(_row_norms(formed.flatten(1)))

    def norms(self, slots: int) -> Array:
        """Return each record's gradient norm over all parameters, shape ``(slots,)``."""
        if not self._norms:
            return np.zeros(slots)
        return _row_norms(torch.stack(self._norms, dim=1)).numpy()

    def weighted_sum(self, scales: torch.Tensor) -> Array:
        """Return the sum of the records' gradients times their scales, flat in parameter order."""
        return np.concatenate(
            [self._summed(key, shape, scales) for key, shape in zip(self._order, self._shapes, strict=True)]
        )

    def _take_linear(self, module: nn.Linear, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        self._once(module.weight)
        self._outer[id(module.weight)] = (outputs, inputs)
        self._norms.append(_row_norms(outputs) * _row_norms(inputs))
        if module.bias is not None:
            self._once(module.bias)
            self._formed[id(module.bias)] = outputs
            self._norms.append(_row_norms(outputs))

    def _once(self, parameter: torch.Tensor) -> None:
        if id(parameter) in self._outer or id(parameter) in self._formed:
            raise UnsupportedMechanism("a parameter is used twice in one pass; its norm would be understated")

    def _summed(self, key: int, shape: tuple[int, ...], scales: torch.Tensor) -> Array:
        # A record with scale zero may hold NaN or infinity, which times zero would poison the sum.
        kept = scales > 0
        if key in self._outer:
            outputs, inputs = (torch.where(kept[:, None], part, 0.0) for part in self._outer[key])
            return ((outputs * scales[:, None]).T @ inputs).flatten().numpy()
        if key in self._formed:
            return (scales @ torch.where(kept[:, None], self._formed[key], 0.0)).numpy()
        return np.zeros(int(np.prod(shape, dtype=np.int64)))


def _row_norms(rows: torch.Tensor) -> torch.Tensor:
    """Return each row's L2 norm, shape ``(rows,)``, also where squares of its entries would leave a float's range."""
    largest = rows.abs().amax(1)
    scale = torch.where(largest > 0, largest, 1.0)
    return (rows / scale[:, None]).square().sum(1).sqrt() * largest
