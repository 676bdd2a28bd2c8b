"""For each check of the conformance kit a model that breaks its promise, and no other."""

import dataclasses
import logging
import random
import socket
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from synthfed.plugins.api import Ask
from synthfed.protocols.schema import Strict
from synthfed.protocols.sums import Sum

from .toy_model import Options, Toy, ToyAtSite, ToyTrainer

KEPT: dict[str, Any] = {}
"""What a wrong model keeps in its code."""


def model(**members: Any) -> type:
    return type("Wrong", (Toy,), {"__doc__": "A toy with a fault.", "__module__": __name__} | members)


def at_site(**members: Any) -> type:
    return model(at_site=type("WrongAtSite", (ToyAtSite,), {"__module__": __name__} | members))


def at_coordinator(**members: Any) -> type:
    return model(at_coordinator=type("WrongTrainer", (ToyTrainer,), {"__module__": __name__} | members))


class Loose(BaseModel):
    """Options that take anything.

    rate: learning rate.
    """

    rate: float = 0.1


class Bare(Strict):
    """Options one must set.

    rate: learning rate.
    """

    rate: float


class Silent(Strict):
    """Options nobody describes."""

    rate: float = 0.1


def score_with(**changes: Any) -> Callable[[Any], tuple[Sum, ...]]:
    def sums(self: Any) -> tuple[Sum, ...]:
        counts, score = Toy.sums(self)
        return (counts, dataclasses.replace(score, **changes))

    return sums


def counts_with(**changes: Any) -> Callable[[Any], tuple[Sum, ...]]:
    def sums(self: Any) -> tuple[Sum, ...]:
        counts, score = Toy.sums(self)
        return (dataclasses.replace(counts, **changes), score)

    return sums


def set_up(also: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def __init__(self: Any, study: Any) -> None:  # noqa: N807
        also(self, study)
        Toy.__init__(self, study)

    return __init__


def take_any_option(self: Any, study: Any) -> None:
    for name in set(study.model.options) - set(Options.model_fields):
        del study.model.options[name]


def crash_on_arrays(self: Any, study: Any) -> None:
    if any(column.kind == "array" for column in study.columns):
        raise ValueError("no arrays")


def toss(self: Any, study: Any) -> None:
    torch.rand(1)


def one_more_condition(self: Any, study: Any) -> None:
    Toy.__init__(self, study)
    self.conditions = (*self.conditions, "no such column")


def drifting_sums(self: Any) -> tuple[Sum, ...]:
    counts, score = Toy.sums(self)
    return (counts, dataclasses.replace(score, clip_norm=random.SystemRandom().uniform(0.5, 2)))


DECLARATIONS: list[tuple[str, type]] = [
    ("class-is-documented", model(__doc__=None)),
    ("options-are-strict", model(Options=Loose)),
    ("options-have-defaults", model(Options=Bare)),
    ("options-are-described", model(Options=Silent)),
    ("a-wrong-option-is-refused", model(__init__=set_up(take_any_option))),
    ("unfit-columns-are-refused", model(__init__=set_up(crash_on_arrays))),
    ("sums-are-declared", model(sums=lambda self: list(Toy.sums(self)))),
    ("shares-are-whole", model(sums=score_with(share=0.9))),
    ("declaration-is-the-same-everywhere", model(sums=drifting_sums)),
    ("a-plan-exists", model(sums=counts_with(clip_norm=1e300))),
    ("conditions-are-categories", model(__init__=one_more_condition)),
    (
        "parameters-are-those-of-the-contract",
        at_coordinator(walk=lambda self, walks, steps, key: ToyTrainer.walk(self, walks, steps, key)),
    ),
    ("modules-match-their-sums", model(sums=score_with(dim=5))),
    ("making-leaves-randomness-alone", model(__init__=set_up(toss))),
]


def encoding(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> type:
    return at_site(encode=lambda self, records: change(records, ToyAtSite.encode(self, records)))


def encode_by_calls(self: Any, records: np.ndarray) -> np.ndarray:
    """Return another scale from the third call of one private part on."""
    self.calls = getattr(self, "calls", 0) + 1
    encoded = ToyAtSite.encode(self, records)
    return encoded * (0.9 if self.calls in (3,) and len(records) > 1 else 1.0)


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
    ("encoding-leaves-records-alone", encoding(write_into)),
]


def statistic(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> type:
    return at_site(
        statistic=lambda self, name, batch, payload: change(batch, ToyAtSite.statistic(self, name, batch, payload))
    )


def clear(batch: np.ndarray, rows: np.ndarray) -> np.ndarray:
    batch[:] = 0.0
    return rows


STATISTICS: list[tuple[str, type]] = [
    ("statistic-has-one-row-a-record", statistic(lambda batch, rows: rows[:, :3])),
    ("statistic-of-a-unit-is-its-own", statistic(lambda batch, rows: rows - 0.1 * rows.mean(0))),
    ("statistic-repeats", statistic(lambda batch, rows: rows * random.SystemRandom().uniform(0.9, 1.0))),
    ("statistic-leaves-its-input-alone", statistic(clear)),
    ("statistic-fits-its-bound", statistic(lambda batch, rows: rows * 5)),
]


class Blind(nn.Module):
    """A score that reaches no parameter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.unused = nn.Linear(width, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.unused(batch) * 0.0


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


def loss_by(change: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> type:
    def loss(self: Any, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        return change(ToyAtSite.loss(self, name, module, batch, coins), batch, coins)

    return at_site(loss=loss)


def mixing(losses: torch.Tensor, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return losses * batch.detach().sum(1).mean()


def of_others(losses: torch.Tensor, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return losses * (1 + coins[1:, 0].mean())


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
    ("gradient-repeats", loss_by(lambda losses, batch, coins: losses * random.SystemRandom().uniform(1e-3, 2e-3))),
    ("coins-are-per-unit", loss_by(of_others)),
    ("gradients-are-not-all-zero", module_of(Blind)),
]


def keep_in_self(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    self.last = batch[-1].copy()
    return ToyAtSite.statistic(self, name, batch, payload)


def keep_in_code(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    KEPT["last"] = batch[-1].copy()
    return ToyAtSite.statistic(self, name, batch, payload)


def connect(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    with socket.socket() as away:
        away.bind(("127.0.0.1", 0))
    return ToyAtSite.statistic(self, name, batch, payload)


def log(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    logging.getLogger("toy").warning("%s records", len(batch))
    return ToyAtSite.statistic(self, name, batch, payload)


KEEPING: list[tuple[str, type]] = [
    ("private-part-keeps-nothing", at_site(statistic=keep_in_self)),
    ("code-keeps-nothing", at_site(statistic=keep_in_code)),
    ("private-part-opens-nothing", at_site(statistic=connect)),
    ("private-part-says-nothing", at_site(statistic=log)),
]


def trainer(**members: Any) -> type:
    return at_coordinator(**members)


def never_asks_for_scores(self: Any, remaining: Mapping[str, int]) -> Ask | None:
    return Ask("counts", {}) if remaining.get("counts", 0) > 0 else None


def asks_in_doubles(self: Any, remaining: Mapping[str, int]) -> Ask | None:
    ask = ToyTrainer.ask(self, remaining)
    return ask and Ask(ask.sum, {name: array.astype(np.float64) for name, array in ask.payload.items()})


def receive_then(change: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def receive(self: Any, answer: Any) -> None:
        ToyTrainer.receive(self, answer)
        change(self, answer)

    return receive


def stray(self: Any, answer: Any) -> None:
    self.weights = self.weights + np.array([random.SystemRandom().uniform(0, 1e-9)])


def draw_globally(self: Any, answer: Any) -> None:
    np.random.random()


def divide(self: Any, answer: Any) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        self.counts = self.counts / (0.0 if np.abs(answer.total).max() > 2e3 else 1.0)


def need_three(self: Any, answer: Any) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        self.counts = self.counts / (0.0 if answer.sites < 3 else 1.0)


def write_into_answer(self: Any, answer: Any) -> None:
    answer.total[:] = 0.0


def fail_without_counts(self: Any, rows: int, seed: int, given: Any) -> np.ndarray:
    drawn = ToyTrainer.sample(self, rows, seed, given)
    return drawn[:1] if not self.counts.any() else drawn


def state_with(change: Callable[[Any, dict[str, Any]], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    return lambda self: change(self, ToyTrainer.state(self))


def load_anything(self: Any, state: Mapping[str, Any]) -> None:
    self.counts = state.get("counts", self.counts)
    self.weights = state.get("weights", self.weights)
    self.steps = int(state["steps"][0]) if "steps" in state else 0


def overlap_moves(self: Any) -> None:
    self.weights = self.weights * 0.999


def forget(self: Any, answer: Any) -> None:
    """Move the weights by how many answers this process has seen, which no checkpoint holds."""
    self.seen = getattr(self, "seen", 0) + 1
    self.weights = self.weights * (1 - 1e-3 * self.seen)


TRAINING: list[tuple[str, type]] = [
    ("trains-to-the-end", trainer(ask=never_asks_for_scores)),
    ("payload-is-as-declared", trainer(ask=asks_in_doubles)),
    ("a-seed-fixes-the-training", trainer(receive=receive_then(stray))),
    ("another-seed-starts-elsewhere", trainer(__init__=lambda self, model, seed: ToyTrainer.__init__(self, model, 0))),
    ("training-leaves-randomness-alone", trainer(receive=receive_then(draw_globally))),
    (
        "checkpoint-is-plain-arrays",
        trainer(state=state_with(lambda self, state: state | {"note": np.array(["text"])})),
    ),
    (
        "checkpoint-is-a-copy",
        trainer(
            state=lambda self: {**ToyTrainer.state(self), "counts": self.counts},
            receive=lambda self, answer: in_place(self, answer),
        ),
    ),
    ("training-goes-on-from-a-checkpoint", trainer(receive=receive_then(forget))),
    ("a-wrong-checkpoint-is-refused", trainer(load=load_anything)),
    ("lost-rounds-are-survived", trainer(sample=fail_without_counts)),
    ("great-noise-is-survived", trainer(receive=receive_then(divide))),
    ("fewer-sites-are-survived", trainer(receive=receive_then(need_three))),
    ("overlap-is-optional", trainer(overlap=overlap_moves)),
    ("answers-are-left-alone", trainer(receive=receive_then(write_into_answer))),
    ("progress-is-numbers", trainer(progress=lambda self: {"loss": float("nan")})),
]


def in_place(self: Any, answer: Any) -> None:
    if answer.sum == "counts":
        self.counts += answer.total / answer.sites
    else:
        ToyTrainer.receive(self, answer)


def sampling(change: Callable[..., np.ndarray]) -> type:
    return trainer(
        sample=lambda self, rows, seed, given: change(self, ToyTrainer.sample(self, rows, seed, given), seed, given)
    )


def drifting_draw(self: Any, drawn: np.ndarray, seed: int, given: Any) -> np.ndarray:
    return np.roll(drawn, random.SystemRandom().randrange(1, 100), axis=0) if len(drawn) > 1 else drawn


def stuck(self: Any, rows: int, seed: int, given: Any) -> np.ndarray:
    return ToyTrainer.sample(self, rows, 0, given)


def draw_with_global(self: Any, drawn: np.ndarray, seed: int, given: Any) -> np.ndarray:
    random.random()
    return drawn


def ignore_conditions(self: Any, rows: int, seed: int, given: Any) -> np.ndarray:
    return ToyTrainer.sample(self, rows, seed, {})


def learn_nothing(self: Any, answer: Any) -> None:
    if answer.sum == "counts":
        self.counts = self.counts * 0.0
        self.counts[0] = 1.0


SAMPLING: list[tuple[str, type]] = [
    ("samples-have-the-shape", sampling(lambda self, drawn, seed, given: drawn[:, :-1])),
    ("samples-fit-the-schema", sampling(lambda self, drawn, seed, given: drawn + 1000.0 * (not given))),
    ("a-seed-fixes-the-samples", sampling(drifting_draw)),
    ("another-seed-gives-other-samples", trainer(sample=stuck)),
    ("sampling-changes-nothing", sampling(draw_with_global)),
    ("conditions-hold", trainer(sample=ignore_conditions)),
    ("walks-have-the-shape", trainer(walk=lambda self, walks, steps, seed: ToyTrainer.walk(self, walks, 1, seed))),
    ("training-learns", trainer(receive=receive_then(learn_nothing))),
]

ALL = [*DECLARATIONS, *ENCODINGS, *STATISTICS, *GRADIENTS, *KEEPING, *TRAINING, *SAMPLING]
