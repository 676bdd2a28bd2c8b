"""Studies and records of small arrays, and the core in one process, for tests of models of arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from synthfed.client.train import clipped_sum
from synthfed.plugins.api import Answer, Model, Trainer
from synthfed.protocols.privacy.plan import make_plan
from synthfed.protocols.study import Study
from synthfed.protocols.sums import TILE, Kind, Sum

SITES = 3
DIGITS: list[dict[str, Any]] = [
    {"name": "digit", "kind": "categorical", "values": [str(i) for i in range(10)]},
    {"name": "pixels", "kind": "array", "shape": [1, 8, 8], "lower": 0, "upper": 16},
]
SERIES: list[dict[str, Any]] = [
    {"name": "lead", "kind": "array", "shape": [2, 32], "lower": -3, "upper": 5, "decimals": 3},
    {"name": "sex", "kind": "categorical", "values": ["f", "m"], "missing": True},
    {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
]


def study(
    columns: list[dict[str, Any]] = DIGITS, *, plugin: str = "moments", epsilon: float = 10.0, **options: Any
) -> Study:
    """Return terms of a study of made-up sites; the target is the first category."""
    return Study.model_validate(
        {
            "format": 1,
            "name": "test",
            "target": next(column["name"] for column in columns if column["kind"] == "categorical"),
            "privacy": {
                "mode": "distributed",
                "epsilon": epsilon,
                "delta": 1e-5,
                "units_per_site": 700,
                "sample_rate": 0.1,
                "steps": 6,
            },
            "model": {"plugin": plugin, "options": options},
            "cohort": {"tolerated": 1, "quorum": 3, "sites": [{"id": f"s{i}"} for i in range(SITES)]},
            "columns": columns,
        }
    )


def digits() -> np.ndarray:
    """Return scikit-learn's 1,797 digits in random order, as records of `DIGITS`."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    return np.column_stack([labels, pixels])[order]


def series(rows: int = 900) -> np.ndarray:
    """Return records of `SERIES`: slow waves of the ill, faster ones of the others, raised by sex in one lead."""
    rng = np.random.default_rng(0)
    ill, sex = rng.random(rows) < 0.4, rng.integers(0, 3, rows)
    phase = np.linspace(0, 2 * np.pi, 32)
    waves = np.where(ill[:, None], np.sin(phase), np.sin(2 * phase)) * rng.normal(1, 0.2, (rows, 1))
    leads = np.stack([waves, waves + sex[:, None]], 1).reshape(rows, -1) + rng.normal(0, 0.05, (rows, 64))
    return np.column_stack([leads, np.where(sex == 2, np.nan, sex), ill])


class Core:
    """Answers a trainer's wishes from records in one place, by the core's own clipped sums."""

    def __init__(self, terms: Study, model: Model, records: np.ndarray, *, noise: float | None = None) -> None:
        """Add the noise that the study's promise demands, or ``noise`` standard deviations of the clip norm."""
        self.private, self._noise, self.rng = model.private(), noise, np.random.default_rng(1)
        sums = model.sums()
        self.remaining = {each.name: each.rounds for each in sums}
        self.kinds = {kind.sum.name: kind for kind in make_plan(terms, sums).kinds} if noise is None else {}
        self.sums = {each.name: each for each in sums}
        self.batch = self.private.encode(records)

    def run(self, trainer: Trainer, rounds: int = 1000) -> None:
        """Answer up to ``rounds`` of the trainer's wishes."""
        for _ in range(rounds):
            ask = trainer.ask(self.remaining)
            if ask is None:
                return
            self.remaining[ask.sum] -= 1
            trainer.overlap()
            trainer.receive(self.answer(ask.sum, ask.payload))

    def answer(self, name: str, payload: Mapping[str, np.ndarray]) -> Answer:
        """Return one released sum."""
        wanted = self.sums[name]
        assert tuple((part, each.shape) for part, each in payload.items()) == wanted.payload
        assert all(each.dtype == np.float32 for each in payload.values())
        batch = self.batch[self.rng.random(len(self.batch)) < wanted.sample_rate]
        slots = -(-len(batch) // TILE) * TILE
        coins = self.rng.random((slots, wanted.coins))
        total = clipped_sum(self.private, Kind(wanted, 1.0, slots, 32), payload, batch, coins)
        multiplier = self.kinds[name].noise_multiplier if self._noise is None else self._noise
        std = multiplier * wanted.clip_norm * np.sqrt(SITES / (SITES - 1))
        return Answer(name, total + self.rng.normal(0, std, wanted.dim), float(std), SITES)


def floor_samples(terms: Study, batch: np.ndarray, numbers: int, rows: int) -> np.ndarray:
    """Return encoded records of a Gaussian of each class fitted to noisy means and squares of pixels.

    The least that a model of arrays must beat, at the whole budget of the same study. A record's
    contribution is its count, numbers and their squares in its class's place, of norm 1 at most.

    Args:
        terms: the study.
        batch: encoded records, the last cells one label, shape ``(records, width)``.
        numbers: how many numbers an array has.
        rows: how many records are wanted.
    """
    rng, labels, values = np.random.default_rng(5), batch[:, numbers:], batch[:, :numbers]
    parts = np.hstack([np.full((len(batch), 1), 0.3), 0.67 / np.sqrt(numbers) * np.hstack([values, values**2])])
    sums = labels.T @ parts
    kind = make_plan(terms, (Sum("pixels", "statistic", sums.size, 1.0, 1.0, 1, 1.0),)).kinds[0]
    sums += rng.normal(0, kind.noise_multiplier * np.sqrt(SITES / (SITES - 1)), sums.shape)
    counts = np.maximum(sums[:, :1] / 0.3, 1.0)
    means, squares = np.hsplit(sums[:, 1:] / counts * np.sqrt(numbers) / 0.67, 2)
    spreads = np.sqrt(np.clip(((squares - means**2) * counts).sum(0) / counts.sum(), 1e-4, 1.0))
    group = rng.integers(0, len(means), rows)
    drawn = np.clip(means[group] + spreads * rng.normal(size=(rows, numbers)), -1, 1)
    return np.hstack([drawn, np.eye(len(means))[group]])
