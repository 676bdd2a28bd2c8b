"""Clipped sums: equal to a slow oracle, bounded under every payload, and blind to who else is in the batch."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from synthfed.client.train import LARGEST_WEIGHT, _UnitGradients, clipped_sum, read_payload
from synthfed.plugins.api import Array, Payload, Records
from synthfed.protocols.errors import RemoteProtocolError, UnsupportedMechanism
from synthfed.protocols.sums import Kind, Sum

Build = Callable[[], nn.Module]
Loss = Callable[[nn.Module, torch.Tensor], torch.Tensor]

WIDTH = 6
SLACK = 1 + 1e-9


def squared(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    losses: torch.Tensor = module(batch).flatten(1).square().sum(1)
    return losses


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.LeakyReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2))


def no_bias() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False))


def group_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.GroupNorm(2, 8), nn.LeakyReLU(), nn.Linear(8, 1))


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))


def convolution() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 2), nn.LeakyReLU(), nn.Flatten(), nn.Linear(8, 1))


def image() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 3, (2, 2)), nn.Tanh(), nn.Flatten(), nn.Linear(6, 1))


def sequence() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


NETWORKS: Sequence[Build] = [mlp, no_bias, group_norm, layer_norm, convolution, image, sequence]
NAMES = [build.__name__ for build in NETWORKS]


class Plugin:
    """A private part made of a module and a loss, or of a statistic; it notes how many rows it was given."""

    def __init__(
        self,
        build: Build = mlp,
        loss: Loss = squared,
        statistic: Callable[[Array], Array] = np.asarray,
    ) -> None:
        self._build, self._loss, self._statistic = build, loss, statistic
        self.rows: list[int] = []

    def encode(self, records: Records) -> Array:
        return records

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        self.rows.append(len(batch))
        return self._statistic(batch)

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        return self._build()

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.rows.append(len(batch))
        return self._loss(module, batch)


def shapes(build: Build) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in build().parameters()]


def gradient(build: Build, clip_norm: float = 1.0, slots: int = 64, dim: int | None = None) -> Kind:
    declared = tuple((f"p{i}", shape) for i, shape in enumerate(shapes(build)))
    dim = dim or sum(int(np.prod(shape)) for _, shape in declared)
    return Kind(Sum("g", "gradient", dim, clip_norm, 0.5, 1, 1.0, declared), 1.0, slots, 32)


def statistic(dim: int, clip_norm: float = 1.0, slots: int = 64) -> Kind:
    return Kind(Sum("s", "statistic", dim, clip_norm, 0.5, 1, 1.0), 1.0, slots, 32)


def payload(build: Build, rng: np.random.Generator, scale: float = 1.0) -> Payload:
    return {f"p{i}": rng.normal(0, scale, shape).astype(np.float32) for i, shape in enumerate(shapes(build))}


def loaded(build: Build, weights: Payload) -> nn.Module:
    module = build().double()
    with torch.no_grad():
        for parameter, array in zip(module.parameters(), weights.values(), strict=True):
            parameter.copy_(torch.from_numpy(array.astype(np.float64)))
    return module


def oracle(build: Build, weights: Payload, clip_norm: float, batch: Array) -> Array:
    """One unit after the other, by plain autograd."""
    module = loaded(build, weights)
    total = np.zeros(sum(parameter.numel() for parameter in module.parameters()))
    for row in batch:
        module.zero_grad()
        squared(module, torch.from_numpy(row[None])).sum().backward()  # type: ignore[no-untyped-call]
        one = np.concatenate([p.grad.numpy().ravel() for p in module.parameters() if p.grad is not None])
        total += one * min(1.0, clip_norm / max(float(np.linalg.norm(one)), 1e-300))
    return total


@pytest.mark.parametrize("build", NETWORKS, ids=NAMES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clip_norm", [0.1, 3.0, 1e6])
def test_the_sum_of_clipped_gradients_equals_a_slow_oracle(build: Build, seed: int, clip_norm: float) -> None:
    rng = np.random.default_rng(seed)
    weights, batch = payload(build, rng), rng.normal(size=(1 + 20 * seed, WIDTH))
    fast = clipped_sum(Plugin(build), gradient(build, clip_norm), weights, batch)
    slow = oracle(build, weights, clip_norm, batch)
    assert np.abs(fast - slow).max() <= 1e-10 * max(1.0, float(np.abs(slow).max()))


@pytest.mark.parametrize("build", [mlp, convolution], ids=["mlp", "convolution"])
def test_more_slots_than_are_computed_at_once_give_the_same_sum(build: Build) -> None:
    rng = np.random.default_rng(5)
    weights, batch = payload(build, rng), rng.normal(size=(700, WIDTH))
    plugin = Plugin(build)
    fast = clipped_sum(plugin, gradient(build, slots=1088), weights, batch)
    assert plugin.rows == [512, 512, 64]
    assert np.abs(fast - oracle(build, weights, 1.0, batch)).max() <= 1e-10


@pytest.mark.parametrize("family", ["gradient", "statistic"])
def test_subnormal_numbers_are_zero_while_a_plugin_sees_records(family: str) -> None:
    """Arithmetic on them is many times slower, so weights could make records show in a step's time."""
    left: list[float] = []

    def look() -> None:
        left.append(float(np.multiply(np.array([1e-200]), 1e-110)[0]))
        left.append(float(torch.tensor([1e-200], dtype=torch.float64).mul(1e-110)))

    def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        look()
        return squared(module, batch)

    def count(batch: Array) -> Array:
        look()
        return batch

    kind = gradient(mlp) if family == "gradient" else statistic(WIDTH)
    clipped_sum(Plugin(mlp, loss, count), kind, payload(mlp, np.random.default_rng(0)), np.ones((3, WIDTH)))
    assert left == [0.0, 0.0]
    look()
    assert left[2:] == [1e-310, 1e-310]  # and only then


@pytest.mark.parametrize("size", [0, 1, 63, 64])
@pytest.mark.parametrize("family", ["gradient", "statistic"])
def test_the_plugin_sees_every_slot_whatever_the_batch_holds(family: str, size: int) -> None:
    plugin, batch = Plugin(), np.ones((size, WIDTH))
    kind = gradient(mlp) if family == "gradient" else statistic(WIDTH)
    clipped_sum(plugin, kind, payload(mlp, np.random.default_rng(0)), batch)
    assert plugin.rows == [64]


@pytest.mark.parametrize("build", NETWORKS, ids=NAMES)
@pytest.mark.parametrize("clip_norm", [1e-3, 1.0])
def test_one_units_contribution_never_exceeds_the_clip_norm(build: Build, clip_norm: float) -> None:
    rng = np.random.default_rng(1)
    for scale in (1e-3, 1.0, 1e3, LARGEST_WEIGHT / 6):
        weights = payload(build, rng, scale)
        for row in rng.normal(0, 10, size=(5, WIDTH)):
            one = clipped_sum(Plugin(build), gradient(build, clip_norm), weights, row[None])
            assert np.linalg.norm(one) <= clip_norm * SLACK


def hostile(build: Build, rng: np.random.Generator) -> Payload:
    """Weights as large, tiny, equal and opposite as a payload may hold."""
    values = [LARGEST_WEIGHT, -LARGEST_WEIGHT, 1.0, -1.0, 1e-30, -1e-30, 1e-45, 0.0]
    return {f"p{i}": rng.choice(values, shape).astype(np.float32) for i, shape in enumerate(shapes(build))}


@pytest.mark.parametrize("build", NETWORKS, ids=NAMES)
@pytest.mark.parametrize("seed", range(8))
def test_no_payload_makes_the_sum_move_by_more_than_the_clip_norm_when_one_unit_leaves(build: Build, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = hostile(build, rng)
    batch = rng.choice([0.0, 1.0, -1.0, 1e-8, 1e150, -1e150, 0.5], (12, WIDTH)) * rng.choice([1e-9, 1.0, 1e4])
    kind = gradient(build)
    whole = clipped_sum(Plugin(build), kind, weights, batch)
    assert np.isfinite(whole).all()
    for left_out in range(len(batch)):
        rest = clipped_sum(Plugin(build), kind, weights, np.delete(batch, left_out, axis=0))
        assert np.linalg.norm(whole - rest) <= SLACK


@pytest.mark.parametrize("build", NETWORKS, ids=NAMES)
def test_a_units_gradient_is_bitwise_the_same_beside_anyone_and_in_any_slot(build: Build) -> None:
    rng = np.random.default_rng(2)
    weights, row = payload(build, rng), rng.normal(size=WIDTH)
    seen: set[bytes] = set()
    for slot in (0, 1, 2, 3, 7, 8, 31, 33, 62, 63):
        for others in (np.zeros((64, WIDTH)), rng.normal(size=(64, WIDTH)), 1e9 * rng.normal(size=(64, WIDTH))):
            others[slot] = row
            gradients = _UnitGradients(loaded(build, weights).train())
            batch = torch.from_numpy(others).requires_grad_()
            squared(gradients, batch).sum().backward()  # type: ignore[no-untyped-call]
            only = torch.zeros(64, dtype=torch.float64)
            only[slot] = 1.0
            norm = gradients.norms(64)[slot]
            seen.add(norm.tobytes() + (gradients.weighted_sum(only) + 0.0).tobytes())  # -0.0 and 0.0 are equal
    assert len(seen) == 1


@pytest.mark.parametrize("build", NETWORKS, ids=NAMES)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e300])
def test_a_record_whose_gradient_is_not_finite_counts_as_zero_and_changes_no_other(build: Build, poison: float) -> None:
    rng = np.random.default_rng(3)
    weights, batch = payload(build, rng), rng.normal(size=(9, WIDTH))
    kind = gradient(build)
    clean = clipped_sum(Plugin(build), kind, weights, batch)
    dirty = np.insert(batch, 4, np.full(WIDTH, poison), axis=0)
    if not np.isfinite(poison):
        assert np.abs(clipped_sum(Plugin(build), kind, weights, dirty) - clean).max() <= 1e-12
    alone = clipped_sum(Plugin(build), kind, weights, np.full((1, WIDTH), poison))
    assert np.linalg.norm(alone) <= SLACK
    if not np.isfinite(poison):
        assert alone.tolist() == [0.0] * kind.sum.dim


@pytest.mark.parametrize("build", NETWORKS, ids=NAMES)
def test_an_empty_batch_gives_exact_zeros_whatever_padding_contributes(build: Build) -> None:
    rng = np.random.default_rng(4)
    total = clipped_sum(Plugin(build), gradient(build), payload(build, rng), np.empty((0, WIDTH)))
    assert total.tolist() == [0.0] * len(total)
    ones = clipped_sum(Plugin(statistic=np.ones_like), statistic(WIDTH), {}, np.empty((0, WIDTH)))
    assert ones.tolist() == [0.0] * WIDTH


def test_a_statistic_is_clipped_row_by_row() -> None:
    rng = np.random.default_rng(6)
    batch = rng.normal(0, 3, size=(50, WIDTH))
    norms = np.linalg.norm(batch, axis=1, keepdims=True)
    expected = (batch * np.minimum(1, 2.0 / norms)).sum(0)
    assert np.abs(clipped_sum(Plugin(), statistic(WIDTH, 2.0), {}, batch) - expected).max() <= 1e-10


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e200])
def test_a_statistic_that_is_not_finite_or_overflows_counts_as_zero(poison: float) -> None:
    batch = np.full((3, WIDTH), 0.1)
    clean = clipped_sum(Plugin(), statistic(WIDTH), {}, batch)
    batch = np.vstack([batch, np.full((1, WIDTH), 0.1)])
    batch[3, 2] = poison
    assert clipped_sum(Plugin(), statistic(WIDTH), {}, batch).tolist() == clean.tolist()


def test_a_zero_gradient_stays_zero() -> None:
    weights = {name: np.zeros_like(array) for name, array in payload(mlp, np.random.default_rng(0)).items()}
    assert not clipped_sum(Plugin(), gradient(mlp), weights, np.ones((5, WIDTH))).any()


class Twice(nn.Module):
    """Uses one layer for two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(self.layer(batch))
        return result


class Tied(nn.Module):
    """Two layers hold one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(batch))
        return result


class Counting(nn.Module):
    """Keeps a number from one batch to the next."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen += batch.sum()
        result: torch.Tensor = self.layer(batch)
        return result


class Own(nn.Module):
    """Has a parameter outside every known layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch * self.weight


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("build", [Counting, Own])
def test_a_module_with_a_memory_or_an_unknown_parameter_is_refused(build: Build) -> None:
    with pytest.raises(UnsupportedMechanism):
        clipped_sum(Plugin(build), gradient(build), payload(build, np.random.default_rng(0)), np.ones((2, WIDTH)))


@pytest.mark.parametrize("build", [Twice, Tied, batch_norm])
def test_a_shared_weight_or_a_norm_over_the_batch_is_refused(build: Build) -> None:
    with pytest.raises((UnsupportedMechanism, NotImplementedError)):
        clipped_sum(Plugin(build), gradient(build), payload(build, np.random.default_rng(0)), np.ones((2, WIDTH)))


@pytest.mark.parametrize("build", [Twice, Tied, batch_norm])
def test_opacus_refusals_become_privacy_errors_that_say_what_to_do(build: Build) -> None:
    with pytest.raises(UnsupportedMechanism):
        clipped_sum(Plugin(build), gradient(build), payload(build, np.random.default_rng(0)), np.ones((2, WIDTH)))


def test_a_loss_that_runs_the_module_twice_is_refused() -> None:
    def twice(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return squared(module, batch) + squared(module, 2 * batch)

    with pytest.raises((UnsupportedMechanism, NotImplementedError)):
        clipped_sum(Plugin(mlp, twice), gradient(mlp), payload(mlp, np.random.default_rng(0)), np.ones((2, WIDTH)))


def test_a_loss_that_is_not_one_number_per_record_is_refused() -> None:
    for wrong in (lambda m, b: m(b), lambda m, b: squared(m, b).sum(), lambda m, b: squared(m, b)[:5]):
        plugin = Plugin(mlp, wrong)
        with pytest.raises(UnsupportedMechanism, match="not one per record"):
            clipped_sum(plugin, gradient(mlp), payload(mlp, np.random.default_rng(0)), np.ones((2, WIDTH)))


@pytest.mark.parametrize("wrong", [lambda b: b[:, :2], lambda b: b[:5], lambda b: b.sum(0), lambda b: b.sum()])
def test_a_statistic_of_another_shape_than_declared_is_refused(wrong: Callable[[Array], Array]) -> None:
    with pytest.raises(UnsupportedMechanism, match=r"has shape .*, declared"):
        clipped_sum(Plugin(statistic=wrong), statistic(WIDTH), {}, np.ones((2, WIDTH)))


def test_a_payload_whose_shapes_are_not_the_modules_is_refused() -> None:
    weights = payload(mlp, np.random.default_rng(0))
    turned = {name: np.ascontiguousarray(array.T) for name, array in weights.items()}
    with pytest.raises(UnsupportedMechanism, match="shapes differ from the module's parameters"):
        clipped_sum(Plugin(), gradient(mlp), turned, np.ones((2, WIDTH)))


def test_a_payload_with_fewer_arrays_than_parameters_is_refused_as_a_privacy_error() -> None:
    weights = dict(list(payload(mlp, np.random.default_rng(0)).items())[:-1])
    with pytest.raises(UnsupportedMechanism):
        clipped_sum(Plugin(), gradient(mlp), weights, np.ones((2, WIDTH)))


def one_number() -> nn.Module:
    return nn.Linear(1, 1, bias=False)


def test_a_module_with_another_number_of_parameters_than_declared_is_refused() -> None:
    kind = gradient(one_number, dim=25)
    with pytest.raises(UnsupportedMechanism):
        clipped_sum(Plugin(one_number), kind, {"p0": np.ones((1, 1), dtype=np.float32)}, np.ones((1, 1)))


KIND = gradient(mlp)
SIZE = 4 * KIND.sum.dim


def test_a_payload_is_read_as_the_declared_arrays_in_their_order() -> None:
    data = np.arange(KIND.sum.dim, dtype="<f4").tobytes()
    arrays = read_payload(KIND, data)
    assert [(name, array.shape) for name, array in arrays.items()] == list(KIND.sum.payload)
    assert b"".join(array.tobytes() for array in arrays.values()) == data
    assert read_payload(statistic(3), b"") == {}


@pytest.mark.parametrize("size", [0, 1, 4, SIZE - 4, SIZE - 1, SIZE + 1, SIZE + 4, 2 * SIZE])
def test_a_payload_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match="wrong size"):
        read_payload(KIND, bytes(size))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 1e38, -1e38, 10_001.0, -10_001.0])
@pytest.mark.parametrize("place", [0, KIND.sum.dim - 1])
def test_a_payload_with_a_value_that_is_not_finite_or_too_large_is_refused(value: float, place: int) -> None:
    values = np.zeros(KIND.sum.dim, dtype="<f4")
    values[place] = value
    with pytest.raises(RemoteProtocolError, match="not finite or too large"):
        read_payload(KIND, values.tobytes())
    values[place] = LARGEST_WEIGHT
    assert len(read_payload(KIND, values.tobytes())) == len(KIND.sum.payload)
