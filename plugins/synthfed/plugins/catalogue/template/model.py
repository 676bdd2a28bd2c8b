"""A chain of softmax regressions: each column of a table is drawn given the columns before it.

Records are one-hot vectors, shape ``(rows, cells)``. The private part is the whole chain: how often each
cell is taken (a statistic), then the gradient of the negative log likelihood, summed over the columns, by
one weight matrix a column. Counts give the chain its start, gradients what columns say of each other.
Factorising a distribution this way is Frey, Hinton and Dayan 1995, "Does the wake-sleep algorithm produce
good density estimators?". Never keeps a record: only released sums reach the trainer.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import nn

from synthfed.plugins.api import Answer, Array, Ask, Given, Payload
from synthfed.plugins.domains.encoding import OneHotEncoder, scalars
from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.schema import Records, Strict
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

COUNTS, SCORE = "counts", "score"
LIMIT = 20.0
"""Of a weight: beyond it a softmax is certain, and a site refuses a payload with numbers above 10,000."""


class Options(Strict):
    """What a study may set under ``[model.options]``.

    Attributes:
        bins: cells of a numeric column.
        counts_share: part of the privacy budget that the counts take; the gradients take the rest.
        rate: learning rate of Adam.
    """

    bins: Annotated[int, Field(ge=2, le=256)] = 16
    counts_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    rate: Annotated[float, Field(gt=0, le=1)] = 0.05


class Chain(nn.Module):
    """Scores of every cell from the cells of the columns before it."""

    def __init__(self, offsets: list[int]) -> None:
        """Make one matrix a column; ``offsets`` are the first cells of the columns and, last, their number."""
        super().__init__()
        self.starts = offsets[:-1]
        self.scores = nn.ModuleList(nn.Linear(1 + start, end - start, bias=False) for start, end in pairwise(offsets))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the log probability of every cell, ``(rows, cells)`` to ``(rows, cells)``."""
        ones = torch.ones(len(batch), 1, dtype=batch.dtype)
        seen = [torch.cat([ones, batch[:, :start]], 1) for start in self.starts]
        columns = [torch.log_softmax(score(each), 1) for score, each in zip(self.scores, seen, strict=True)]
        return torch.cat(columns, 1)


class TemplateModel:
    """The model plugin ``template-name``: what it declares, and its two halves."""

    Options: type[BaseModel] = Options
    conditions: tuple[str, ...] = ()

    def __init__(self, study: Study) -> None:
        """Read the study's terms and nothing else; ConfigError where an option or a column does not fit."""
        try:
            self.options = Options.model_validate(study.model.options)
        except ValidationError as error:
            raise ConfigError(describe(error), where="model.options") from None
        self.encoder = OneHotEncoder(scalars(study.columns, "model 'template-name'"), self.options.bins)
        self.privacy = study.privacy

    def sums(self) -> tuple[Sum, ...]:
        """Return every private sum that training may ask for; their shares add up to 1."""
        weights = tuple((name, tuple(each.shape)) for name, each in self.module().named_parameters())
        dim = sum(int(np.prod(shape)) for _, shape in weights)
        share, privacy = self.options.counts_share, self.privacy
        return (
            Sum(COUNTS, "statistic", self.encoder.width, 1.0, 1.0, 2, share),
            Sum(SCORE, "gradient", dim, privacy.clip_norm, privacy.sample_rate, privacy.steps, 1.0 - share, weights),
        )

    def module(self) -> Chain:
        """Return a chain; making it must not move the random state of the whole process."""
        with torch.random.fork_rng(devices=[]):
            return Chain(self.encoder.offsets.tolist())

    def private(self) -> "AtSite":
        """Return the half that runs at a site."""
        return AtSite(self)

    def trainer(self, seed: int) -> "Training":
        """Return the half that runs at the coordinator."""
        return Training(self, seed)


class AtSite:
    """The private part. The core samples, clips, adds noise and masks; this only says what one record gives."""

    def __init__(self, model: TemplateModel) -> None:
        """Serve a model; nothing of a record is ever kept."""
        self._model = model

    def encode(self, records: Records) -> Array:
        """Return one-hot records, shape ``(rows, cells)``, each from its own row and the schema alone."""
        return self._model.encoder.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        """Return each record's cells, scaled to length 1: with one cell a column that is the declared bound."""
        return np.asarray(batch / np.sqrt(len(self._model.encoder.blocks)))

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        """Return the chain that the core loads the round's weights into."""
        return self._model.module()

    def loss(
        self,
        name: str,  # noqa: ARG002
        module: nn.Module,
        batch: torch.Tensor,
        coins: torch.Tensor,  # noqa: ARG002
    ) -> torch.Tensor:
        """Return each record's negative log likelihood, shape ``(rows,)``."""
        likelihood: torch.Tensor = (module(batch) * batch).sum(1)
        return -likelihood


class Training:
    """The public part: counts start the weights, Adam moves them along noisy gradients, sampling follows the chain."""

    def __init__(self, model: TemplateModel, seed: int) -> None:
        """Draw small initial weights from the seed."""
        self._model, (counts, score) = model, model.sums()
        self._shapes = dict(score.payload)
        rng = np.random.default_rng(seed)
        self._arrays: dict[str, npt.NDArray[np.float64]] = {
            "counts": np.zeros(counts.dim),
            "weights": rng.normal(0, 0.01, score.dim),
            "mean": np.zeros(score.dim),
            "square": np.zeros(score.dim),
            "steps": np.zeros(1),
        }

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the counts first, then gradients at the present weights, then nothing."""
        if remaining.get(COUNTS, 0) > 0:
            return Ask(COUNTS, {})
        if remaining.get(SCORE, 0) > 0:
            return Ask(SCORE, {name: each.astype(np.float32) for name, each in self._matrices().items()})
        return None

    def overlap(self) -> None:
        """Do nothing meanwhile: a step is quick."""

    def receive(self, answer: Answer) -> None:
        """Use a released sum."""
        if answer.sum == COUNTS:
            self._arrays["counts"] = self._arrays["counts"] + answer.total
            self._start()
        else:
            self._step(answer.total)

    def sample(self, rows: int, seed: int, given: Given) -> Records:  # noqa: ARG002
        """Return records drawn column after column, shape ``(rows, columns)``."""
        rng, encoder = np.random.default_rng(seed), self._model.encoder
        cells, codes = np.zeros((rows, encoder.width)), np.empty((rows, len(encoder.blocks)), dtype=np.int64)
        for i, (start, matrix) in enumerate(zip(encoder.offsets, self._matrices().values(), strict=False)):
            scores = np.column_stack([np.ones(rows), cells[:, :start]]) @ matrix.T
            # The largest of scores with Gumbel noise is a draw from their softmax.
            codes[:, i] = np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)
            cells[np.arange(rows), start + codes[:, i]] = 1.0
        return encoder.decode(codes, rng)

    def walk(self, walks: int, steps: int, seed: int) -> Records:  # noqa: ARG002
        """Return no record: there is no latent space to walk through."""
        return np.empty((0, len(self._model.encoder.blocks)))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of everything that training goes on from."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned; ConfigError where it is of another study."""
        for name, mine in self._arrays.items():
            if name not in state or state[name].shape != mine.shape:
                raise ConfigError(f"checkpoint array {name!r} does not fit; use a checkpoint of this study")
        self._arrays = {name: np.array(state[name], dtype=np.float64) for name in self._arrays}

    def progress(self) -> Mapping[str, float]:
        """Return how many gradient steps were made and how large the weights are."""
        weights = self._arrays["weights"]
        return {"steps": float(self._arrays["steps"][0]), "weights": float(np.sqrt(np.mean(weights**2)))}

    def _matrices(self) -> dict[str, npt.NDArray[np.float64]]:
        ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes.values()])[:-1]
        parts = np.split(self._arrays["weights"], ends)
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def _start(self) -> None:
        """Set the scores that depend on no other column to the log of the noisy counts."""
        matrices, counts = list(self._matrices().values()), np.maximum(self._arrays["counts"], 0.0)
        for matrix, (start, end) in zip(matrices, pairwise(self._model.encoder.offsets), strict=True):
            block = counts[start:end] + 0.01 * counts[start:end].sum() + 1e-9
            matrix[:, 0] = np.log(block / block.sum())
        self._arrays["weights"] = np.concatenate([matrix.ravel() for matrix in matrices])

    def _step(self, gradient: Array) -> None:
        """Move the weights by Adam (Kingma and Ba 2015, arXiv:1412.6980), whose step no noise makes larger."""
        each = self._arrays
        count = each["steps"][0] + 1
        each["steps"] = np.array([count])
        each["mean"] = 0.9 * each["mean"] + 0.1 * gradient
        each["square"] = 0.99 * each["square"] + 0.01 * gradient**2
        mean, square = each["mean"] / (1 - 0.9**count), each["square"] / (1 - 0.99**count)
        moved = each["weights"] - self._model.options.rate * mean / (np.sqrt(square) + 1e-8)
        each["weights"] = np.clip(moved, -LIMIT, LIMIT)
