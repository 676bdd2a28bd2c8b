"""What each family lists in `conditions` it fixes: every category, and missing where the schema has it."""

import math
from typing import Any, Final

import numpy as np
import pytest
from tests.plugins.core import COLUMNS, study

from synthfed.plugins.api import Model, Span
from synthfed.plugins.models.cgan import Cgan
from synthfed.plugins.models.dcgan import Dcgan
from synthfed.plugins.models.gan import Gan
from synthfed.plugins.models.made import Made
from synthfed.plugins.models.moments import Moments
from synthfed.plugins.models.pixelcnn import PixelCnn
from synthfed.plugins.models.realnvp import RealNvp
from synthfed.plugins.models.vae import Cvae

TABLE: Final = [column | {"missing": True} for column in COLUMNS]
LABELS: Final[list[dict[str, Any]]] = [
    {"name": name, "kind": "categorical", "values": ["no", "yes"], "missing": True} for name in ("sex", "ill")
]
PICTURES: Final = [{"name": "picture", "kind": "array", "shape": [1, 8, 8], "lower": 0, "upper": 16}, *LABELS]


@pytest.mark.parametrize(
    ("family", "columns", "fixed"),
    [
        (Cvae, TABLE, ["ill"]),
        (Made, TABLE, ["ill"]),
        (RealNvp, TABLE, ["kind", "ill"]),
        (Cgan, TABLE, ["ill"]),
        (Gan, TABLE, ["kind", "count", "size", "ill"]),
        (Moments, PICTURES, ["sex", "ill"]),
        (Dcgan, PICTURES, ["sex", "ill"]),
        (PixelCnn, PICTURES, ["sex", "ill"]),
    ],
)
def test_a_value_or_a_missing_one_can_be_asked_for_in_every_condition_of_a_family(
    family: type[Model], columns: list[dict[str, Any]], fixed: list[str]
) -> None:
    model = family(study(columns, {}, plugin=family.__name__.lower()))
    trainer, last_places = model.trainer(seed=0), [column["name"] for column in reversed(columns)]
    assert list(model.conditions) == fixed
    for name in fixed:
        place = -1 - last_places.index(name)
        assert np.isnan(trainer.sample(6, 1, {name: Span.at(math.nan)})[:, place]).all()
        assert (trainer.sample(6, 1, {name: Span.at(1)})[:, place] == 1).all()
