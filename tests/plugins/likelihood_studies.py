"""Small studies of the families that are trained by a loss alone: tables and pictures that train in a second."""

from typing import Any

import numpy as np
from tests.plugins.core import COLUMNS, Core, made_up, study

from synthfed.plugins.models.likelihoods.likelihood import Family
from synthfed.plugins.models.likelihoods.refinement import Refinement
from synthfed.plugins.models.made import Made
from synthfed.plugins.models.pixelcnn import PixelCnn
from synthfed.plugins.models.realnvp import RealNvp
from synthfed.plugins.models.vae import Cvae, Vae

PICTURES: list[dict[str, Any]] = [
    {"name": "picture", "kind": "array", "shape": [1, 4, 4], "lower": 0, "upper": 16},
    {"name": "side", "kind": "categorical", "values": ["left", "right", "both"]},
]
TRAINING: dict[str, Any] = {"public_steps": 30, "public_records": 512, "batch": 32, "hidden": 12}
TABLE: dict[str, Any] = TRAINING | {"bins": 8, "fit_steps": 30, "fakes": 64, "latent": 8, "generator_hidden": 16}
ARRAY: dict[str, Any] = TRAINING | {"coefficients": 16, "directions": 6, "levels": 5}

FAMILIES: dict[str, tuple[type[Family[Any]], bool, dict[str, Any]]] = {
    "vae": (Vae, False, {"latent_width": 3}),
    "vae-pictures": (Vae, True, {"latent_width": 3}),
    "cvae": (Cvae, False, {"latent_width": 3, "conditions": ["ill", "kind"]}),
    "cvae-pictures": (Cvae, True, {"latent_width": 3}),
    "made": (Made, False, {"conditions": ["ill", "kind"], "depth": 2}),
    "realnvp": (RealNvp, False, {"couplings": 4}),
    "realnvp-target": (RealNvp, False, {"couplings": 4, "conditions": ["ill"]}),
    "pixelcnn": (PixelCnn, True, {"channels": 4, "depth": 2, "greys": 5}),
}


def pictures(rows: int = 600, seed: int = 0) -> np.ndarray:
    """Return records of `PICTURES`: bright on the side that the label names."""
    rng = np.random.default_rng(seed)
    side = rng.choice(3, rows, p=[0.5, 0.3, 0.2])
    bright = np.zeros((rows, 4, 4))
    bright[:, :, :2] += np.where(np.isin(side, [0, 2]), 11, 2)[:, None, None]
    bright[:, :, 2:] += np.where(np.isin(side, [1, 2]), 11, 2)[:, None, None]
    values = np.clip(np.rint(bright + rng.normal(0, 2, bright.shape)), 0, 16)
    return np.concatenate([values.reshape(rows, 16), side[:, None]], axis=1)


def records_of(family: str, rows: int = 600, seed: int = 0) -> np.ndarray:
    """Return records that suit a family's study."""
    return pictures(rows, seed) if FAMILIES[family][1] else made_up(rows, seed)


def make(family: str, columns: list[dict[str, Any]] | None = None, **options: Any) -> Family[Any]:
    """Return a model of a family on made-up records."""
    kind, is_array, its_own = FAMILIES[family]
    every = (ARRAY if is_array else TABLE) | its_own | options
    if kind is PixelCnn:
        every.pop("hidden")
    return kind(study(columns or (PICTURES if is_array else COLUMNS), every, plugin=kind.name))


def trained(family: str, rounds: int = 1000, **options: Any) -> tuple[Family[Any], Refinement, Core]:
    """Return a model, a trainer after so many rounds, and the core that answered it."""
    model = make(family, **options)
    trainer, core = model.trainer(seed=3), Core(model, records_of(family))
    core.run(trainer, rounds)
    return model, trainer, core
