"""Every layer that the agent accepts, under weights and records made to hurt: one unit moves the sum by its share."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.layers import DPGRU, DPLSTM, DPRNN, DPMultiheadAttention
from torch import nn

from synthfed.client.train import LARGEST_WEIGHT, _UnitGradients, clipped_sum
from synthfed.plugins.api import Array, Payload, Records
from synthfed.protocols.errors import UnsupportedMechanism
from synthfed.protocols.sums import Kind, Sum

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")

Build = Callable[[], nn.Module]

WIDTH = 12
SLOTS = 64
WORDS = 5


class Plugin:
    """A module with a squared-error loss."""

    def __init__(self, build: Build) -> None:
        self._build = build

    def encode(self, records: Records) -> Array:
        return records

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        raise NotImplementedError

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        return self._build()

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        losses: torch.Tensor = module(batch).flatten(1).square().sum(1)
        return losses


class First(nn.Module):
    """A recurrent layer's outputs, without its state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(batch)[0]
        return result


class Attends(nn.Module):
    """Attention of a record's places to each other."""

    def __init__(self, add_bias_kv: bool = False) -> None:
        super().__init__()
        self.attention = DPMultiheadAttention(4, 2, batch_first=True, add_bias_kv=add_bias_kv)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.attention(batch, batch, batch, need_weights=False)[0]
        return result


class Squares(nn.Module):
    """A bilinear layer's outputs for a vector with itself."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(batch, batch)
        return result


class Words(nn.Module):
    """A record's values as words of a small vocabulary."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        words = batch.nan_to_num(0.0).abs().remainder(WORDS).floor().long().clamp(0, WORDS - 1)
        result: torch.Tensor = self.layer(words)
        return result


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten())


def shaped(*shape: int) -> nn.Module:
    return nn.Unflatten(1, shape)


LAYERS: dict[str, Build] = {
    "Linear": lambda: chain(nn.Linear(WIDTH, 4), nn.LeakyReLU(), nn.Linear(4, 2)),
    "Linear without bias": lambda: chain(nn.Linear(WIDTH, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False)),
    "Linear over a sequence": lambda: chain(shaped(4, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)),
    "Linear over a grid": lambda: chain(shaped(2, 2, 3), nn.Linear(3, 2)),
    "LayerNorm": lambda: chain(nn.Linear(WIDTH, 4), nn.LayerNorm(4), nn.Linear(4, 1)),
    "LayerNorm over a sequence": lambda: chain(shaped(4, 3), nn.LayerNorm([4, 3])),
    "RMSNorm": lambda: chain(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 1)),
    "GroupNorm": lambda: chain(shaped(4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(WIDTH, 1)),
    "InstanceNorm1d": lambda: chain(shaped(4, 3), nn.InstanceNorm1d(4, affine=True)),
    "InstanceNorm2d": lambda: chain(shaped(2, 2, 3), nn.InstanceNorm2d(2, affine=True)),
    "InstanceNorm3d": lambda: chain(shaped(2, 1, 2, 3), nn.InstanceNorm3d(2, affine=True)),
    "Conv1d": lambda: chain(shaped(3, 4), nn.Conv1d(3, 4, 2), nn.LeakyReLU(), nn.Conv1d(4, 2, 2)),
    "Conv1d in groups with stride and padding": lambda: chain(
        shaped(4, 3), nn.Conv1d(4, 4, 2, stride=2, padding=1, groups=2)
    ),
    "Conv2d": lambda: chain(shaped(1, 3, 4), nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 1, 2)),
    "Conv2d with dilation": lambda: chain(shaped(2, 2, 3), nn.Conv2d(2, 3, (1, 2), dilation=(1, 2), padding="same")),
    "Conv3d": lambda: chain(shaped(1, 2, 2, 3), nn.Conv3d(1, 2, (2, 2, 2))),
    "Embedding": lambda: chain(Words(nn.Embedding(WORDS, 3)), nn.Flatten(), nn.Linear(3 * WIDTH, 1)),
    "attention": lambda: chain(shaped(3, 4), Attends()),
    "wide Linear": lambda: chain(nn.Linear(WIDTH, 300), nn.LeakyReLU(), nn.Linear(300, 1)),
}
NAMES = sorted(LAYERS)
REFUSED: dict[str, Build] = {
    "EmbeddingBag": lambda: chain(Words(nn.EmbeddingBag(WORDS, 3, mode="sum")), nn.Linear(3, 1)),
    "a recurrent network": lambda: chain(shaped(4, 3), First(DPRNN(3, 3, batch_first=True))),
    "GRU": lambda: chain(shaped(4, 3), First(DPGRU(3, 2, batch_first=True))),
    "LSTM": lambda: chain(shaped(4, 3), First(DPLSTM(3, 2, batch_first=True))),
    "GRU of torch": lambda: chain(shaped(4, 3), First(nn.GRU(3, 2, batch_first=True))),
    "a bias per place": lambda: chain(shaped(3, 4), Attends(add_bias_kv=True)),
    "BatchNorm1d": lambda: chain(nn.Linear(WIDTH, 3), nn.BatchNorm1d(3)),
    "InstanceNorm1d with running means": lambda: chain(
        shaped(4, 3), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    ),
    "PReLU": lambda: chain(nn.Linear(WIDTH, 3), nn.PReLU()),
    "Bilinear": lambda: chain(nn.Linear(WIDTH, 3), Squares(nn.Bilinear(3, 3, 2))),
    "ConvTranspose1d": lambda: chain(shaped(4, 3), nn.ConvTranspose1d(4, 2, 2)),
}


def shapes(build: Build) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in build().parameters()]


def kind_of(build: Build, clip_norm: float = 1.0, slots: int = SLOTS) -> Kind:
    declared = tuple((f"p{place}", shape) for place, shape in enumerate(shapes(build)))
    dim = sum(math.prod(shape) for _, shape in declared)
    return Kind(Sum("g", "gradient", dim, clip_norm, 0.5, 1, 1.0, declared), 1.0, slots, 32)


WEIGHTS = [LARGEST_WEIGHT, -LARGEST_WEIGHT, 1.0, -1.0, 0.5, 1e-20, -1e-30, 1e-45, 0.0]
VALUES = [0.0, -0.0, 1.0, -1.0, 3.0, 1e-8, 1e-160, 1e8, -1e16, 1e100, -1e150, 1e308, np.nan, np.inf, -np.inf]


@dataclass(frozen=True)
class Attack:
    """Weights and records: of one magnitude, or of a few hostile values, or the same ones again and again."""

    name: str
    seed: int
    scale: float
    hostile_weights: bool
    hostile_records: bool
    copies: bool
    clip_norm: float

    @property
    def build(self) -> Build:
        return LAYERS[self.name]

    @property
    def kind(self) -> Kind:
        return kind_of(self.build, self.clip_norm)

    def payload(self) -> Payload:
        rng = np.random.default_rng(self.seed)
        drawn = (
            rng.choice(WEIGHTS, shape) if self.hostile_weights else self.scale * rng.normal(size=shape)
            for shape in shapes(self.build)
        )
        return {
            f"p{place}": np.clip(values, -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.float32)
            for place, values in enumerate(drawn)
        }

    def records(self, count: int) -> Array:
        rng = np.random.default_rng(self.seed + 1)
        drawn = rng.choice(VALUES, (count, WIDTH)) if self.hostile_records else rng.normal(size=(count, WIDTH))
        return np.repeat(drawn[:1], count, axis=0) if self.copies else drawn


ATTACKS = st.builds(
    Attack,
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-6, 1.0, 1e3, LARGEST_WEIGHT]),
    hostile_weights=st.booleans(),
    hostile_records=st.booleans(),
    copies=st.booleans(),
    clip_norm=st.sampled_from([1e-3, 1.0, 1e3]),
)


def float_factor(kind: Kind) -> float:
    """Return the accounted sensitivity without the grid's part, as in docs/adr/0003."""
    return 1 + (2 * kind.sum.dim + 2 * kind.slots**2) * 2.0**-53


def distance(one: Array, other: Array) -> float:
    """Return the norm of the difference of the very floats, beyond double precision."""
    return float(np.sqrt(np.square(one.astype(np.longdouble) - other.astype(np.longdouble)).sum()))


@pytest.mark.parametrize("name", NAMES)
def test_the_agent_takes_a_gradient_of_every_layer_that_it_accepts(name: str) -> None:
    """So that what follows is no test of zeros."""
    attack = Attack(name, 1, 1.0, hostile_weights=False, hostile_records=False, copies=False, clip_norm=1.0)
    records = attack.records(5)
    total = clipped_sum(Plugin(attack.build), attack.kind, attack.payload(), records)
    assert 0.1 < np.linalg.norm(total) <= 5


@settings(max_examples=250, deadline=None)
@given(attack=ATTACKS, count=st.integers(1, SLOTS), leaving=st.integers(0, SLOTS))
def test_no_weights_and_no_records_let_one_unit_move_the_sum_by_more_than_the_accounted_sensitivity(
    attack: Attack, count: int, leaving: int
) -> None:
    plugin, kind, payload, batch = Plugin(attack.build), attack.kind, attack.payload(), attack.records(count)
    whole = clipped_sum(plugin, kind, payload, batch)
    rest = clipped_sum(plugin, kind, payload, np.delete(batch, leaving % count, axis=0))
    assert np.isfinite(whole).all()
    assert distance(whole, rest) <= float_factor(kind) * attack.clip_norm


def one_unit(attack: Attack, slot: int, others: Array) -> bytes:
    """Return norm and gradient of the unit in one slot, as the weighted sum would add it."""
    module = attack.build().double().train()
    with torch.no_grad():
        for parameter, values in zip(module.parameters(), attack.payload().values(), strict=True):
            parameter.copy_(torch.from_numpy(values.astype(np.float64)))
    batch = others.copy()
    batch[slot] = attack.records(1)[0]
    gradients = _UnitGradients(module)
    records, coins = torch.from_numpy(batch).requires_grad_(), torch.empty(len(batch), 0)
    Plugin(attack.build).loss("g", gradients, records, coins).sum().backward()  # type: ignore[no-untyped-call]
    norm = gradients.norms(len(batch))[slot]
    only = torch.zeros(len(batch), dtype=torch.float64)
    only[slot] = 1.0 if np.isfinite(norm) else 0.0
    return bytes(norm.tobytes() + (gradients.weighted_sum(only) + 0.0).tobytes())  # -0.0 and 0.0 are equal


@settings(max_examples=250, deadline=None)
@given(
    attack=ATTACKS,
    slots=st.lists(st.integers(0, SLOTS - 1), min_size=2, max_size=2, unique=True),
    company=st.sampled_from([0.0, 1e-3, 1.0, 1e9, 1e300]),
    hostile=st.booleans(),
)
def test_a_units_gradient_is_the_same_to_the_last_bit_in_any_slot_and_in_any_company(
    attack: Attack, slots: list[int], company: float, hostile: bool
) -> None:
    rng = np.random.default_rng(attack.seed + 2)
    others = rng.choice(VALUES, (SLOTS, WIDTH)) if hostile else company * rng.normal(size=(SLOTS, WIDTH))
    alone = one_unit(attack, slots[0], np.zeros((SLOTS, WIDTH)))
    assert one_unit(attack, slots[1], others) == alone


@pytest.mark.parametrize("slots", [64, 128, 512])
def test_a_unit_of_a_wide_layer_is_the_same_to_the_last_bit_in_a_batch_of_any_size_and_any_slot_of_it(
    slots: int,
) -> None:
    attack = Attack("wide Linear", 3, 1.0, hostile_weights=True, hostile_records=False, copies=False, clip_norm=1.0)
    rng = np.random.default_rng(7)
    seen = {one_unit(attack, slot, rng.normal(size=(slots, WIDTH))) for slot in (0, 1, slots // 2 + 1, slots - 1)}
    assert len(seen) == 1


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_layer_whose_records_cannot_be_told_apart_is_refused(name: str) -> None:
    build = REFUSED[name]
    payload = {f"p{place}": np.ones(shape, dtype=np.float32) for place, shape in enumerate(shapes(build))}
    with pytest.raises((UnsupportedMechanism, NotImplementedError, RuntimeError, ValueError)):
        clipped_sum(Plugin(build), kind_of(build), payload, np.ones((3, WIDTH)))
