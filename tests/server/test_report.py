"""The report: what it says, that it says it plainly, and that hostile names stay text."""

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from synthfed.plugins.audits.estimate import Estimate
from synthfed.protocols.study import Study
from synthfed.server.evidence import Evidence
from synthfed.server.report import Document, Finding, number, polyline, render, report, with_audits

HOSTILE = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += data


def study(mode: str = "distributed") -> Study:
    return Study.model_validate(
        {
            "format": 1,
            "name": "report-study",
            "target": HOSTILE,
            "privacy": {
                "mode": mode,
                "epsilon": 1.0,
                "delta": 1e-6,
                "unit": "person",
                "units_per_site": 1000,
                "sample_rate": 0.1,
                "steps": 10,
            },
            "model": {"plugin": "toy"},
            "cohort": {"tolerated": 1, "quorum": 3, "sites": [{"id": "north"}, {"id": "south"}, {"id": "west"}]},
            "columns": [
                {"kind": "categorical", "name": HOSTILE, "values": ["fine", HOSTILE], "missing": True},
                {"kind": "categorical", "name": "town", "values": [f"town-{i}" for i in range(40)]},
                {"kind": "integer", "name": "age", "lower": 0, "upper": 99},
                {"kind": "real", "name": "cost", "lower": 0, "upper": 1e6, "scale": "log", "missing": True},
            ],
        }
    )


def evidence(mode: str = "distributed", **changes: Any) -> Evidence:
    site = {"controller": HOSTILE, "key_fingerprint": "aaaa-bbbb", "epsilon_spent": 0.9, "delta": 1e-6, "rounds": 9}
    fields: dict[str, Any] = {
        "study": "report-study",
        "study_hash": study(mode).hash.hex(),
        "mode": mode,
        "tolerated": 1,
        "quorum": 3,
        "delta": 1e-6,
        "epsilon": 1.0,
        "epsilon_if_secagg_fails": 2.0,
        "combine": "sum",
        "sites_per_unit": 1,
        "epsilon_by_bad_sites": [[1, 1.0], [2, 2.0]],
        "epsilon_by_sites_of_unit": [[1, 1.0], [2, 2.25], [3, None]],
        "clip_norm": 1.0,
        "sums": [],
        "sites": [{"id": name, **site} for name in ("north", "south", "west")],
        "plugin": {"name": "toy", "distribution": "toy-dist", "version": "1.0", "hash": "0" * 64},
        "versions": {"synthfed": "0.1.0"},
        "started": "2030-01-01T00:00:00+00:00",
        "ended": "2030-01-01T01:00:00+00:00",
        "seed_note": HOSTILE,
    }
    return Evidence.from_json(json.dumps(fields | changes), where="test")


def synthetic(rows: int = 60) -> Any:
    rng = np.random.default_rng(0)
    cost = rng.uniform(0, 1e6, rows)
    cost[:5] = np.nan
    return np.stack(
        [rng.integers(2, size=rows), rng.integers(40, size=rows), rng.integers(99, size=rows), cost], axis=1
    )


def document(mode: str = "distributed", history: Any = (), **changes: Any) -> Document:
    return report(
        study=study(mode), evidence=evidence(mode, **changes), synthetic=synthetic(), rows=60, seed=4, history=history
    )


def audited(tvd2: float = 0.1, auc: float = 0.8, warning: str = "") -> Document:
    estimates = (
        Estimate("tvd2", tvd2, tvd2 - 0.01, tvd2 + 0.01, 0.95, 0.3, 0.05),
        Estimate("tvd1", 0.04, 0.03, 0.05, 0.95, 0.5, 0.03),
        Estimate("tvd1", 0.04, 0.03, 0.05, 0.95, 0.5, 0.03, column=HOSTILE),
        Estimate("auc", auc, auc - 0.02, auc + 0.02, 0.95, 0.5, 0.85, warning=warning),
    )
    finding = Finding("fidelity", "How far?", estimates)
    return with_audits(document(), [finding], train=100, holdout=50, seed=1)


def audited_arrays(accuracy: float = 0.9, coverage: float = 0.8) -> Document:
    estimates = (
        Estimate("accuracy", accuracy, accuracy - 0.02, accuracy + 0.02, 0.95, 0.75, 0.95),
        Estimate("coverage", coverage, coverage - 0.02, coverage + 0.02, 0.95, 0.3, 0.96),
    )
    unfit = Finding("fidelity", "How far?", (), "column 'pixels' is an array")
    return with_audits(document(), [Finding("arrays", "What?", estimates), unfit], train=100, holdout=50, seed=1)


EVERY_PAGE = [
    pytest.param(document(), id="plain"),
    pytest.param(document("local"), id="local"),
    pytest.param(document(epsilon_if_secagg_fails=None), id="no bound"),
    pytest.param(document(epsilon=900.0), id="huge epsilon"),
    pytest.param(document(history=[{"step": i, HOSTILE: i / 7} for i in range(2000)]), id="curve"),
    pytest.param(document(history=[{"step": 0, "flat": 1.0}, {"step": 0, "nan": float("nan")}]), id="odd curves"),
    pytest.param(audited(), id="audited"),
    pytest.param(audited_arrays(), id="audited arrays"),
]


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_every_page_is_whole_and_loads_nothing(page: Document) -> None:
    text = render(page)
    parsed = Page(text)
    assert parsed.open == []
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in parsed.tags)
    assert "url(" not in text
    assert "http:" not in text and "https:" not in text
    loads = [attrs.get("href") for _, attrs in parsed.tags if "href" in attrs]
    assert all(target is not None and target.startswith("#") for target in loads)


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_every_page_can_be_read_without_seeing_it(page: Document) -> None:
    parsed = Page(render(page))
    assert ("html", {"lang": "en"}) in parsed.tags
    names = [tag for tag, _ in parsed.tags]
    assert names.count("caption") == names.count("table") > 0
    assert all("scope" in attrs for tag, attrs in parsed.tags if tag == "th")
    for tag, attrs in parsed.tags:
        assert tag != "svg" or attrs.get("aria-hidden") == "true" or attrs.get("aria-label")
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(attrs["href"] in {f"#{each}" for each in ids} for _, attrs in parsed.tags if "href" in attrs)


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_a_report_is_plain_json_and_never_a_verdict(page: Document) -> None:
    assert json.loads(json.dumps(page, allow_nan=False)) == page
    words = Page(render(page)).words.lower()
    assert "evidence for" in words
    assert "compliant" not in words and "anonymous" not in words


def test_hostile_names_stay_text() -> None:
    for page in (audited(), document(history=[{"step": 1, HOSTILE: 1.0}])):
        text = render(page)
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        assert HOSTILE in Page(text).words


def test_the_promise_is_put_in_plain_words() -> None:
    privacy = document()["privacy"]
    assert privacy["odds_factor"] == pytest.approx(np.e)
    assert privacy["right_guess"] == pytest.approx(0.7310586)
    words = Page(render(document())).words
    assert "ε = 1, δ = 1e-06" in words
    assert "at most a factor of 2.72" in words
    assert "more than 73.1 %" in words
    assert "value of “person”" in words


def test_the_page_says_what_happens_if_secure_aggregation_fails() -> None:
    assert "ε = 2" in Page(render(document())).words
    assert "no bound is known" in Page(render(document(epsilon_if_secagg_fails=None))).words
    assert "ε stays 1" in Page(render(document("local"))).words


def test_without_real_rows_the_page_says_that_nothing_was_measured() -> None:
    words = Page(render(document())).words
    assert words.count("not measured") >= 3
    assert "the coordinator has none" in " ".join(document()["warnings"])


def test_with_real_rows_the_page_says_that_its_figures_are_not_private() -> None:
    words = Page(render(audited())).words
    assert "Real rows were used for these audits" in words
    assert "not differentially private" in words
    assert "not measured" not in words


@pytest.mark.parametrize(
    ("page", "warning"),
    [
        (document(epsilon=8.5), "above 8"),
        (document("local"), "mode is local"),
        (document(delta=0.009), "one over the units"),
        (document(epsilon=0.5), "more than was promised"),
        (audited(tvd2=0.3), "independent columns"),
        (audited(auc=0.51), "better than chance"),
        (audited(warning="the target is odd"), "auc: the target is odd."),
        (audited_arrays(accuracy=0.76), "more than class means teach"),
        (audited_arrays(coverage=0.31), "than a trivial model would"),
    ],
)
def test_what_a_reader_must_know_is_a_warning_on_the_page(page: Document, warning: str) -> None:
    assert any(warning in sentence for sentence in page["warnings"])
    assert warning in Page(render(page)).words


def test_a_good_release_has_no_warnings() -> None:
    assert audited()["warnings"] == audited_arrays()["warnings"] == []
    assert "Read this first" not in render(audited())


def test_arrays_are_judged_by_recognition_and_coverage() -> None:
    words = Page(render(audited_arrays())).words
    assert "accuracy 0.9" in words
    assert "one trained on class means 0.75" in words
    assert "80 % reached" in words
    assert "Not asked: column 'pixels' is an array." in words


def test_distributions_are_shares_and_long_ones_are_gathered() -> None:
    for each in document()["distributions"]:
        assert len(each["labels"]) == len(each["shares"])
        assert sum(each["shares"]) == pytest.approx(1.0)
    town = document()["distributions"][1]
    assert (len(town["labels"]), town["labels"][-2]) == (14, "28 more")


def test_pictures_are_in_the_page_itself_with_their_words() -> None:
    drawn = document() | {"pictures": [{"name": "walk", "title": HOSTILE, "alt": HOSTILE}, {"name": "gone"}]}
    page = render(drawn, {"walk": b"\x89PNG"})
    images = [attrs for tag, attrs in Page(page).tags if tag == "img"]
    assert images == [{"src": "data:image/png;base64,iVBORw==", "alt": HOSTILE}]
    assert "<script" not in page
    assert "img" not in [tag for tag, _ in Page(render(document())).tags]


def test_a_long_history_is_thinned_and_keeps_its_ends() -> None:
    curve = document(history=[{"step": i, "loss": float(i)} for i in range(5000)])["history"][0]
    assert (curve["steps"][0], curve["steps"][-1]) == (0, 4999)
    assert len(curve["steps"]) <= 400


def test_a_value_that_is_not_finite_is_left_out_of_its_curve() -> None:
    history = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": float("inf")}, {"step": 2, "loss": 2.0}]
    assert document(history=history)["history"] == [{"name": "loss", "steps": [0.0, 2.0], "values": [1.0, 2.0]}]


def judged(gain: float, noise: float, kept: float) -> list[dict[str, float]]:
    verdict = {"comparison": gain, "comparison_noise": noise, "kept": kept}
    return [{"step": 0, "loss": 2.0}, {"step": 1, **verdict, "comparison": 9.0}, {"step": 2, **verdict}]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (judged(0.0312, 0.0061, 1.0), "added 0.0312 nats a record (standard deviation 0.0061), so it was kept."),
        (judged(-0.02, 0.015, 0.0), "added -0.02 nats a record (standard deviation 0.015), which is not clearly"),
        (judged(0.0, 0.0, 0.0), "steps made nothing that can be told from the warm start, the generator before them,"),
    ],
)
def test_the_page_says_what_the_refinement_added(history: list[dict[str, float]], said: str) -> None:
    made = document(history=history)
    assert said in made["refinement"]
    assert said in render(made)


def test_the_page_says_that_nothing_was_refined_where_no_gradient_was_declared() -> None:
    declared = {"name": "marginals", "family": "statistic", "dim": 9, "noise_multiplier": 1.5, "sample_rate": 1.0}
    made = document(sums=[declared | {"clip_norm": 1.0, "cap": 2, "rounds_released": 2}])
    assert "all of the budget went to released statistics" in made["refinement"]
    assert made["refinement"] in render(made)


def test_without_a_comparison_nothing_is_said_of_a_refinement() -> None:
    for history in ([], [{"step": 0, "kept": 1.0}], judged(float("nan"), 1.0, 0.0)):
        assert document(history=history)["refinement"] == ""
    old = document(history=[{"step": 0, "loss": 1.0}])
    del old["refinement"]
    assert "refinement" not in render(old)


def test_a_curve_fills_its_box() -> None:
    assert polyline({"steps": [0, 5, 10], "values": [1.0, 3.0, 2.0]}, 100, 10) == "0.0,10.0 50.0,0.0 100.0,5.0"
    assert polyline({"steps": [4], "values": [7.0]}, 100, 10) == "0.0,10.0"


def test_numbers_are_written_to_be_read() -> None:
    assert [number(value) for value in (0.0, 0.12345, 12.0, 1e-6, 54_321.0, None)] == [
        "0",
        "0.123",
        "12",
        "1e-06",
        "54,321",
        "without bound",
    ]


def test_a_simulation_is_told_first_and_in_the_headline() -> None:
    told = document(setting="simulation")
    assert told["warnings"][0].startswith("This is a simulation: all tables were in one place")
    words = Page(render(told)).words
    assert "Simulated, not federated: report-study" in words
    assert "stayed with them" not in words


def test_a_federation_is_the_default_setting() -> None:
    told = document()
    assert told["evidence"]["setting"] == "federation"
    assert not any("simulation" in warning for warning in told["warnings"])
    assert "stayed with them" in Page(render(told)).words


def test_the_page_tells_epsilon_by_number_of_bad_sites_and_of_sites_that_hold_a_unit() -> None:
    words = Page(render(document())).words
    assert "that work with the coordinator" in words
    assert "that hold one unit's records" in words
    assert "2.25" in words
    assert "without bound" in words
