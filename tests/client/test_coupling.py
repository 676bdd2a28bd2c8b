"""Losses, statistics and encodings in which one record acts on another, found before a record is near."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.gan_studies import FAMILIES, make
from torch import nn

from synthfed.client.rehearsal import check_moves_apart, check_rows, check_uncoupled
from synthfed.client.train import clipped_sum, module_faults
from synthfed.plugins.api import Array, Payload
from synthfed.plugins.registry import installed
from synthfed.plugins.testing.cases import Case, cases
from synthfed.protocols.errors import ConfigError, UnsupportedMechanism
from synthfed.protocols.schema import Categorical, Column, Real, Records
from synthfed.protocols.sums import Kind, Sum

WIDTH = 6
Build = Callable[[], nn.Module]
Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def squared(module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    losses: torch.Tensor = module(batch).flatten(1).square().sum(1)
    return losses


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, 1))


class Plugin:
    """A private part made of a module and a loss."""

    def __init__(self, build: Build = dense, loss: Loss = squared) -> None:
        self._build, self._loss = build, loss

    def encode(self, records: Records) -> Array:
        return records

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        return batch

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        return self._build()

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return self._loss(module, batch, coins)


def sum_of(build: Build) -> Sum:
    module = build()
    dim = sum(each.numel() for each in module.parameters() if each.requires_grad)
    payload = tuple((name, tuple(each.shape)) for name, each in module.named_parameters())
    return Sum("g", "gradient", dim, 1.0, 0.5, 1, 1.0, payload, 2)


def normalised(layer: Callable[[], nn.Module], *, is_frozen: bool) -> Build:
    def build() -> nn.Module:
        middle = layer()
        return nn.Sequential(nn.Linear(WIDTH, 4), middle.requires_grad_(not is_frozen), nn.Linear(4, 1))

    return build


class OverSeries(nn.Module):
    """Instance normalisation of each record's four numbers as a series."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(2, **options)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.norm(batch.view(-1, 2, 2)).flatten(1)
        return result


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "running": lambda: nn.BatchNorm1d(4),
    "of the batch": lambda: nn.BatchNorm1d(4, track_running_stats=False),
    "without weights": lambda: nn.BatchNorm1d(4, affine=False, track_running_stats=False),
    "synchronised": lambda: nn.SyncBatchNorm(4),
    "instances with a memory": lambda: OverSeries(affine=True, track_running_stats=True),
}


@pytest.mark.parametrize("is_frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_layer_over_the_batch_is_refused_whether_it_is_trained_or_frozen(
    layer: Callable[[], nn.Module], is_frozen: bool
) -> None:
    build = normalised(layer, is_frozen=is_frozen)
    each, rng = sum_of(build), np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in each.payload}
    kind = Kind(each, 1.0, 64, 32)
    with pytest.raises(UnsupportedMechanism, match=r"'g' normalises over the batch in 1.*Norm"):
        clipped_sum(Plugin(build), kind, weights, rng.normal(size=(5, WIDTH)), rng.random((64, 2)))
    with pytest.raises(UnsupportedMechanism, match="normalises over the batch"):
        check_uncoupled(Plugin(build), each, WIDTH)
    assert any("normalises over the batch, also when it is frozen" in fault for fault in module_faults(build()))


@pytest.mark.parametrize(
    "layer", [lambda: nn.GroupNorm(2, 4), lambda: nn.LayerNorm(4), OverSeries], ids=["group", "layer", "instance"]
)
def test_a_norm_within_one_record_is_served(layer: Callable[[], nn.Module]) -> None:
    build = normalised(layer, is_frozen=False)
    check_uncoupled(Plugin(build), sum_of(build), WIDTH)
    assert module_faults(build()) == []


def less_the_mean(module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    losses = squared(module, batch, coins)
    return losses - 0.5 * losses.mean()


def over_the_deviation(module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return squared(module, (batch - batch.mean(0)) / batch.std(0), coins)


def times_a_detached_mean(module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return squared(module, batch, coins) * batch.detach().mean()


def of_a_neighbour(module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return squared(module, batch.roll(1, 0) + batch, coins)


def by_others_coins(module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return squared(module, batch, coins) * coins.mean()


def in_a_functional_norm(module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return squared(module, nn.functional.batch_norm(batch, None, None, training=True), coins)


COUPLED: list[Loss] = [
    less_the_mean,
    over_the_deviation,
    times_a_detached_mean,
    of_a_neighbour,
    by_others_coins,
    in_a_functional_norm,
]


@pytest.mark.parametrize("loss", COUPLED, ids=lambda loss: loss.__name__)
def test_a_loss_in_which_one_record_acts_on_another_is_refused(loss: Loss) -> None:
    with pytest.raises(UnsupportedMechanism, match="'g' for one record depends on the other records"):
        check_uncoupled(Plugin(dense, loss), sum_of(dense), WIDTH)


def blurred(module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return squared(module, batch * coins[:, :1], coins) + coins[:, 1]


@pytest.mark.parametrize("loss", [squared, blurred, lambda m, b, c: squared(m, b.detach(), c)])
def test_a_loss_of_each_record_alone_is_served(loss: Loss) -> None:
    check_uncoupled(Plugin(dense, loss), sum_of(dense), WIDTH)


class Turned(nn.Module):
    """Two layers, of which the second meets the records in the opposite order; the scores are put back in theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 4), nn.Linear(4, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(batch).tanh().flip(0)).flip(0)
        return result


def test_a_module_whose_layers_meet_the_records_in_different_orders_is_refused() -> None:
    with pytest.raises(UnsupportedMechanism, match="the gradient of 'g' that is taken for a record is not that of"):
        check_uncoupled(Plugin(Turned), sum_of(Turned), WIDTH)


def with_a_weight_beside_its_layer(module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return squared(module, batch, coins) + next(module.parameters()).square().sum()


def test_a_loss_that_uses_a_weight_beside_its_layer_is_refused() -> None:
    with pytest.raises(UnsupportedMechanism, match="use every parameter through its layer alone"):
        check_uncoupled(Plugin(dense, with_a_weight_beside_its_layer), sum_of(dense), WIDTH)


Rows = Callable[[Array], Array]
COLUMNS: tuple[Column, ...] = (
    *(Real(name=f"x{i}", lower=-3.0, upper=5.0, missing=True) for i in range(WIDTH - 1)),
    Categorical(name="label", values=("a", "b", "c")),
)
STATISTIC = Sum("s", "statistic", WIDTH, 1.0, 0.5, 1, 1.0)


class OfRows(Plugin):
    """A private part made of an encoding and a statistic."""

    def __init__(self, encode: Rows = np.nan_to_num, statistic: Rows = np.copy) -> None:
        super().__init__()
        self._encode, self._statistic = encode, statistic

    def encode(self, records: Records) -> Array:
        return self._encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        return self._statistic(batch)


def filled_with_the_mean(rows: Array) -> Array:
    return np.where(np.isnan(rows), np.nanmean(rows, axis=0), rows)


def standardised(rows: Array) -> Array:
    known = np.nan_to_num(rows)
    return np.asarray((known - known.mean(0)) / known.std(0))


def over_the_largest(rows: Array) -> Array:
    known = np.nan_to_num(rows)
    return np.asarray(known / np.abs(known).max())


def summed_up(rows: Array) -> Array:
    return np.asarray(np.nan_to_num(rows).cumsum(0))


def ranked(rows: Array) -> Array:
    return np.nan_to_num(rows).argsort(0).argsort(0).astype(np.float64)


def blurred_by_chance(rows: Array) -> Array:
    return np.nan_to_num(rows) + np.random.default_rng().normal(size=rows.shape)


def normed_by_torch(rows: Array) -> Array:
    return nn.functional.batch_norm(torch.from_numpy(np.nan_to_num(rows)), None, None, training=True).numpy()


MIXING: list[Rows] = [
    filled_with_the_mean,
    standardised,
    over_the_largest,
    summed_up,
    ranked,
    blurred_by_chance,
    normed_by_torch,
]


@pytest.mark.parametrize("mixing", MIXING, ids=lambda mixing: mixing.__name__)
def test_an_encoding_that_depends_on_other_records_is_refused(mixing: Rows) -> None:
    with pytest.raises(UnsupportedMechanism, match=r"the encoding gives for one record .* on other records"):
        check_rows(OfRows(encode=mixing), [STATISTIC], COLUMNS)


@pytest.mark.parametrize("mixing", MIXING[1:], ids=lambda mixing: mixing.__name__)
def test_a_statistic_that_depends_on_other_records_is_refused(mixing: Rows) -> None:
    with pytest.raises(UnsupportedMechanism, match=r"statistic 's' gives for one record .* on other records"):
        check_rows(OfRows(statistic=mixing), [STATISTIC], COLUMNS)


def test_a_statistic_of_another_shape_than_declared_is_refused() -> None:
    with pytest.raises(UnsupportedMechanism, match=r"statistic 's' has shape \(64, 1\), declared \(64, 6\)"):
        check_rows(OfRows(statistic=lambda rows: rows[:, :1]), [STATISTIC], COLUMNS)


def test_encoding_and_statistics_of_each_record_alone_are_served() -> None:
    check_rows(OfRows(statistic=lambda rows: np.tanh(rows) / 3), [STATISTIC], COLUMNS)


MODELS = {plugin.name: plugin for plugin in installed("synthfed.models")}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_that_comes_with_synthfed_keeps_records_apart(name: str, case: Case) -> None:
    try:
        model = MODELS[name].make(case.study({}))
    except ConfigError as error:
        pytest.skip(str(error))
    private = model.private()
    width = private.encode(np.zeros((1, case.width))).shape[1]
    for each in model.sums():
        if each.family == "gradient":
            check_uncoupled(private, each, width)
    check_rows(private, [each for each in model.sums() if each.family == "statistic"], case.columns)


# Between two steps.


class Keeper(Plugin):
    """A loss and a local part in one object, which may keep something of a batch for the move that follows it."""

    def __init__(self, part: float) -> None:
        super().__init__(dense, self._kept)
        self._part, self._last = part, torch.zeros(WIDTH)

    def _kept(self, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        self._last = batch.detach()[0].clone()
        return squared(module, batch, coins)

    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:  # noqa: ARG002
        change = np.float32(noised.sum() + self._part * float(self._last.sum()))
        return {name: array - change for name, array in payload.items()}


class Tossing(Keeper):
    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:
        return super().advance(name, payload, noised + float(torch.rand(1)), step)


@pytest.mark.parametrize("plugin", [Keeper(0.01), Tossing(0.0)], ids=["a record", "chance"])
def test_weights_that_move_by_a_record_met_before_or_by_chance_are_refused(plugin: Keeper) -> None:
    with pytest.raises(UnsupportedMechanism, match="between two steps of 'g' the payload moves by more than"):
        check_moves_apart(plugin, plugin, sum_of(dense), WIDTH)


def test_weights_that_move_by_the_noised_sum_alone_are_served() -> None:
    plugin = Keeper(0.0)
    check_moves_apart(plugin, plugin, sum_of(dense), WIDTH)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"mixup": 0.3, "critic_dropout": 0.2, "spectral": 1.5}], ids=["plain", "rich"])
def test_the_gans_move_between_steps_by_their_arguments_alone(family: str, options: dict[str, Any]) -> None:
    model = make(family, local_steps=3, local_fakes=16, **options)
    critic = next(each for each in model.sums() if each.steps > 1)
    check_moves_apart(model.private(), model.local(), critic, model.encoded_width)
