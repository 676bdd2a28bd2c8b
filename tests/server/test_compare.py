"""The comparison of models: what it measures, what it writes, what it resumes, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from sklearn.datasets import load_digits

from synthfed.plugins.api import Given
from synthfed.plugins.models.adversarial.table_gan import TableGanOptions
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import ModelTerms, Study
from synthfed.server import cli
from synthfed.server.compare import rows as rows_module
from synthfed.server.compare.apart import _ended, _heard, _told, run_apart
from synthfed.server.compare.comparison import Request, compare
from synthfed.server.compare.dimensions import control, gain, of_floor, of_naive_bayes, score, smoothness
from synthfed.server.compare.entries import DataSet
from synthfed.server.compare.floors import gaussian_rows, histogram_rows, noise_std
from synthfed.server.compare.plan import Plan, choose, parse_plan
from synthfed.server.compare.results import Cost, Measure, Place, Results, Run
from synthfed.server.compare.rows import read_cells, split
from synthfed.server.compare.run import study_of
from synthfed.server.compare.table import BEGIN, END, render, verdict, write_page

ROOT = Path(__file__).parents[2]
PLAN = """
format = 1
seeds = [0]

[[models]]
name = "small"
plugin = "tabular-gan"
data = ["iris"]
steps = 2
options = { refine = true, bins = 6, fit_steps = 20, fakes = 32, generator_hidden = 16, critic_hidden = 8 }

[[models]]
name = "absent"
data = ["iris"]

[[data]]
name = "iris"
source = "sklearn:iris"
target = "target"
sites = 3
few = 9
privacy = { mode = "distributed", epsilon = 10, delta = 1e-5, units_per_site = 40, sample_rate = 0.2, steps = 5 }
columns = [
    { name = "sepal length (cm)", kind = "real", lower = 4, upper = 8, decimals = 1 },
    { name = "petal length (cm)", kind = "real", lower = 1, upper = 7, decimals = 1 },
    { name = "petal width (cm)", kind = "real", lower = 0, upper = 3, decimals = 1 },
    { name = "target", kind = "categorical", values = ["setosa", "versicolor", "virginica"] },
]
"""
FLOOR_ONLY = "model=floor"


def plan_of(text: str = PLAN) -> Plan:
    return parse_plan(text, where="plan.toml")


def iris() -> DataSet:
    return plan_of().data[0]


def iris_study(**privacy: Any) -> Study:
    data = iris()
    terms = data.privacy.model_copy(update=privacy)
    return study_of(data, "floor", ModelTerms(plugin="floor"), terms, ["a", "b", "c"])


def iris_rows(tmp_path: Path) -> tuple[Records, Records]:
    parted = split(iris(), read_cells(iris(), None), 0, tmp_path)
    return parted.train, parted.test


def digits_study(epsilon: float) -> Study:
    data = DataSet.model_validate(
        {
            "name": "digits",
            "source": "sklearn:digits",
            "domain": "image",
            "target": "digit",
            "sites": 3,
            "privacy": iris().privacy.model_copy(update={"epsilon": epsilon, "units_per_site": 400}),
            "columns": [
                {"name": "pixels", "kind": "array", "shape": [1, 8, 8], "lower": 0, "upper": 16},
                {"name": "digit", "kind": "categorical", "values": [str(i) for i in range(10)]},
            ],
        }
    )
    return study_of(data, "floor", ModelTerms(plugin="floor"), data.privacy, ["a", "b", "c"])


class Conditional:
    """A model, and its trainer, that answers from a table of records by what was asked for plus ``shift``."""

    conditions = ("target",)

    def __init__(self, records: Records, shift: int = 0, walked: Records | None = None) -> None:
        self._records, self._shift = records, shift
        self._walked = np.empty((0, records.shape[1])) if walked is None else walked

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        kept = self._records[self._records[:, -1] == (given["target"].low + self._shift) % 3]
        return np.random.default_rng(seed).choice(kept, rows)

    def walk(self, *_: int) -> Records:
        return self._walked


def measured(value: float, seed: int = 0, *, model: str = "gan", **others: Any) -> Run:
    measures = {"tvd2": Measure(value=0.2), "auc": Measure(value=value, real=0.95)}
    cost = Cost(seconds=12.0, cpu_seconds=20.0, peak_mib=700.0, state_numbers=1234, sent_numbers=99)
    return Run(
        **{
            "model": model,
            "data": "iris",
            "seed": seed,
            "terms": "t",
            "sites": 3,
            "train": 105,
            "test": 45,
            "measures": measures,
            "cost": cost,
            "epsilon": 9.9,
            "delta": 1e-5,
            "spent": 9.876,
            "place": Place(machine="a machine", versions={"numpy": "2"}),
            **others,
        }
    )


def run_command(*arguments: str) -> None:
    typer.main.get_command(cli.compare).main(list(arguments), standalone_mode=False)


def test_a_comparison_measures_notes_a_failure_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "models.toml"
    file.write_text(PLAN, encoding="utf-8")
    run_command(str(file))
    assert "4 of 4 runs are to be done" in capsys.readouterr().out
    first = json.loads((tmp_path / "models.json").read_text())
    absent, floor, bayes, small = first["runs"]
    assert "is not installed" in absent["error"]
    assert [run["model"] for run in (absent, floor, bayes, small)] == ["absent", "floor", "naive-bayes", "small"]
    assert {"tvd2", "auc", "coverage", "gain"} <= set(small["measures"]) & set(floor["measures"])
    assert small["error"] == ""
    assert 0 < small["measures"]["auc"]["value"] <= 1
    assert small["measures"]["tvd2"]["real"] < floor["measures"]["tvd2"]["value"]
    assert 9 < small["spent"] <= 10
    assert small["cost"]["cpu_seconds"] > 0
    assert small["cost"]["peak_mib"] > 50
    assert small["cost"]["state_numbers"] > small["cost"]["sent_numbers"] > 0
    assert (small["sites"], small["train"], small["test"]) == (3, 105, 45)
    page = (tmp_path / "models.md").read_text()
    assert "| `small` |" in page
    assert "`absent`, seed 0, failed: plugin 'absent'" in page

    run_command(str(file))
    assert "1 of 4 runs are to be done" in capsys.readouterr().out
    assert json.loads((tmp_path / "models.json").read_text())["runs"][1:] == first["runs"][1:]


def test_a_run_whose_process_dies_is_a_failure_and_not_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    wanted = next(iter(choose(plan_of(), ["model=small"])))
    refused = wanted.data.model_copy(update={"source": "../iris.csv"})  # which no plan may say, so its process dies
    done = run_apart(replace(wanted, data=refused), None)
    assert done.key == wanted.key
    assert done.error == "its process ended with 1 and no result; what it said is above"
    assert "ValidationError" in capfd.readouterr().err


def test_a_killed_process_is_told_apart_from_one_that_failed() -> None:
    assert "memory" in _ended(-9)
    assert "memory" not in _ended(-15)


def test_a_run_told_to_another_process_is_the_same_run() -> None:
    for wanted in choose(plan_of(), []):
        heard = _heard(json.loads(json.dumps(_told(wanted))))
        assert (heard.key, heard.terms) == (wanted.key, wanted.terms)


def test_an_interruption_keeps_what_is_done(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(PLAN.replace("seeds = [0]", "seeds = [0, 1]"), encoding="utf-8")
    request = Request(file, None, tmp_path / "r.json", tmp_path / "r.md", only=[FLOOR_ONLY])

    def say(line: str) -> None:
        if line.startswith("3 of 4:"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(request, say)
    assert [run["seed"] for run in json.loads(request.results.read_text())["runs"]] == [0, 0]
    assert "*floor*" in request.page.read_text()


def test_a_run_of_changed_terms_is_not_taken_for_finished(tmp_path: Path) -> None:
    wanted = next(iter(choose(plan_of(), [FLOOR_ONLY])))
    changed = next(iter(choose(plan_of(PLAN.replace("epsilon = 10", "epsilon = 9")), [FLOOR_ONLY])))
    results = Results(tmp_path / "results.json")
    results.add(measured(0.9, model="floor", terms=wanted.terms))
    again = Results(tmp_path / "results.json")
    assert again.find(wanted) is not None
    assert again.find(changed) is None


def test_a_results_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"format": 2, "runs": []}')
    with pytest.raises(ConfigError, match=r"results.json: format.*choose another --results"):
        Results(tmp_path / "results.json")


def test_filters_choose_runs_and_bring_the_floor_along() -> None:
    plan = plan_of(PLAN.replace("seeds = [0]", "seeds = [0, 1]"))
    assert len(choose(plan, [])) == 8
    assert [run.key for run in choose(plan, ["model=small, seed=1"])] == [
        *((name, "iris", 1, "", "") for name in ("floor", "naive-bayes", "small"))
    ]
    assert len(choose(plan, ["data=iris,seed=0", "model=absent"])) == 7


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("model=smal", "no run of the plan meets 'model=smal'"),
        ("mode=small", "'mode' must be one of model, data, seed, split, epsilon"),
        ("small", "'small' must be model=NAME"),
    ],
)
def test_a_filter_that_meets_nothing_is_refused(only: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(plan_of(), [only])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "small"', 'name = "floor"', "must not be 'floor'"),
        ('name = "small"', 'name = "absent"', "'absent' is there twice for data 'iris'"),
        ('data = ["iris"]', 'data = ["iris", "isis"]', "'small' asks for data 'isis'"),
        ("steps = 5 }", 'steps = 5, unit = "person" }', "leave `unit` out"),
        ("seeds = [0]", "seeds = []", "seeds: must list at least 1"),
        ("few = 9", "fwe = 9", "fwe: is not a known field"),
        ("seeds = [0]", "seeds = [0", "is not valid TOML"),
    ],
)
def test_a_plan_that_is_wrong_is_refused_with_the_place(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^plan.toml") as refused:
        plan_of(PLAN.replace(old, new, 1))
    assert message in str(refused.value)


def test_the_published_plan_is_valid_and_its_page_has_a_place_for_the_table() -> None:
    plan = parse_plan((ROOT / "docs/models.toml").read_text(encoding="utf-8"), where="docs/models.toml")
    assert len(plan.seeds) == 3
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    assert page.index(BEGIN) < page.index(END)


def test_the_plan_of_the_critic_runs_one_model_with_and_without_it() -> None:
    plan = parse_plan((ROOT / "docs/critic.toml").read_text(encoding="utf-8"), where="docs/critic.toml")
    plain, refined = plan.models
    assert (plain.options, plain.plugin or plain.name) == ({}, refined.plugin)
    assert TableGanOptions.model_validate(refined.options).refine


def test_a_missing_file_is_told_before_anything_is_run(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(PLAN.replace("sklearn:iris", "iris.csv"), encoding="utf-8")
    said: list[str] = []
    for folder, message in ((None, "needs iris.csv"), (tmp_path, "has no iris.csv")):
        with pytest.raises(ConfigError, match=message):
            compare(Request(file, folder, tmp_path / "r.json", tmp_path / "r.md"), said.append)
    assert said == []


def test_without_scikit_learn_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'pip install "synthfed\[demo\]"'):
        rows_module.check_source(iris(), None)


def test_a_split_holds_rows_out_and_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    cells = {**read_cells(iris(), None), "petal width (cm)": np.arange(150) / 50}
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    parts = [split(iris(), cells, seed, folder) for seed, folder in zip((0, 0, 1), folders, strict=True)]
    assert np.array_equal(parts[0].test, parts[1].test)
    assert not np.array_equal(parts[0].test, parts[2].test)
    assert list(parts[0].sites) == ["site-1", "site-2", "site-3"]
    assert len({*parts[0].train[:, 2]} | {*parts[0].test[:, 2]}) == len(parts[0].train) + len(parts[0].test)


def test_rows_are_dealt_by_the_column_that_names_their_site(tmp_path: Path) -> None:
    lines = [f"North Bay_{i % 3},{i % 2},{i}" for i in range(60)]
    (tmp_path / "beds.csv").write_text("\n".join(["hospital,ill,age", *lines]), encoding="utf-8")
    data = DataSet.model_validate(
        iris().model_dump()
        | {
            "source": "beds.csv",
            "sites": "hospital",
            "target": "ill",
            "columns": [
                {"name": "ill", "kind": "categorical", "values": ["0", "1"]},
                {"name": "age", "kind": "integer", "lower": 0, "upper": 99},
            ],
        }
    )
    parted = split(data, read_cells(data, tmp_path), 0, tmp_path)
    assert sorted(parted.sites) == ["north-bay-0", "north-bay-1", "north-bay-2"]
    ages = [int(line.split(",")[1]) for line in parted.sites["north-bay-1"].read_text().splitlines()[1:]]
    assert {age % 3 for age in ages} == {1}


def test_more_sites_than_rows_are_refused(tmp_path: Path) -> None:
    data = iris().model_copy(update={"most_train": 2})
    with pytest.raises(DataError, match="too few rows for so many sites"):
        split(data, read_cells(data, None), 0, tmp_path)


def test_the_floor_of_tables_knows_columns_and_nothing_between_them(tmp_path: Path) -> None:
    train, _ = iris_rows(tmp_path)
    study = iris_study(epsilon=100.0)
    apart = histogram_rows(study, train, 3000, 0, by_target=False)
    within = histogram_rows(study, train, 3000, 0, by_target=True)
    for drawn in (apart, within):
        assert np.abs(drawn.mean(axis=0) - train.mean(axis=0)).max() < 0.3
    assert abs(np.corrcoef(apart[:, 1], apart[:, 3])[0, 1]) < 0.1
    assert np.corrcoef(within[:, 1], within[:, 3])[0, 1] > 0.8


def test_the_floor_has_more_noise_under_a_smaller_promise() -> None:
    assert noise_std(iris_study(epsilon=1.0), 100) > 3 * noise_std(iris_study(epsilon=10.0), 100)
    local = noise_std(iris_study(mode="local"), 100)
    assert local > 1.3 * noise_std(iris_study(), 100)  # each site adds all of it


def test_the_score_of_the_floor_of_tables_is_that_of_naive_bayes_on_real_rows(tmp_path: Path) -> None:
    train, test = iris_rows(tmp_path)
    measures = of_floor(iris_study(), train, test, 9, 0)
    assert measures["auc"].value > 0.95
    assert measures["auc"].real is not None
    assert of_naive_bayes(iris_study(), train, test, 9, 0)["auc"].value > 0.7
    assert measures["tvd2"].real is not None
    assert measures["tvd2"].value > measures["tvd2"].real


def test_the_floor_of_images_is_worth_something_and_less_with_more_noise() -> None:
    pixels, labels = load_digits(return_X_y=True)
    records = np.column_stack([pixels, labels])
    train, test = records[:1200], records[1200:1500]
    scores = []
    for epsilon in (100.0, 0.5):
        study = digits_study(epsilon)
        drawn = gaussian_rows(study, train, 400, 0)
        assert drawn.shape == (400, 65)
        assert drawn[:, :64].min() >= 0
        assert drawn[:, :64].max() <= 16
        scores.append(score(study, drawn, test, 0))
    assert scores[0] > 0.7
    assert scores[1] < 0.5


def test_control_is_the_share_of_conditional_records_that_look_as_asked(tmp_path: Path) -> None:
    train, test = iris_rows(tmp_path)
    study = iris_study()
    honest, wrong = (
        control(study, model, model, train, test, 0)  # type: ignore[arg-type]  # the two methods that are called
        for model in (Conditional(train), Conditional(train, shift=1))
    )
    assert honest is not None
    assert wrong is not None
    assert honest.value > 0.9
    assert wrong.value < 0.1
    assert honest.real is not None
    assert honest.real > 0.8
    without = Conditional(train)
    without.conditions = ()  # type: ignore[assignment]
    assert control(study, without, without, train, test, 0) is None  # type: ignore[arg-type]


def test_smoothness_is_one_for_even_walks_and_the_number_of_steps_for_a_jump(tmp_path: Path) -> None:
    train, _ = iris_rows(tmp_path)
    even = np.tile(np.linspace([4.0, 1.0, 0.0, 0.0], [8.0, 7.0, 3.0, 0.0], 16), (16, 1))
    jump = np.tile(np.repeat([[4.0, 1.0, 0.0, 0.0], [8.0, 7.0, 3.0, 0.0]], 8, axis=0), (16, 1))
    still = np.tile(even[0], (256, 1))
    found = [smoothness(iris_study(), Conditional(train, walked=each), 0) for each in (even, jump)]  # type: ignore[arg-type]
    assert [each.value for each in found if each is not None] == pytest.approx([1.0, 15.0])
    for nothing in (still, None):
        assert smoothness(iris_study(), Conditional(train, walked=nothing), 0) is None  # type: ignore[arg-type]


def test_rows_from_real_ones_help_a_small_table_and_shuffled_ones_do_not(tmp_path: Path) -> None:
    train, test = iris_rows(tmp_path)
    shuffled = np.random.default_rng(0).permuted(train, axis=0)
    helped, misled = (
        gain(iris_study(), {"synthetic": rows, "train": train, "holdout": test}, 6, 0) for rows in (train, shuffled)
    )
    assert helped is not None
    assert misled is not None
    assert helped.value > 0.02
    assert misled.value < helped.value


def floor_runs(value: float = 0.8, seeds: int = 3) -> dict[int, Run]:
    return {seed: measured(value, seed, model="floor", cost=None, spent=None) for seed in range(seeds)}


def test_a_model_beats_the_floor_in_every_seed_or_the_mean_or_not() -> None:
    def judged(*values: float, tvd2: float = 0.1) -> str:
        runs = [measured(value, seed) for seed, value in enumerate(values)]
        for run in runs:
            run.measures["tvd2"] = Measure(value=tvd2)
        return verdict(runs, "auc", floor_runs())

    assert judged(0.9, 0.85, 0.81) == "yes"
    assert judged(0.9, 0.9, 0.79) == "tvd2: yes, AUC: in the mean"
    assert judged(0.7, 0.8, 0.7, tvd2=0.2) == "no"
    assert verdict([measured(0.9)], "auc", {}) == "-"


def test_the_table_shows_means_spread_cost_and_what_failed() -> None:
    runs = [*floor_runs().values(), measured(0.90), measured(0.88, 1), measured(0.92, 2)]
    runs.append(measured(0.0, 1, model="vae", error="plugin 'vae': is not installed"))
    text = render(plan_of(), runs)
    gan = next(line for line in text.splitlines() if line.startswith("| `gan`"))
    assert gan == (
        "| `gan` | 0.200 | 0.900 | 0.040 | - | none | none | - | 12 | 20 | 1,234 | 700 | 9.88 | tvd2: no, AUC: yes |"
    )
    assert "| *real rows* | - | 0.950 |" in text
    assert "| *floor* | 0.200 | 0.800 | 0.000 |" in text
    assert "- `vae`, seed 1, failed: plugin 'vae': is not installed" in text
    assert "105 training rows at 3 sites, 45 held out; epsilon 10, delta 1e-05" in text
    assert text.endswith("Measured on a machine; numpy 2.")
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_the_prose_around_the_table_stays(tmp_path: Path) -> None:
    page = tmp_path / "models.md"
    page.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\nAfter.\n", encoding="utf-8")
    write_page(page, plan_of(), [measured(0.9)])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n\n")
    assert text.endswith(f"{END}\n\nAfter.\n")
    assert "old" not in text
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(ConfigError, match="lacks the lines"):
        write_page(page, plan_of(), [])
