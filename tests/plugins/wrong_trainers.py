"""For each check of training and sampling a model that breaks it alone."""

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from synthfed.plugins.api import Ask

from .toy_model import ToyAtSite, ToyTrainer
from .wrong_models import at_coordinator, model


def ignore_the_seed(self: Any, model: Any, seed: int) -> None:
    ToyTrainer.__init__(self, model, 0)


def stand_still(self: Any, walks: int, steps: int, seed: int) -> np.ndarray:
    return ToyTrainer.walk(self, walks, 1, seed)


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


class Weighted(ToyAtSite):
    """Weighs counts by what the model has learnt."""

    def __init__(self, encoder: Any, weight: float) -> None:
        super().__init__(encoder)
        self.weight = weight

    def statistic(self, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
        return super().statistic(name, batch, payload) * self.weight


def write_a_file(self: Any, answer: Any) -> None:
    with Path(os.devnull).open("w") as file:
        file.write("seen")


def set_printing(self: Any, answer: Any) -> None:
    np.set_printoptions(precision=3)


def teach_the_site(self: Any, answer: Any) -> None:
    self.model.weight = 0.5


TRAINING: list[tuple[str, type]] = [
    ("trains-to-the-end", at_coordinator(ask=never_asks_for_scores)),
    ("payload-is-as-declared", at_coordinator(ask=asks_in_doubles)),
    ("a-seed-fixes-the-training", at_coordinator(receive=receive_then(stray))),
    (
        "another-seed-starts-elsewhere",
        at_coordinator(__init__=ignore_the_seed),
    ),
    ("training-leaves-randomness-alone", at_coordinator(receive=receive_then(draw_globally))),
    ("training-opens-nothing", at_coordinator(receive=receive_then(write_a_file))),
    ("settings-are-left-alone", at_coordinator(receive=receive_then(set_printing))),
    (
        "a-site-needs-no-trainer",
        model(
            private=lambda self: Weighted(self.encoder, getattr(self, "weight", 1.0)),
            at_coordinator=type("WrongTrainer", (ToyTrainer,), {"receive": receive_then(teach_the_site)}),
        ),
    ),
    (
        "checkpoint-is-plain-arrays",
        at_coordinator(state=state_with(lambda self, state: state | {"note": np.array(["text"])})),
    ),
    (
        "checkpoint-is-a-copy",
        at_coordinator(
            state=lambda self: {**ToyTrainer.state(self), "counts": self.counts},
            receive=lambda self, answer: in_place(self, answer),
        ),
    ),
    ("training-goes-on-from-a-checkpoint", at_coordinator(receive=receive_then(forget))),
    ("a-wrong-checkpoint-is-refused", at_coordinator(load=load_anything)),
    ("lost-rounds-are-survived", at_coordinator(sample=fail_without_counts)),
    ("great-noise-is-survived", at_coordinator(receive=receive_then(divide))),
    ("fewer-sites-are-survived", at_coordinator(receive=receive_then(need_three))),
    ("overlap-is-optional", at_coordinator(overlap=overlap_moves)),
    ("answers-are-left-alone", at_coordinator(receive=receive_then(write_into_answer))),
    ("progress-is-numbers", at_coordinator(progress=lambda self: {"loss": float("nan")})),
]


def in_place(self: Any, answer: Any) -> None:
    if answer.sum == "counts":
        self.counts += answer.total / answer.sites
    else:
        ToyTrainer.receive(self, answer)


def sampling(change: Callable[..., np.ndarray]) -> type:
    return at_coordinator(
        sample=lambda self, rows, seed, given: change(self, ToyTrainer.sample(self, rows, seed, given), seed, given)
    )


def out_of_bounds(self: Any, drawn: np.ndarray, seed: int, given: Any) -> np.ndarray:
    drawn[-1:, 0] += 1000.0
    return drawn


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
    ("samples-fit-the-schema", sampling(out_of_bounds)),
    ("a-seed-fixes-the-samples", sampling(drifting_draw)),
    ("another-seed-gives-other-samples", at_coordinator(sample=stuck)),
    ("sampling-changes-nothing", sampling(draw_with_global)),
    ("conditions-hold", at_coordinator(sample=ignore_conditions)),
    (
        "walks-have-the-shape",
        at_coordinator(walk=stand_still),
    ),
    ("training-learns", at_coordinator(receive=receive_then(learn_nothing))),
]
