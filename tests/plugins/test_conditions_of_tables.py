"""Conditions on a mixture's rows: what rejection would leave, for every kind of column, however rare they are."""

import math
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pytest
import torch
from scipy.stats import chi2  # type: ignore[import-untyped]
from tests.plugins.core import study

from synthfed.plugins.api import Given, Span
from synthfed.plugins.domains.encoding import Block, OneHotEncoder
from synthfed.plugins.models.gan import Gan
from synthfed.plugins.models.tables.generator import Generator
from synthfed.plugins.models.tables.mixture import MixtureGenerator
from synthfed.plugins.models.tables.network import NetworkGenerator
from synthfed.plugins.models.tables.sampling import centring
from synthfed.plugins.models.tables.table_fitting import TableFitting
from synthfed.protocols.errors import ConfigError, LocalProtocolError
from synthfed.protocols.schema import Categorical, Integer, Real, Records, Scalar

COLUMNS: Final[list[dict[str, Any]]] = [
    {"name": "kind", "kind": "categorical", "values": ["a", "b", "c"], "missing": True},
    {"name": "age", "kind": "integer", "lower": 0, "upper": 99},
    {"name": "gain", "kind": "integer", "lower": 0, "upper": 20_000, "scale": "log", "missing": True},
    {"name": "dose", "kind": "real", "lower": 0.0, "upper": 10.0, "decimals": 1, "missing": True},
    {"name": "level", "kind": "real", "lower": 1.0, "upper": 900.0, "scale": "log", "decimals": 3},
    {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
]
NAMES: Final = [column["name"] for column in COLUMNS]
MISSING: Final = Span.at(math.nan)
COMPONENTS: Final = 12
FALSE_ALARM: Final = 1e-6
"""How likely a comparison of two sets of rows fails by chance; a seed fixes whether it does."""


def made(options: Mapping[str, Any] | None = None) -> tuple[Gan, Generator, TableFitting]:
    """Return a model of `COLUMNS`, a generator whose components differ much, and released marginals of its own."""
    model = Gan(study(COLUMNS, {"bins": 8, "components": COMPONENTS} | dict(options or {})))
    generator, fitting, rng = model.generator(0), model.fitting(0), torch.Generator().manual_seed(5)
    if isinstance(generator, MixtureGenerator):
        torch.nn.init.normal_(generator.table, std=1.5, generator=rng)
    blocks = [torch.rand(size, generator=rng) + 0.05 for size in generator.sizes]
    fitting.target = torch.cat([block / block.sum() for block in blocks])
    generator.aim(fitting.target, None)
    return model, generator, fitting


def sampled(rows: int, seed: int, **given: Span) -> Records:
    model, generator, fitting = made()
    return model.sample(generator, fitting, rows, seed, given)


def meets(records: Records, given: Given) -> np.ndarray:
    kept = np.ones(len(records), dtype=np.bool_)
    for name, span in given.items():
        values = records[:, NAMES.index(name)]
        kept &= np.isnan(values) if span.is_missing else (values >= span.low) & (values <= span.high)
    return kept


def p_value(one: np.ndarray, other: np.ndarray) -> float:
    """Return how likely two sets of numbers of classes are to differ so much if they have one law (chi-square)."""
    size = int(max(one.max(), other.max())) + 1
    counts = np.stack([np.bincount(each, minlength=size) for each in (one, other)]).astype(float)
    rare = counts.sum(0) < 20
    counts = np.column_stack([counts[:, ~rare], counts[:, rare].sum(1)])
    counts = counts[:, counts.sum(0) > 0]
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), max(counts.shape[1] - 1, 1)))


def finely(records: Records) -> np.ndarray:
    """Return every value's class on a grid far finer than the cells, shape ``(rows, columns)``."""
    columns = Gan(study(COLUMNS, {})).anchor.encoder.blocks
    fine = OneHotEncoder([block.column for block in columns], bins=60)
    return fine.codes(records)


@pytest.fixture(scope="module")
def everything() -> Records:
    return np.concatenate([sampled(200_000, seed) for seed in range(10, 14)])


@pytest.mark.parametrize(
    "given",
    [
        {"kind": Span.at(1)},
        {"kind": MISSING},
        {"age": Span(30, 40)},
        {"age": Span.at(37)},
        {"gain": Span(3, 700)},
        {"gain": Span.at(0)},
        {"dose": Span(2.3, 5.6)},
        {"dose": MISSING},
        {"level": Span(1.0, 17.25)},
        {"ill": Span.at(1), "age": Span(25, 61), "dose": Span(0.0, 3.4)},
        {"kind": Span.at(2), "gain": Span(5, 20_000), "level": Span(2.5, 400)},
    ],
    ids=str,
)
def test_records_under_conditions_are_those_that_rejection_leaves(given: dict[str, Span], everything: Records) -> None:
    drawn = sampled(40_000, 1, **given)
    assert meets(drawn, given).all()
    left = everything[meets(everything, given)]
    assert len(left) > 1000
    one, other = finely(drawn), finely(left)
    pairs = [(i, j) for i in range(len(NAMES)) for j in range(i)]
    for i, j in pairs:
        mine, theirs = (codes[:, i] // 6 * 100 + codes[:, j] // 6 for codes in (one, other))
        assert p_value(mine, theirs) > FALSE_ALARM / len(pairs), (NAMES[i], NAMES[j])
    for i, name in enumerate(NAMES):
        assert p_value(one[:, i], other[:, i]) > FALSE_ALARM / len(NAMES), name


def test_conditions_met_once_in_billions_are_exact_and_cost_no_more() -> None:
    rare = {"age": Span.at(41), "gain": Span.at(9999), "level": Span(5.001, 5.003), "dose": Span.at(7.7)}
    started = time.process_time()
    sampled(50_000, 3, age=Span(0, 99))
    common_s, started = time.process_time() - started, time.process_time()
    drawn = sampled(50_000, 3, **rare)
    assert time.process_time() - started < 2 * common_s + 0.5
    assert meets(drawn, rare).all()
    # What the components say, by hand: chances by Bayes' rule, then a mixture of the columns left.
    model, generator, fitting = made()
    assert isinstance(generator, MixtureGenerator)
    shift = centring(generator, fitting.target, torch.Generator().manual_seed(3))
    logits = (generator.table + generator.start + shift).double().detach()
    cells = [torch.softmax(block, 1).numpy() for block in logits.split_with_sizes(generator.sizes, 1)]
    likelihood, blocks = np.ones(COMPONENTS), model.anchor.encoder.blocks
    for name, span in rare.items():
        begin, end = blocks[NAMES.index(name)].portion(span)
        likelihood *= cells[NAMES.index(name)] @ (end - begin)
    assert likelihood.max() < 1e-9
    chances = likelihood / likelihood.sum()
    for name in ("kind", "ill"):
        block = blocks[NAMES.index(name)]
        found = np.bincount(block.encode(drawn[:, NAMES.index(name)]), minlength=block.width)
        expected = 50_000 * chances @ cells[NAMES.index(name)]
        assert chi2.sf(((found - expected) ** 2 / expected).sum(), block.width - 1) > FALSE_ALARM


def test_a_combination_beyond_the_reach_of_a_float_is_still_met() -> None:
    generator = MixtureGenerator(2, [2] * 200)
    generator.table.data[:, ::2] = torch.tensor([[-9.0], [-9.01]])
    limits = torch.tensor([0.0, -torch.inf], dtype=torch.float64).repeat(200)
    chances = generator.chances(torch.zeros(400), limits).detach()
    assert math.log(float(chances[0] / chances[1])) == pytest.approx(200 * 0.01, rel=1e-3)


def test_what_has_the_probability_zero_is_refused() -> None:
    generator = MixtureGenerator(2, [2, 2])
    generator.table.data[:, 0] = -torch.inf
    limits = torch.tensor([0.0, -torch.inf, 0.0, 0.0], dtype=torch.float64)
    with pytest.raises(ConfigError, match="the model gives such records the probability 0"):
        generator.chances(torch.zeros(4), limits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"age": Span(30.2, 30.8)}, "column 'age' has no value from 30.2 to 30.8 as a file shows it"),
        ({"dose": Span(2.31, 2.39)}, "column 'dose' has no value from 2.31 to 2.39"),
        ({"age": MISSING}, "column 'age' has no value missing"),
    ],
)
def test_a_span_without_a_value_is_refused_with_its_column(given: dict[str, Span], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sampled(5, 0, **given)


def test_the_seed_fixes_the_records_and_the_rest_of_them_varies() -> None:
    given = {"age": Span(30, 40), "kind": Span.at(0)}
    first = sampled(500, 1, **given)
    np.testing.assert_array_equal(first, sampled(500, 1, **given))
    assert not np.array_equal(first, sampled(500, 2, **given), equal_nan=True)


def test_a_component_is_drawn_as_often_as_its_chance_says_up_to_one() -> None:
    generator = MixtureGenerator(4, [2])
    chances = torch.tensor([0.5, 0.0, 0.1, 0.4], dtype=torch.float64)
    latents = generator.latents(105, torch.Generator().manual_seed(0), chances)
    counts = np.bincount(latents[:, 0].long(), minlength=4)
    assert counts[1] == 0
    assert np.abs(counts - 105 * chances.numpy()).max() < 1


def test_a_mixture_meets_conditions_on_every_column_and_a_network_on_none() -> None:
    assert made()[0].conditions == tuple(NAMES)
    model, generator, fitting = made({"generator": "network"})
    assert model.conditions == ()
    with pytest.raises(ConfigError, match="'age' cannot be fixed in sampling"):
        model.sample(generator, fitting, 5, 0, {"age": Span.at(3)})
    network = NetworkGenerator(2, 4, 1, [2])
    with pytest.raises(LocalProtocolError, match="cannot be counted"):
        network.chances(torch.zeros(2), torch.zeros(2))


BLOCKS: Final[dict[str, Scalar]] = {
    "whole numbers": Integer(name="n", lower=-7, upper=90),
    "few whole numbers": Integer(name="n", lower=0, upper=3),
    "whole numbers with a tail": Integer(name="n", lower=-3, upper=1000, scale="log", missing=True),
    "decimals": Real(name="x", lower=0.123, upper=0.987, decimals=2),
    "decimals with a tail": Real(name="x", lower=2, upper=90, scale="log", decimals=1, missing=True),
    "bounds that cannot be written": Real(name="x", lower=0.2, upper=3.4, decimals=0),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_portion_holds_the_places_whose_values_lie_in_the_span_and_no_others(name: str) -> None:
    block = OneHotEncoder((BLOCKS[name],), bins=6).blocks[0]
    rng = np.random.default_rng(0)
    places = rng.random(997)
    cells = np.repeat(np.arange(block.values), len(places))
    values = block.decode(cells, np.tile(places, block.values))
    for low, high in np.sort(rng.choice(values, (40, 2)), axis=1):
        begin, end = block.portion(Span(low, high))
        inside = (values >= low) & (values <= high)
        within = (np.tile(places, block.values) >= begin[cells]) & (np.tile(places, block.values) <= end[cells])
        np.testing.assert_array_equal(inside, within & (end > begin)[cells])


def test_numbers_lie_evenly_in_the_part_of_a_cell_that_is_asked_for() -> None:
    encoder = OneHotEncoder((Real(name="x", lower=0, upper=8, decimals=6),), bins=2)
    portions = encoder.portions({"x": Span(1.0, 1.5)})
    drawn = encoder.decode(np.ones((20_000, 1), dtype=np.int64), np.random.default_rng(0), portions)
    assert drawn.min() >= 1.0
    assert drawn.max() <= 1.5
    # A mean of 20,000 even numbers; five standard deviations, by chance once in 1.7 million.
    assert abs(drawn.mean() - 1.25) < 5 * 0.5 / math.sqrt(12 * 20_000)


def test_a_category_or_a_missing_value_takes_its_whole_cell_and_no_other() -> None:
    block = Block(Categorical(name="k", values=("x", "y"), missing=True), 2, np.empty(0))
    assert [each.tolist() for each in block.portion(Span.at(1))] == [[0, 0, 0], [0, 1, 0]]
    assert [each.tolist() for each in block.portion(MISSING)] == [[0, 0, 0], [0, 0, 1]]
