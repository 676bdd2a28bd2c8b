"""The core in one process, for tests of models: the sites' own clipped sums, a little noise, rounds counted."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from synthfed.client.local_steps import moved
from synthfed.client.train import clipped_sum
from synthfed.plugins.api import Answer, Model, Trainer, local_part
from synthfed.protocols.privacy.plan import make_plan
from synthfed.protocols.study import Study
from synthfed.protocols.sums import TILE, Kind, Sum

SITES = 3
UNITS = 600
COLUMNS: list[dict[str, Any]] = [
    {"name": "kind", "kind": "categorical", "values": ["a", "b", "c"]},
    {"name": "count", "kind": "integer", "lower": 0, "upper": 40, "scale": "log", "missing": True},
    {"name": "size", "kind": "real", "lower": 0, "upper": 10, "decimals": 2},
    {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
]


def study(
    columns: list[dict[str, Any]], options: dict[str, Any], *, plugin: str = "gan", steps: int = 6, rate: float = 0.3
) -> Study:
    """Return terms of a study of made-up columns; the last one is the target."""
    return Study.model_validate(
        {
            "format": 1,
            "name": "test",
            "target": columns[-1]["name"],
            "privacy": {
                "mode": "distributed",
                "epsilon": 5.0,
                "delta": 1e-5,
                "units_per_site": 1000,
                "sample_rate": rate,
                "steps": steps,
            },
            "model": {"plugin": plugin, "options": options},
            "cohort": {"tolerated": 1, "quorum": 3, "sites": [{"id": f"s{i}"} for i in range(SITES)]},
            "columns": columns,
        }
    )


def made_up(rows: int = UNITS, seed: int = 0) -> np.ndarray:
    """Return records of `COLUMNS` in which the ill have larger counts and sizes."""
    rng = np.random.default_rng(seed)
    ill = rng.random(rows) < 0.3
    count = np.where(rng.random(rows) < 0.1, np.nan, rng.poisson(1 + 6 * ill))
    return np.stack([rng.choice(3, rows, p=[0.6, 0.3, 0.1]), count, rng.uniform(0, 5 + 5 * ill), ill], axis=1)


def planned_noise(study: Study, model: Model) -> dict[str, float]:
    """Return the standard deviation of each released sum: all sites' shares, the tolerated ones' on top."""
    more = math.sqrt(SITES / (SITES - study.cohort.tolerated))
    return {kind.sum.name: more * kind.noise_multiplier for kind in make_plan(study, model.sums()).kinds}


class Core:
    """Answers a trainer's wishes from records in one place."""

    def __init__(self, model: Model, records: np.ndarray, *, noise: float = 0.1, promise: Study | None = None) -> None:
        """Add ``noise`` to every sum, or what the ``promise`` of a study asks for."""
        self.private, self.local = model.private(), local_part(model)
        self.noise = {each.name: noise for each in model.sums()} if promise is None else planned_noise(promise, model)
        self.sums = {each.name: each for each in model.sums()}
        self.remaining = {each.name: each.rounds for each in model.sums()}
        self.batch, self.rng = self.private.encode(records), np.random.default_rng(1)

    def run(self, trainer: Trainer, rounds: int = 1000, *, overlap: bool = True) -> None:
        """Answer up to ``rounds`` of the trainer's wishes."""
        for _ in range(rounds):
            ask = trainer.ask(self.remaining)
            if ask is None:
                return
            self.remaining[ask.sum] -= 1
            if overlap:
                trainer.overlap()
            trainer.receive(self.answer(self.sums[ask.sum], ask.payload))

    def answer(self, wanted: Sum, payload: Mapping[str, np.ndarray]) -> Answer:
        """Return one released sum, clipped by the core's own code, all steps of its round added up."""
        assert tuple((name, each.shape) for name, each in payload.items()) == wanted.payload
        assert all(each.dtype == np.float32 for each in payload.values())
        total, noise = np.zeros(wanted.dim), self.noise[wanted.name]
        for step in range(wanted.steps):
            batch = self.batch[self.rng.random(len(self.batch)) < wanted.sample_rate]
            slots = -(-len(batch) // TILE) * TILE
            coins = self.rng.random((slots, wanted.coins)) if wanted.coins else None
            kind = Kind(wanted, 1.0, slots, 64)
            noised = clipped_sum(self.private, kind, payload, batch, coins) + self.rng.normal(0, noise, wanted.dim)
            total += noised
            payload = payload if step + 1 == wanted.steps else moved(self.local, kind, payload, noised, step)
        return Answer(wanted.name, total, noise * math.sqrt(wanted.steps), SITES)

    def follow(self, other: "Core") -> None:
        """Go on from where another core of the same records stands, with the same draws."""
        self.remaining = dict(other.remaining)
        self.rng.bit_generator.state = other.rng.bit_generator.state
