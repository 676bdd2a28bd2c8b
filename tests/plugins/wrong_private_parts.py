"""For each check of a private part's encoding, statistics and gradients a model that breaks it alone."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from synthfed.plugins.api import Ask

from .toy_model import ToyAtSite, ToyTrainer
from .wrong_models import at_site, counts_with, model


def encoding(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> type:
    return at_site(encode=lambda self, records: change(records, ToyAtSite.encode(self, records)))


def encode_by_the_widest_so_far(self: Any, records: np.ndarray) -> np.ndarray:
    self.most = max(getattr(self, "most", 0.0), float(np.abs(np.nan_to_num(records[:, :1])).max(initial=0.0)))
    return ToyAtSite.encode(self, records) * (0.9 if self.most > 1e9 else 1.0)


def encode_strange_ones_as_sevens(self: Any, records: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(records).any(1)[:, None], 7.0, ToyAtSite.encode(self, records))


def write_into(records: np.ndarray, encoded: np.ndarray) -> np.ndarray:
    records[:, -1] = 0.0
    return encoded


ENCODINGS: list[tuple[str, type]] = [
    ("encoding-has-one-vector-a-record", encoding(lambda records, encoded: encoded.astype(np.float32))),
    ("encoding-is-row-by-row", encoding(lambda records, encoded: encoded * (1 - 1e-6 * len(records)))),
    (
        "encoding-is-total",
        encoding(lambda records, encoded: np.where(np.isinf(records).any(1)[:, None], np.nan, encoded)),
    ),
    ("encoding-is-by-the-schema", at_site(encode=encode_by_the_widest_so_far)),
    ("encoding-leaves-records-alone", encoding(write_into)),
]


def statistic(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> type:
    return at_site(
        statistic=lambda self, name, batch, payload: change(batch, ToyAtSite.statistic(self, name, batch, payload))
    )


def clear(batch: np.ndarray, rows: np.ndarray) -> np.ndarray:
    batch[:] = 0.0
    return rows


def draw_by_a_fixed_seed(batch: np.ndarray, rows: np.ndarray) -> np.ndarray:
    np.random.seed(3)
    return rows * np.random.uniform(0.9, 1.0)


def mean_of_real_ones(batch: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return rows * min(1.0, 4 / max(1, int(batch.any(1).sum())))


def divide_by_how_many(batch: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return rows * min(1, 1000 // int(batch.any(1).sum()))


def write_into_payload(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    if payload:
        payload["hint"][:] = 0.0
    return ToyAtSite.statistic(self, name, batch, payload)


def ask_with_a_hint(self: Any, remaining: Mapping[str, int]) -> Ask | None:
    ask = ToyTrainer.ask(self, remaining)
    return Ask("counts", {"hint": np.ones(2, dtype=np.float32)}) if ask and ask.sum == "counts" else ask


STATISTICS: list[tuple[str, type]] = [
    ("statistic-has-one-row-a-record", statistic(lambda batch, rows: rows[:, :3])),
    ("statistic-of-a-unit-is-its-own", statistic(lambda batch, rows: rows - 0.1 * rows.mean(0))),
    ("statistic-repeats", statistic(lambda batch, rows: rows * random.SystemRandom().uniform(0.9, 1.0))),
    ("statistic-draws-nothing", statistic(draw_by_a_fixed_seed)),
    (
        "statistic-is-total",
        at_site(
            encode=encode_strange_ones_as_sevens,
            statistic=lambda self, name, batch, payload: (
                ToyAtSite.statistic(self, name, batch, payload) * (0.5 if (batch == 7.0).any() else 1.0)
            ),
        ),
    ),
    ("statistic-leaves-its-input-alone", statistic(clear)),
    (
        "statistic-leaves-its-input-alone",
        model(
            sums=counts_with(payload=(("hint", (2,)),)),
            at_site=type("WrongAtSite", (ToyAtSite,), {"statistic": write_into_payload}),
            at_coordinator=type("WrongTrainer", (ToyTrainer,), {"ask": ask_with_a_hint}),
        ),
    ),
    ("empty-sample-is-survived", statistic(divide_by_how_many)),
    ("one-unit-adds-its-own-and-no-more", statistic(mean_of_real_ones)),
    ("statistic-fits-its-bound", statistic(lambda batch, rows: rows * 5)),
]


class Blind(nn.Module):
    """A score that reaches no parameter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.unused = nn.Linear(width, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        blind: torch.Tensor = self.unused(batch) * 0.0
        return blind


class Growing(nn.Module):
    """A score that counts how often it was asked."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score, self.calls = nn.Linear(width, 1), 0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.score(batch)  # type: ignore[no-any-return]


class Made(nn.Module):
    """A score with a number drawn when it was made."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)
        self.tanh = nn.Tanh()
        self.tanh.register_buffer("drawn", torch.tensor(random.SystemRandom().random()))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.score(batch)  # type: ignore[no-any-return]


def module_of(build: Callable[[int], nn.Module]) -> type:
    def module(self: Any, name: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return build(self.encoder.width)

    return at_site(module=module)


def frozen_normalisation(width: int) -> nn.Module:
    norm = nn.BatchNorm1d(width, affine=False, track_running_stats=False)
    return nn.Sequential(norm, nn.Linear(width, 3), nn.Tanh(), nn.Linear(3, 1))


class Turned(nn.Module):
    """A score whose second layer meets the records in the opposite order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, 3), nn.Linear(3, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(batch).tanh().flip(0)).flip(0)
        return result


def with_a_weight_beside_its_layer(
    self: Any, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor
) -> torch.Tensor:
    return ToyAtSite.loss(self, name, module, batch, coins) + next(module.parameters()).square().sum()


Change = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def changed_loss(change: Change) -> Callable[..., torch.Tensor]:
    def loss(self: Any, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        return change(ToyAtSite.loss(self, name, module, batch, coins), batch, coins)

    return loss


def loss_by(change: Change) -> type:
    return at_site(loss=changed_loss(change))


def mixing(losses: torch.Tensor, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return losses * batch.detach().sum(1).mean()


def plus_a_mean(losses: torch.Tensor, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return losses + 1e-12 * losses.mean()


def of_others(losses: torch.Tensor, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return losses * (1 + coins[1:, 0].mean())


def scaled_beside_sevens(losses: torch.Tensor, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return losses * (0.001 if bool((batch == 7.0).any()) else 1.0)


GRADIENTS: list[tuple[str, type]] = [
    (
        "module-is-valid",
        module_of(lambda width: nn.Sequential(nn.Linear(width, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))),
    ),
    ("modules-are-alike", module_of(Made)),
    ("loss-has-one-number-a-record", loss_by(lambda losses, batch, coins: losses.mean())),
    ("loss-draws-nothing", loss_by(lambda losses, batch, coins: losses * torch.rand(()))),
    ("core-accepts-every-gradient", module_of(Growing)),
    ("gradient-of-a-unit-is-its-own", loss_by(mixing)),
    ("gradient-is-that-of-its-loss", module_of(Turned)),
    ("gradient-is-that-of-its-loss", at_site(loss=with_a_weight_beside_its_layer)),
    ("gradient-of-a-unit-is-its-own", loss_by(plus_a_mean)),
    ("module-is-valid", module_of(frozen_normalisation)),
    (
        "gradient-is-total",
        at_site(encode=encode_strange_ones_as_sevens, loss=changed_loss(scaled_beside_sevens)),
    ),
    ("gradient-repeats", loss_by(lambda losses, batch, coins: losses * random.SystemRandom().uniform(1e-3, 2e-3))),
    ("coins-are-per-unit", loss_by(of_others)),
    ("gradients-are-not-all-zero", module_of(Blind)),
]
