"""The GANs for tables on tables that scikit-learn ships, with the noise of a real promise, against trivial floors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.plugins.core import Core, study
from tests.plugins.gan_studies import FAMILIES

from synthfed.plugins.api import Span
from synthfed.plugins.audits.fidelity import Fidelity

OPTIONS: dict[str, Any] = {
    "refine": True,
    "bins": 8,
    "groups": 6,
    "marginals_share": 0.3,
    "pairs_share": 0.5,
    "fit_steps": 150,
    "fakes": 256,
    "batch": 256,
    "critic_hidden": 16,
}
CANCER = {"radius": (0, 5, 30), "texture": (1, 5, 40), "concavity": (6, 0, 0.5), "points": (7, 0, 0.25)}
WINE = {"alcohol": (0, 11, 15), "phenols": (5, 0.5, 4), "flavanoids": (6, 0, 6), "proline": (12, 200, 1800)}


def table(loaded: Any, features: Mapping[str, tuple[int, float, float]]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return a schema with round bounds, and the records in random order."""
    columns: list[dict[str, Any]] = [
        {"name": name, "kind": "real", "lower": lower, "upper": upper} for name, (_, lower, upper) in features.items()
    ]
    columns.append({"name": "kind", "kind": "categorical", "values": [str(each) for each in loaded.target_names]})
    records = np.column_stack([loaded.data[:, [place for place, _, _ in features.values()]], loaded.target])
    return columns, records[np.random.default_rng(0).permutation(len(records))]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_beats_independent_columns_and_guessing_on_tumours_at_epsilon_5(family: str) -> None:
    columns, records = table(load_breast_cancer(), CANCER)
    train, holdout = records[:400], records[400:]
    terms = study(columns, OPTIONS, plugin=family, steps=10)
    model = FAMILIES[family](terms)
    trainer, core = model.trainer(seed=0), Core(model, train, promise=terms)
    core.run(trainer)
    drawn = trainer.sample(1000, seed=0, given={})
    distance = Fidelity().run(terms, {"synthetic": drawn, "train": train, "holdout": holdout}, seed=0)[0]
    assert distance.value < distance.baseline  # that of true rows, shuffled, without noise
    learned = make_pipeline(StandardScaler(), LogisticRegression()).fit(drawn[:, :-1], drawn[:, -1])
    assert roc_auc_score(holdout[:, -1], learned.predict_proba(holdout[:, :-1])[:, 1]) > 0.9


def test_a_given_class_of_wine_looks_like_that_class() -> None:
    columns, records = table(load_wine(), WINE)
    terms = study(columns, OPTIONS, plugin="cgan", steps=5)
    model = FAMILIES["cgan"](terms)
    trainer, core = model.trainer(seed=0), Core(model, records, noise=0.5)
    core.run(trainer)
    for kind in range(3):
        drawn = trainer.sample(2000, seed=1, given={"kind": Span.at(kind)})
        assert set(drawn[:, -1]) == {float(kind)}
        real = records[records[:, -1] == kind].mean(axis=0)
        spread = records.std(axis=0)
        assert (np.abs(drawn.mean(axis=0) - real)[:-1] < 0.6 * spread[:-1]).all()
