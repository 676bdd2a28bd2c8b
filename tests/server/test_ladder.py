"""Comparisons under several promises: what is run, how rows are dealt, the table and the picture."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.server.compare.apart import _heard, _told
from synthfed.server.compare.entries import DataSet
from synthfed.server.compare.plan import Plan, Wanted, choose, parse_plan
from synthfed.server.compare.plot import draw, write_plot
from synthfed.server.compare.results import Cost, Measure, Place, Results, Run
from synthfed.server.compare.rows import _declared, read_cells, skewed, split
from synthfed.server.compare.table import render

PLAN = """
format = 1
seeds = [0]
epsilons = [1, 3, inf]

[[models]]
name = "gan"
data = ["iris"]

[[models]]
name = "loud"
plugin = "gan"
data = ["iris"]
epsilons = [100, inf]

[[peers]]
name = "copula"
system = "gaussian-copula"
data = ["iris", "half"]

[[peers]]
name = "aim"
system = "aim"
data = ["half"]

[[data]]
name = "iris"
source = "sklearn:iris"
target = "target"
sites = 3
splits = ["equal", "skewed"]
few = 9
privacy = { mode = "distributed", epsilon = 10, delta = 1e-5, units_per_site = 40, sample_rate = 0.2, steps = 5 }
columns = [
    { name = "petal length (cm)", kind = "real", lower = 1, upper = 7, decimals = 1 },
    { name = "target", kind = "categorical", values = ["setosa", "versicolor", "virginica"] },
]

[[data]]
name = "half"
like = "iris"
splits = []
most_train = 50
"""


def plan_of(text: str = PLAN) -> Plan:
    return parse_plan(text, where="plan.toml")


def keys(plan: Plan, **wanted: str) -> list[tuple[str, str]]:
    """The split and the epsilon of every run of a model on a data set."""
    return [run.key[3:] for run in plan.wanted() if run.key[:2] == (wanted["model"], wanted["data"])]


def measured(model: str, value: float, seed: int = 0, **others: Any) -> Run:
    measures = {"auc-mean": Measure(value=value, real=0.95), "tvd2-strict": Measure(value=0.2)}
    fields: dict[str, Any] = {
        "model": model,
        "data": "iris",
        "seed": seed,
        "split": "",
        "rung": "1",
        "terms": "t",
        "sites": 3,
        "train": 105,
        "test": 45,
        "measures": measures,
        "cost": Cost(seconds=12.0, cpu_seconds=20.0, peak_mib=700.0),
        "epsilon": 1.0,
        "delta": 1e-5,
        "place": Place(machine="a machine", versions={"numpy": "2"}),
    }
    return Run(**(fields | others))


def test_every_entry_is_run_under_the_promises_that_mean_something_to_it() -> None:
    plan = plan_of()
    both = [(split, epsilon) for split in ("equal", "skewed") for epsilon in ("1", "3")]
    assert keys(plan, model="gan", data="iris") == both
    assert keys(plan, model="loud", data="iris") == [("equal", "100"), ("skewed", "100")]
    assert keys(plan, model="floor", data="iris") == [("", "1"), ("", "3")]
    assert keys(plan, model="copula", data="iris") == [("", "inf")]
    assert keys(plan, model="aim", data="half") == [("", "1"), ("", "3")]
    assert {run.data.privacy.epsilon for run in plan.wanted() if run.key[4] == "3"} == {3.0}


def test_a_data_set_like_another_has_its_fields_but_for_its_own() -> None:
    iris, half = plan_of().data
    assert (half.columns, half.target, half.most_train, half.splits) == (iris.columns, "target", 50, ())


def test_a_run_of_a_ladder_told_to_another_process_is_the_same_run() -> None:
    runs = choose(plan_of(), [])
    for wanted in runs:
        heard = _heard(json.loads(json.dumps(_told(wanted))))
        assert (heard.key, heard.terms) == (wanted.key, wanted.terms)
    assert len({run.key for run in runs}) == len({(run.key, run.terms) for run in runs}) == len(runs)


def of(plan: Plan, model: str) -> Wanted:
    return next(run for run in plan.wanted() if run.key[0] == model)


def test_a_peers_result_counts_while_only_what_it_never_sees_changes() -> None:
    changed = plan_of(PLAN.replace("steps = 5", "steps = 6").replace('splits = ["equal", "skewed"]', ""))
    assert of(changed, "copula").terms == of(plan_of(), "copula").terms
    assert of(changed, "aim").terms == of(plan_of(), "aim").terms
    assert of(changed, "gan").terms != of(plan_of(), "gan").terms
    other = plan_of(PLAN.replace("delta = 1e-5", "delta = 1e-6"))
    assert of(other, "copula").terms == of(plan_of(), "copula").terms
    assert of(other, "aim").terms != of(plan_of(), "aim").terms


def test_results_under_several_promises_stand_side_by_side_in_the_file(tmp_path: Path) -> None:
    runs = choose(plan_of(), ["model=gan", "model=copula"])
    results = Results(tmp_path / "r.json")
    for wanted in runs:
        model, data, seed, split_, rung = wanted.key
        terms = {"epsilon": None, "delta": None} if rung == "inf" else {}
        results.add(measured(model, 0.9, seed, data=data, split=split_, rung=rung, terms=wanted.terms, **terms))
    assert len(Results(tmp_path / "r.json").of(runs)) == len(runs)


def test_a_filter_without_a_name_is_refused_with_every_name_it_could_have() -> None:
    with pytest.raises(ConfigError, match="'iris' must be model=NAME,data=NAME,seed=NUMBER,split=NAME,epsilon=NUMBER"):
        choose(plan_of(), ["iris"])


def test_filters_know_splits_and_promises() -> None:
    chosen = choose(plan_of(), ["model=gan, split=skewed, epsilon=3"])
    assert [run.key for run in chosen] == [
        *((name, "iris", 0, "", "3") for name in ("floor", "naive-bayes")),
        ("gan", "iris", 0, "skewed", "3"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epsilons = [1, 3, inf]", "epsilons = [0, inf]", "must be above 0 and at most 100, or inf"),
        ("epsilons = [1, 3, inf]", "epsilons = [101]", "must be above 0 and at most 100, or inf"),
        ('like = "iris"', 'like = "isis"', "data 'half' is like 'isis', which is not above it"),
        ("sites = 3", 'sites = "hospital"', "the column 'hospital' deals the rows; leave `splits` out"),
        ('name = "copula"', 'name = "floor"', "must not be 'floor'"),
        ('name = "aim"', 'name = "copula"', "'copula' is there twice for data 'half'"),
        ('system = "aim"', 'system = "mim"', "system"),
        ('"petal length (cm)", kind = "real"', '"x", kind = "array", shape = [2]', "reads tables only"),
    ],
)
def test_a_ladder_that_is_wrong_is_refused_with_the_place(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^plan.toml") as refused:
        plan_of(PLAN.replace(old, new, 1))
    assert message in str(refused.value)


def test_a_skew_gives_each_site_other_shares_of_each_category_and_loses_no_row(tmp_path: Path) -> None:
    iris = plan_of().data[0]
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    equal, skew = (
        split(iris, read_cells(iris, None), 0, folder, dealing)
        for folder, dealing in zip(folders, iris.splits, strict=True)
    )
    assert np.array_equal(equal.test, skew.test)
    assert np.array_equal(np.sort(equal.train, axis=0), np.sort(skew.train, axis=0))
    sizes = [len(path.read_text(encoding="utf-8").splitlines()) - 1 for path in skew.sites.values()]
    assert sum(sizes) == 105
    assert max(sizes) > 1.2 * 35
    assert (equal.declared, skew.declared) == (0, _declared(max(sizes)))


def labels_of(sites: int, seed: int, data: DataSet) -> list[list[int]]:
    labels = np.repeat(["setosa", "versicolor"], 500)
    parts = skewed(data, labels, sites, np.random.default_rng(seed))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    return [[int((labels[part] == name).sum()) for name in ("setosa", "versicolor")] for part in parts]


def test_a_skew_is_of_the_targets_categories_and_no_site_is_left_without_rows() -> None:
    iris = plan_of().data[0]
    for seed in range(20):
        counts = labels_of(5, seed, iris)
        assert min(map(sum, counts)) >= 10
        shares = [first / (first + second) for first, second in counts]
        assert max(shares) - min(shares) > 0.2
    of_numbers = iris.model_copy(update={"target": "petal length (cm)"})
    for first, second in labels_of(5, 0, of_numbers):
        assert abs(first - second) < 40  # sizes differ, and what a site has of each does not


def test_too_many_sites_for_a_skew_are_refused() -> None:
    with pytest.raises(DataError, match="too few rows for so many skewed sites"):
        skewed(plan_of().data[0], np.repeat(["setosa"], 4), 5, np.random.default_rng(0))


def test_a_declared_number_is_the_largest_site_rounded_up_to_two_digits() -> None:
    assert [_declared(rows) for rows in (7, 99, 100, 101, 11_791)] == [7, 99, 100, 110, 12_000]


def some_runs() -> list[Run]:
    return [
        *(measured("floor", 0.5, seed, cost=None) for seed in (0, 1)),
        *(measured("gan", value, seed, split="skewed") for seed, value in enumerate((0.8, 0.9))),
        measured("gan", 0.9, rung="3", split="skewed"),
        measured("copula", 0.7, rung="inf", sites=1, epsilon=None, delta=None),
        measured("aim", 0.0, rung="3", error="peer 'aim' was ended after 60 minutes"),
    ]


def test_the_table_of_a_ladder_shows_each_system_under_each_promise() -> None:
    text = render(plan_of(), some_runs())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {17}
    assert [row[:4] for row in rows[2:]] == [
        ["-", "*real rows*", "-", "0.950"],
        ["1", "*histograms*", "all rows in one place", "0.500"],
        ["1", "`gan`", "3, skewed", "0.850"],
        ["3", "`gan`", "3, skewed", "0.900"],
        ["none", "`copula`", "all rows in one place", "0.700"],
    ]
    assert [row[-4:] for row in rows[3:5]] == [["-", "-", "-", "2"], ["12", "20", "700", "2"]]
    assert "- `aim`, epsilon 3, seed 0, failed: peer 'aim' was ended after 60 minutes" in text
    assert "105 training rows at 3 sites, 45 held out; delta 1e-05" in text


def test_a_data_set_of_which_all_failed_says_so() -> None:
    text = render(plan_of(), some_runs()[-1:])
    assert "failed: peer 'aim'" in text
    assert "real rows" not in text


def test_the_picture_joins_what_is_promised_and_stays_apart_from_what_is_not(tmp_path: Path) -> None:
    write_plot(tmp_path / "p.svg", plan_of(), some_runs())
    tree = ElementTree.parse(tmp_path / "p.svg").getroot()  # noqa: S314  (our own file)
    name = "{http://www.w3.org/2000/svg}"
    texts = [each.text for each in tree.iter(f"{name}text")]
    assert {"histograms", "gan, skewed sites", "copula", "iris: AUC", "iris: tvd2 strict", "none"} <= set(texts)
    assert "iris: coverage" not in texts  # of which nothing was measured
    assert len(list(tree.iter(f"{name}circle"))) == 2 * 4
    joined = [line for line in tree.iter(f"{name}polyline") if line.get("stroke") == "#D55E00"]
    assert [line.get("stroke-dasharray") for line in joined] == ["4 3", "4 3", None, "4 3"]  # legend, line, seeds, line


def test_the_picture_of_nothing_is_a_picture() -> None:
    assert ElementTree.fromstring(draw(plan_of(), [])).tag.endswith("svg")  # noqa: S314  (our own text)


def test_the_same_entry_under_another_split_is_another_run() -> None:
    run = of(plan_of(), "gan")
    other = replace(run, split="skewed")
    assert run.key != other.key
    assert run.terms != other.terms
