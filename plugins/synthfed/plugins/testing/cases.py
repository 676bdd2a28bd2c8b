"""Made-up records of the kinds of data that models are for, with the studies that describe them.

Never real records: every number here is drawn from a fixed seed.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Real, Records, places
from synthfed.protocols.study import Study

SITES: Final = 3
UNITS: Final = 48
"""Made-up units of each site, below the declared bound of 64."""
STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of data.

    Attributes:
        name: in words.
        columns: the schema; its last column is the target.
        draw: makes records of it, shape ``(rows, width)``, from a generator.
    """

    name: str
    columns: tuple[Column, ...]
    draw: Callable[[int, np.random.Generator], Records]

    @property
    def width(self) -> int:
        """Numbers of a record."""
        return places(self.columns)[-1]

    def study(self, options: Mapping[str, Any]) -> Study:
        """Return a study of such records at three sites, with a model's options."""
        keys = [Ed25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32).public_key() for i in range(SITES)]
        sites = [
            {"id": f"site-{i}", "key": base64.b64encode(key.public_bytes_raw()).decode()} for i, key in enumerate(keys)
        ]
        return Study.model_validate(
            {
                "format": 1,
                "name": "conformance",
                "target": self.columns[-1].name,
                "privacy": {
                    "mode": "distributed",
                    "epsilon": 20.0,
                    "delta": 1e-5,
                    "units_per_site": 64,
                    "sample_rate": 0.5,
                    "steps": STEPS,
                },
                "model": {"plugin": "conformance", "options": dict(options)},
                "cohort": {"tolerated": 1, "quorum": SITES, "sites": sites},
                "columns": [column.model_dump() for column in self.columns],
            }
        )


def cases() -> tuple[Case, ...]:
    """Return a table of mixed columns, a table of numbers, small images and short series, each with a label."""
    label = Categorical(name="label", values=("a", "b", "c"))
    ill = Categorical(name="ill", values=("no", "yes"))
    mixed: tuple[Column, ...] = (
        Categorical(name="kind", values=("x", "y", "z"), missing=True),
        Integer(name="visits", lower=0, upper=40, scale="log", missing=True),
        Real(name="weight", lower=30.0, upper=150.0, decimals=1),
        ill,
    )
    numbers: tuple[Column, ...] = (*(Real(name=f"x{i}", lower=-4.0, upper=4.0) for i in range(3)), ill)
    image = (ArrayColumn(name="pixels", shape=(1, 8, 8), lower=0.0, upper=16.0), label)
    series = (ArrayColumn(name="leads", shape=(2, 16), lower=-2.0, upper=2.0, decimals=3), label)
    return (
        Case("a table of mixed columns", mixed, _mixed),
        Case("a table of numbers", numbers, _numbers),
        Case("images with a label", image, _images),
        Case("series with a label", series, _series),
    )


def _mixed(rows: int, rng: np.random.Generator) -> Records:
    ill = rng.random(rows) < 0.4
    kind = np.where(rng.random(rows) < 0.1, np.nan, rng.choice(3, rows, p=[0.6, 0.3, 0.1]))
    visits = np.where(rng.random(rows) < 0.2, np.nan, np.minimum(rng.poisson(1 + 8 * ill), 40))
    weight = np.round(np.clip(rng.normal(70 + 10 * ill, 12), 30, 150), 1)
    return np.stack([kind, visits, weight, ill], axis=1)


def _numbers(rows: int, rng: np.random.Generator) -> Records:
    ill = rng.random(rows) < 0.5
    first = rng.normal(2.0 * ill - 1, 0.6)
    numbers = np.stack([first, first + rng.normal(0, 0.4, rows), rng.normal(0, 1, rows)], axis=1)
    return np.column_stack([np.round(np.clip(numbers, -4, 4), 4), ill])


def _images(rows: int, rng: np.random.Generator) -> Records:
    labels = rng.choice(3, rows)
    across, down = np.meshgrid(np.arange(8), np.arange(8))
    centres = np.array([2.0, 3.5, 5.0])[labels]
    spread = (across - centres[:, None, None]) ** 2 + (down - centres[:, None, None]) ** 2
    pixels = 14 * np.exp(-spread / 6) + rng.normal(0, 1, spread.shape)
    return np.column_stack([np.clip(np.rint(pixels), 0, 16).reshape(rows, -1), labels])


def _series(rows: int, rng: np.random.Generator) -> Records:
    labels = rng.choice(3, rows)
    phase = rng.uniform(0, 0.5, rows)[:, None] + np.linspace(0, 2 * np.pi, 16)
    leads = np.stack([np.sin(phase * (1 + labels[:, None])), np.cos(phase)], axis=1)
    noisy = np.clip(leads + rng.normal(0, 0.1, leads.shape), -2, 2)
    return np.column_stack([np.round(noisy, 3).reshape(rows, -1), labels])
