"""A small model that keeps every promise of the plugin contract: counts, and a linear score of records."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from synthfed.plugins.api import Answer, Array, Ask, Given, Payload
from synthfed.plugins.domains.encoding import OneHotEncoder, scalars
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Categorical, Records, Strict
from synthfed.protocols.study import Study, describe
from synthfed.protocols.sums import Sum

BINS = 6


class Options(Strict):
    """What a study may set.

    Attributes:
        rate: learning rate of the score.
    """

    rate: float = 0.1


class ToyAtSite:
    """Counts each record's cells, and scores it under weights that a coin blurs."""

    def __init__(self, encoder: OneHotEncoder) -> None:
        self.encoder = encoder

    def encode(self, records: Records) -> Array:
        return self.encoder.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        return np.asarray(batch / np.sqrt(len(self.encoder.blocks)))

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        with torch.random.fork_rng(devices=[]):
            return nn.Sequential(nn.Linear(self.encoder.width, 3), nn.Tanh(), nn.Linear(3, 1))

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        scores: torch.Tensor = module(batch * (0.5 + coins[:, :1]))
        return scores.squeeze(1).square()


class ToyTrainer:
    """Adds counts, moves weights, and samples cells of independent columns."""

    def __init__(self, model: "Toy", seed: int) -> None:
        self.model, self.sums = model, {each.name: each for each in model.sums()}
        rng = np.random.default_rng(seed)
        self.counts = np.zeros(model.encoder.width)
        self.weights = rng.normal(0, 0.1, self.sums["score"].dim)
        self.spread = 0.0
        self.steps = 0
        self.pending = 0.0

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        if remaining.get("counts", 0) > 0:
            return Ask("counts", {})
        if remaining.get("score", 0) > 0:
            ends = np.cumsum([int(np.prod(shape)) for _, shape in self.sums["score"].payload])[:-1]
            parts = np.split(self.weights.astype(np.float32), ends)
            shapes = self.sums["score"].payload
            return Ask("score", {name: part.reshape(shape) for (name, shape), part in zip(shapes, parts, strict=True)})
        return None

    def overlap(self) -> None:
        self.pending = float(self.weights.sum())

    def receive(self, answer: Answer) -> None:
        if answer.sum == "counts":
            self.counts = self.counts + answer.total / answer.sites
        else:
            self.weights = np.clip(self.weights - self.model.options.rate * answer.total / 100, -5, 5)
            self.steps += 1

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        rng = np.random.default_rng(seed)
        codes = np.empty((rows, len(self.model.encoder.blocks)), dtype=np.int64)
        offsets = self.model.encoder.offsets
        for i, (start, end) in enumerate(pairwise(offsets)):
            shares = np.maximum(self.counts[start:end], 0) + 1e-9
            codes[:, i] = rng.choice(end - start, rows, p=shares / shares.sum())
        records = self.model.encoder.decode(codes, rng)
        for name, span in given.items():
            records[:, self.model.names.index(name)] = span.low
        return records

    def walk(self, walks: int, steps: int, seed: int) -> Records:
        return self.sample(walks * steps, seed, {})

    def state(self) -> dict[str, npt.NDArray[Any]]:
        return {"counts": self.counts.copy(), "weights": self.weights.copy(), "steps": np.array([self.steps])}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, mine in self.state().items():
            if name not in state or state[name].shape != mine.shape:
                raise ConfigError(f"array {name!r} does not fit; use a checkpoint of this study")
        self.counts, self.weights = state["counts"].copy(), state["weights"].copy()
        self.steps = int(state["steps"][0])

    def progress(self) -> Mapping[str, float]:
        return {"steps": float(self.steps)}


class Toy:
    """Counts of cells and a score nobody needs."""

    Options: type[BaseModel] = Options
    at_site: type = ToyAtSite
    at_coordinator: type = ToyTrainer

    def __init__(self, study: Study) -> None:
        try:
            self.options = Options.model_validate(study.model.options)
        except ValidationError as error:
            raise ConfigError(describe(error), where="model.options") from None
        columns = scalars(study.columns, "the toy")
        self.encoder, self.steps = OneHotEncoder(columns, BINS), study.privacy.steps
        self.names = [column.name for column in columns]
        self.conditions: tuple[str, ...] = tuple(each.name for each in columns if isinstance(each, Categorical))

    def sums(self) -> tuple[Sum, ...]:
        weights = tuple((name, tuple(each.shape)) for name, each in self.private().module("score").named_parameters())
        dim = sum(int(np.prod(shape)) for _, shape in weights)
        return (
            Sum("counts", "statistic", self.encoder.width, 1.0, 1.0, 2, 0.5),
            Sum("score", "gradient", dim, 1.0, 0.5, self.steps, 0.5, weights, coins=2),
        )

    def private(self) -> Any:
        return self.at_site(self.encoder)

    def trainer(self, seed: int) -> Any:
        return self.at_coordinator(self, seed)
