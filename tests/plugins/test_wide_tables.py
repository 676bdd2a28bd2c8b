"""Wide tables: a noisy scan of all pairs of columns, the choice it makes, and the fit to both."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.core import Core, study

from synthfed.plugins.api import Answer
from synthfed.plugins.domains.encoding import OneHotEncoder
from synthfed.plugins.models.gan import Gan
from synthfed.plugins.models.tables import table_anchor
from synthfed.plugins.models.tables.column_misfit import ColumnMisfit
from synthfed.plugins.models.tables.column_pairs import FEATURES, FIRST, SECOND, ColumnPairs, Embedding
from synthfed.plugins.models.tables.histograms import Histograms
from synthfed.plugins.models.tables.pairs import MAX_DIM
from synthfed.plugins.models.tables.table_anchor import MOST_LOGITS
from synthfed.plugins.models.tables.wide_fitting import WideFitting
from synthfed.plugins.models.tables.wide_pairs import STANDS_OUT, WideLayout, standing
from synthfed.protocols.schema import Categorical, Integer, Scalar

COLUMNS = 100
STRONG = [(2 * k, 2 * k + 40) for k in range(10)]
"""Pairs of the made-up table that go together: half of them in a straight line, half as a U."""
OPTIONS: dict[str, Any] = {"bins": 16, "components": 200, "fit_steps": 60}


def columns(count: int = COLUMNS) -> list[dict[str, Any]]:
    reals = [{"name": f"x{i}", "kind": "real", "lower": -4, "upper": 4} for i in range(count - 1)]
    return [*reals, {"name": "ill", "kind": "categorical", "values": ["no", "yes"]}]


def latent_factors(rows: int, seed: int) -> np.ndarray:
    """Return records of three weak factors, `STRONG` pairs and a target by six columns."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(rows, COLUMNS - 1))
    records = rng.normal(size=(rows, 3)) @ rng.normal(size=(3, COLUMNS - 1)) * 0.15 + noise
    for k, (low, high) in enumerate(STRONG):
        shape = records[:, low] if k % 2 == 0 else records[:, low] ** 2 - 1
        records[:, high] = 0.8 * shape + 0.6 * noise[:, high]
    ill = records[:, 90:96].sum(1) / 2 + rng.normal(size=rows) > 0
    return np.column_stack([records.clip(-4, 4), ill])


def of_scalars(scalars: tuple[Scalar, ...], groups: int = 6) -> tuple[WideLayout, Histograms]:
    encoder = OneHotEncoder(scalars, 12)
    even = np.concatenate([np.full(block.width, 1 / block.width) for block in encoder.blocks])
    return WideLayout(encoder.blocks, groups, len(scalars) - 1), Histograms(even, np.full(len(even), 1e-3))


def numbers(count: int) -> tuple[Scalar, ...]:
    return tuple(Integer(name=f"size {i}", lower=0, upper=11) for i in range(count))


def one_hot(layout: ColumnPairs, rows: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.concatenate([np.eye(size)[rng.integers(size, size=rows)] for size in layout.sizes], axis=1)


def scanned(layout: WideLayout, first: Histograms) -> Embedding:
    return layout.scan.embedding(first, layout.every, layout.target)


@pytest.mark.parametrize("count", [20, 40])
def test_a_table_whose_pairs_fit_in_one_message_is_not_scanned(count: int) -> None:
    model = Gan(study(columns(count), {"groups": 12, "bins": 16}))
    assert model.anchor.wide is None
    assert model.anchor.layout is not None
    assert [each.name for each in model.anchor.sums()] == ["marginals", "pairs"]


@pytest.mark.parametrize("count", [64, 100, 200, 400])
def test_messages_of_wide_tables_are_bounded_by_cells_and_products(count: int) -> None:
    anchor = Gan(study(columns(count), {"bins": 16})).anchor
    narrow = {each.name: each for each in Gan(study(columns(20), {})).anchor.sums()}
    sums = {each.name: each for each in anchor.sums()}
    assert anchor.wide is not None
    assert anchor.layout is None
    assert sums["scan"].share + sums["pairs"].share == pytest.approx(narrow["pairs"].share)
    for name in ("scan", "pairs"):
        assert sums[name].dim <= anchor.encoder.width + MAX_DIM
        sent = sum(int(np.prod(shape)) for _, shape in sums[name].payload)
        assert sent <= anchor.encoder.width * (anchor.groups + 2) + 2 * MAX_DIM


def test_a_column_of_thousands_of_categories_leaves_room_for_fewer_components() -> None:
    names = tuple(f"v{i}" for i in range(4096))
    wide = [{"name": f"c{i}", "kind": "categorical", "values": names} for i in range(40)]
    anchor = Gan(study([*wide, *columns(20)], {})).anchor
    assert anchor.components * anchor.encoder.width <= MOST_LOGITS
    assert anchor.components < Gan(study(columns(20), {})).anchor.components
    assert anchor.wide is not None  # its cells alone would be more than a message of all pairs holds


def test_every_pair_is_scanned_until_there_are_more_columns_than_room_then_the_targets_and_neighbours() -> None:
    layout, first = of_scalars(numbers(150))
    assert len(scanned(layout, first).pairs) == 150 * 149 // 2
    many, first = of_scalars(numbers(300))
    pairs = scanned(many, first).pairs
    assert many.scan.products == MAX_DIM
    assert (pairs == many.target).any(axis=1).sum() == 299
    others = pairs[(pairs != many.target).all(axis=1)]
    assert (others[:, 1] - others[:, 0]).max() < 150


def test_norms_that_scale_contributions_are_those_of_contributions() -> None:
    layout, first = of_scalars(numbers(30))
    rng = np.random.default_rng(0)
    skewed = [rng.dirichlet(np.full(12, 0.3)) for _ in range(30)]
    histograms = Histograms(np.concatenate(skewed), first.noise_std)
    embedding = scanned(layout, histograms)
    message = {name: each.astype(np.float64) for name, each in layout.scan.message(embedding).items()}
    batch = np.concatenate([np.eye(12)[rng.choice(12, 4000, p=own)] for own in skewed], axis=1)
    norms = np.linalg.norm(layout.scan.contributions(batch, message), axis=1)
    # Two quantiles of 2,000 and 4,000 draws differ in rank by 0.033 in 1 of 10,000 runs.
    assert 0.867 < np.mean(norms <= 1.0) < 0.933


def test_a_message_asks_for_exactly_the_products_of_its_pairs() -> None:
    layout, first = of_scalars((*numbers(5), Categorical(name="kind", values=("a", "b", "c"))))
    pairs = np.array([[0, 3], [1, 5]])
    embedding = layout.chosen.embedding(first, pairs, target=5)
    message = {name: each.astype(np.float64) for name, each in layout.chosen.message(embedding).items()}
    batch = one_hot(layout.chosen, 7)
    found = layout.chosen.contributions(batch, message)[:, layout.chosen.width :]
    parts = np.split(batch, np.cumsum(layout.chosen.sizes)[:-1], axis=1)
    tables = np.split(embedding.table, np.cumsum(layout.chosen.sizes)[:-1])
    features = [part @ table[:, :count] for part, table, count in zip(parts, tables, embedding.counts, strict=True)]
    wanted = [np.einsum("ri,rj->rij", features[i], features[j]).reshape(7, -1) for i, j in pairs]
    np.testing.assert_allclose(found[:, : embedding.starts[-1]], np.concatenate(wanted, axis=1), atol=1e-6)
    np.testing.assert_array_equal(found[:, embedding.starts[-1] :], 0.0)


@pytest.mark.parametrize("wild", [-1e4, 1e4, 0.12345])
def test_indices_of_no_feature_stand_for_the_nearest_one_whatever_the_record(wild: float) -> None:
    layout, first = of_scalars(numbers(6))
    message = layout.chosen.message(layout.chosen.embedding(first, layout.every, layout.target))
    arrays = {name: each.astype(np.float64) for name, each in message.items()}
    arrays |= {FIRST: np.full_like(arrays[FIRST], wild), SECOND: np.full_like(arrays[SECOND], wild)}
    batch = one_hot(layout.chosen, 9)
    whole = layout.chosen.contributions(batch, arrays)
    assert whole.shape == (9, layout.chosen.dim)
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(layout.chosen.contributions(batch[4:5], arrays)[0], whole[4])


def test_groups_that_sum_to_nothing_need_one_feature_less_and_tell_as_much() -> None:
    layout, first = of_scalars(numbers(4))
    embedding = scanned(layout, first)
    assert embedding.counts.tolist() == [2, 2, 2, 2]
    distances = np.linalg.norm(embedding.table[0] - embedding.table[[3, 4, 11]], axis=1)
    assert distances[0] == pytest.approx(0.0)  # of the same third
    assert distances[1] == pytest.approx(distances[2])
    assert distances[1] > 0


def test_noise_alone_stands_out_as_seldom_as_stated() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 4, 100):  # 20,000 draws: 4 standard deviations of the rate 0.023 are 0.0042
        energy = (rng.normal(size=(20_000, count)) ** 2).sum(1)
        assert np.mean(standing(energy, np.full(20_000, count)) > 2.0) == pytest.approx(0.0228, abs=0.006)
        assert np.mean(standing(energy, np.full(20_000, count)) > STANDS_OUT) < 0.001
    assert standing(np.array([1.0]), np.array([0]))[0] == -np.inf


def test_the_choice_is_the_targets_pairs_and_those_that_stand_out_of_the_noise() -> None:
    layout, first = of_scalars(numbers(60))
    embedding = scanned(layout, first)
    products = np.random.default_rng(0).normal(size=len(embedding.first))
    strong = np.flatnonzero((embedding.pairs != layout.target).all(axis=1))[[5, 500, 900]]
    for pair in strong:
        products[embedding.starts[pair]] += 12.0
    chosen = layout.choose(embedding, products, noise_std=1.0).tolist()
    assert sum(layout.target in pair for pair in chosen) == 59
    assert all(pair in chosen for pair in embedding.pairs[strong].tolist())
    assert len(chosen) < 59 + 3 + 7  # of 1,708 others 0.4 stand out by chance, and 7 or more in 1 of 10^6 runs
    assert len({tuple(pair) for pair in chosen}) == len(chosen)


@pytest.mark.parametrize("count", [6, 90])
def test_the_misfit_is_that_of_expected_products_however_it_is_computed(count: int) -> None:
    layout, first = of_scalars(numbers(count))
    embedding = layout.chosen.embedding(first, layout.every[:9], layout.target)
    moments, kept = np.random.default_rng(0).normal(size=len(embedding.first)), np.arange(9) != 4
    misfit = ColumnMisfit(layout.chosen, embedding, moments, 0.5, kept)
    rng = torch.Generator().manual_seed(0)
    expected = torch.cat([torch.rand(40, 12, generator=rng).softmax(1) for _ in range(count)], 1)
    weights = torch.rand(40, generator=rng)
    weights /= weights.mean()
    parts = np.split(expected.numpy().astype(np.float64), count, axis=1)
    features = [part @ table for part, table in zip(parts, np.split(embedding.table, count), strict=True)]
    slow, w = 0.0, weights.numpy()
    blocks = np.split(moments, embedding.starts[1:-1])
    for place in np.flatnonzero(kept):
        low, high = (features[i][:, : embedding.counts[i]] for i in embedding.pairs[place])
        found = (low * w[:, None]).T @ high / 40 - np.outer((low.T * w).mean(1), (high.T * w).mean(1))
        slow += np.sum((found.ravel() - blocks[place]) ** 2) / 0.25
    assert float(misfit(expected, weights)) == pytest.approx(slow, rel=1e-4)
    assert misfit.count == sum(blocks[place].size for place in np.flatnonzero(kept))


def test_a_wide_study_resumes_from_its_state_and_survives_lost_scans() -> None:
    terms, records = study(columns(), OPTIONS), latent_factors(600, seed=3)
    model = Gan(terms)
    fitting, core = model.anchor.fitting(seed=1), Core(model, records)
    for _ in range(5):
        ask = fitting.ask(core.remaining)
        assert ask is not None
        core.remaining[ask.sum] -= 1
        fitting.receive(core.answer(core.sums[ask.sum], ask.payload))
    again = model.anchor.fitting(seed=8)
    again.load(fitting.state())
    one, two = (each.ask(core.remaining) for each in (fitting, again))
    assert one is not None
    assert two is not None
    assert one.sum == two.sum == "pairs"
    np.testing.assert_array_equal(one.payload[FEATURES], two.payload[FEATURES])
    np.testing.assert_array_equal(one.payload[FIRST], two.payload[FIRST])
    lost = model.anchor.fitting(seed=1)
    state = lost.state() | {name: each for name, each in fitting.state().items() if name.startswith("marginals")}
    lost.load(state)
    ask = lost.ask(core.remaining | {"scan": 0})
    assert ask is not None
    assert ask.sum == "pairs"


def strong_error(monkeypatch: pytest.MonkeyPatch, is_adaptive: bool) -> float:
    """Return how far the strong pairs of a sample are from the records', in total variation on 6 x 6 cells."""
    records = latent_factors(6000, seed=0)
    with monkeypatch.context() as patch:
        if not is_adaptive:
            patch.setattr(table_anchor, "is_wide", lambda *_: False)
        terms = study(columns(), OPTIONS)
        terms = terms.model_copy(update={"privacy": terms.privacy.model_copy(update={"units_per_site": 2500})})
        model = Gan(terms)
    fitting, core = model.anchor.fitting(seed=0), Core(model, records, promise=terms)
    while (ask := fitting.ask(core.remaining)) is not None:
        core.remaining[ask.sum] -= 1
        fitting.receive(core.answer(core.sums[ask.sum], ask.payload))
    fitting.fit()
    encoder = model.anchor.encoder
    cells = fitting.sample(6000, torch.Generator().manual_seed(0)).numpy()
    codes = np.stack([block.argmax(1) for block in np.split(cells, encoder.offsets[1:-1], axis=1)], axis=1)
    errors = []
    for low, high in STRONG:
        edges = [np.quantile(records[:, i], np.linspace(0, 1, 7)[1:-1]) for i in (low, high)]
        tables = []
        for each in (records, encoder.decode(codes, np.random.default_rng(0))):
            first, second = (np.searchsorted(e, each[:, i]) for e, i in zip(edges, (low, high), strict=True))
            tables.append(np.bincount(6 * first + second, minlength=36))
        errors.append(np.abs(tables[0] - tables[1]).sum() / 12_000)
    return float(np.mean(errors))


def test_a_chosen_pair_comes_back_better_than_from_two_groups_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same records, budget, steps and seeds: all draws are fixed, so that no chance raises a false alarm.
    assert strong_error(monkeypatch, is_adaptive=True) < 0.85 * strong_error(monkeypatch, is_adaptive=False)


def test_the_fit_of_wide_tables_takes_a_pair_from_the_finer_of_both_statistics() -> None:
    layout, first = of_scalars(numbers(64))
    fitting, rng = WideFitting(layout), np.random.default_rng(0)
    assert fitting.misfit(100.0, lambda: first) is None
    core_free = {"scan": layout.scan, "pairs": layout.chosen}
    for name, each in core_free.items():
        fitting.receive(Answer(name, rng.normal(size=each.dim), 1.0, 3))
    misfit = fitting.misfit(100.0, lambda: first)
    assert misfit is not None
    chosen = layout.choose(scanned(layout, first), fitting._scan.total[layout.scan.width :], 1.0)
    embedding = layout.chosen.embedding(first, chosen, layout.target)
    left = len(layout.every) - len(embedding.pairs)
    assert misfit.count == len(embedding.first) + 4 * left
