"""A model that uses all of the contract at once: phases, two critics a step, growing ones, statistics in between.

It learns little; it shows that nothing of this needs a special case in the core.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ValidationError
from torch import nn
from torch.nn import functional

from synthfed.plugins.api import Answer, Array, Ask, Given, Payload
from synthfed.plugins.domains.arrays import ArrayEncoder
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records, Strict
from synthfed.protocols.study import Study, describe
from synthfed.protocols.sums import Sum

LATENT = 3
FEATURES = 6
PHASES = (("means",), ("embed",), ("supervise",), ("coarse", "features"), ("coarse", "fine", "features"))
"""Which sums each phase asks for, in turns: the second critic joins when the first has seen coarse arrays."""


class Options(Strict):
    """There is nothing to set."""


class Supervisor(nn.Module):
    """Labels from the latents of an encoder that another phase trained, and that stays as it is."""

    def __init__(self, numbers: int, labels: int) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(numbers, LATENT), nn.Linear(LATENT, labels)
        self.encoder.requires_grad_(False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.tanh(self.encoder(batch)))
        return logits


class PhasedAtSite:
    """What a record adds: to its label's mean, to four losses, and to the mean of a critic's features."""

    def __init__(self, encoder: ArrayEncoder) -> None:
        self.encoder, self.numbers = encoder, encoder.numbers

    def encode(self, records: Records) -> Array:
        return self.encoder.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        numbers, label = batch[:, : self.numbers], batch[:, self.numbers :]
        if name == "features":
            return np.asarray(np.tanh(numbers @ payload["0.weight"].T.astype(np.float64)) / np.sqrt(FEATURES))
        own = np.column_stack([numbers / np.sqrt(self.numbers), np.ones(len(batch))]) / np.sqrt(2)
        return np.asarray((label[:, :, None] * own[:, None, :]).reshape(len(batch), -1))

    def module(self, name: str) -> nn.Module:
        n = self.numbers
        with torch.random.fork_rng(devices=[]):
            if name == "embed":
                return nn.Sequential(nn.Linear(n, LATENT), nn.Tanh(), nn.Linear(LATENT, n))
            if name == "supervise":
                return Supervisor(n, self.encoder.sizes[0])
            seen = n // 2 if name == "coarse" else n
            return nn.Sequential(nn.Linear(seen, FEATURES), nn.Tanh(), nn.Linear(FEATURES, 1))

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        numbers, label = batch[:, : self.numbers], batch[:, self.numbers :]
        if name == "embed":
            errors: torch.Tensor = (module(numbers) - numbers).square()
            return errors.mean(1)
        if name == "supervise":
            return functional.cross_entropy(module(numbers), label.argmax(1), reduction="none")
        seen = numbers.reshape(len(batch), -1, 2).mean(2) if name == "coarse" else numbers
        return functional.softplus(-module(seen)).squeeze(1)


class PhasedTrainer:
    """Goes through the phases by what is left of each sum, so that a lost round only shortens one."""

    def __init__(self, model: "Phased", seed: int) -> None:
        self.model, self.sums = model, {each.name: each for each in model.sums()}
        rng = np.random.default_rng(seed)
        self.arrays: dict[str, npt.NDArray[Any]] = {
            f"{name}/{key}": rng.normal(0, 0.3, shape).astype(np.float32)
            for name, each in self.sums.items()
            if each.family == "gradient"
            for key, shape in each.payload
        }
        self.arrays["means"], self.arrays["features"] = np.zeros(self.sums["means"].dim), np.zeros(FEATURES)
        self.arrays["rounds"] = np.zeros(1)

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        for phase in PHASES:
            keep = self.model.steps if phase == PHASES[3] else 0  # the coarse phase leaves the rest to the last one
            left = {name: remaining[name] - keep for name in phase if remaining[name] > keep}
            if left:
                wanted = max(left, key=lambda name: left[name])
                return Ask(wanted, self._payload(wanted))
        return None

    def _payload(self, name: str) -> dict[str, npt.NDArray[np.float32]]:
        if name == "features":
            return {"0.weight": self.arrays["fine/0.weight"]}
        payload = {key: self.arrays[f"{name}/{key}"] for key, _ in self.sums[name].payload}
        if name == "supervise":
            payload |= {f"encoder.{part}": self.arrays[f"embed/0.{part}"] for part in ("weight", "bias")}
        return payload

    def overlap(self) -> None:
        """Everything public is done at once."""

    def receive(self, answer: Answer) -> None:
        self.arrays["rounds"] = self.arrays["rounds"] + 1
        if self.sums[answer.sum].family == "statistic":
            self.arrays[answer.sum] = answer.total / answer.sites
            return
        start = 0
        for key, shape in self.sums[answer.sum].payload:
            if not key.startswith("encoder."):
                size = int(np.prod(shape))
                step = np.clip(answer.total[start : start + size], -10, 10).reshape(shape) / 100
                self.arrays[f"{answer.sum}/{key}"] = (self.arrays[f"{answer.sum}/{key}"] - step).astype(np.float32)
                start += size

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        rng, encoder = np.random.default_rng(seed), self.model.encoder
        sums = self.arrays["means"].reshape(encoder.sizes[0], -1)
        counts = np.maximum(sums[:, -1], 1e-3)
        codes = rng.choice(len(counts), rows, p=counts / counts.sum())
        codes = np.full(rows, int(given[encoder.labels[0].name].low)) if given else codes
        means = (sums[:, :-1] * np.sqrt(encoder.numbers) / counts[:, None])[codes]
        return encoder.decode(means + rng.normal(0, 0.1, means.shape), codes[:, None])

    def walk(self, walks: int, steps: int, seed: int) -> Records:  # noqa: ARG002
        return np.zeros((0, self.model.encoder.numbers + 1))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        return {name: array.copy() for name, array in self.arrays.items()}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, mine in self.arrays.items():
            if name not in state or state[name].shape != mine.shape:
                raise ConfigError(f"array {name!r} does not fit; use a checkpoint of this study")
        self.arrays = {name: state[name].copy() for name in self.arrays}

    def progress(self) -> Mapping[str, float]:
        return {"rounds": float(self.arrays["rounds"][0])}


class Phased:
    """Means, an autoencoder, a supervisor on its latents, and two critics of which one joins later."""

    Options: type[BaseModel] = Options

    def __init__(self, study: Study) -> None:
        try:
            Options.model_validate(study.model.options)
        except ValidationError as error:
            raise ConfigError(describe(error), where="model.options") from None
        self.encoder, self.steps = ArrayEncoder(study.columns, "the phased model"), study.privacy.steps
        if len(self.encoder.labels) != 1:
            raise ConfigError("the phased model takes one label; declare one", where="columns")
        self.conditions: tuple[str, ...] = (self.encoder.labels[0].name,)

    def sums(self) -> tuple[Sum, ...]:
        width = self.encoder.sizes[0] * (self.encoder.numbers + 1)
        shown = (("0.weight", (FEATURES, self.encoder.numbers)),)
        return (
            Sum("means", "statistic", width, 1.0, 1.0, 1, 0.5),
            Sum("features", "statistic", FEATURES, 1.0, 0.5, 2 * self.steps, 0.1, shown),
            self._gradient("embed", self.steps),
            self._gradient("supervise", self.steps),
            self._gradient("coarse", 2 * self.steps),
            self._gradient("fine", self.steps),
        )

    def _gradient(self, name: str, rounds: int) -> Sum:
        module = self.private().module(name)
        payload = tuple((key, tuple(each.shape)) for key, each in module.named_parameters())
        dim = sum(each.numel() for each in module.parameters() if each.requires_grad)
        return Sum(name, "gradient", dim, 1.0, 0.5, rounds, 0.1, payload)

    def private(self) -> Any:
        return PhasedAtSite(self.encoder)

    def trainer(self, seed: int) -> Any:
        return PhasedTrainer(self, seed)
