"""Study files: any study survives being written, and drafts and commands refuse what cannot be run."""

import base64
import doctest
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthfed.client.enrol import node_public
from synthfed.plugins.cli import main
from synthfed.protocols.cohort import Cohort, Site
from synthfed.protocols.enrolment import Enrolment
from synthfed.protocols.errors import ConfigError, PluginError
from synthfed.protocols.schema import Categorical, Column, Integer
from synthfed.protocols.study import Aggregation, ModelTerms, Privacy, Study, parse_study
from synthfed.server import wishes
from synthfed.server.drafting import draft_study, make_roster, make_study, read_options, with_sites
from synthfed.server.home import ServerHome, init_home
from synthfed.server.study_file import render_study
from synthfed.server.wishes import Wishes

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@dataclass(frozen=True)
class Done:
    """How a command ended and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


Cli = Callable[..., Done]

AWKWARD = (
    *("a", "ill, or not", 'quo"te', "apo'strophe", "back\\slash", "tab\there", "line\nbreak", "\r", "#", "= 1"),
    *(
        "[x]",
        " leading",
        "überall",
        "身長",
        "🩺",
        "e\u0301",
        "\u2028",
        "\x00",
        "\x1b[31m",
        '"""',
        "'''",
        "a.b",
        "\ufeff",
    ),
    *("\\u0041", "nan", "true", "\ud7ff", "\U0010ffff"),
)
TEXTS = st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = TEXTS.filter(lambda text: 1 <= len(text) <= 64)
REALS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**53), 2**53)


def pair(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.tuples(numbers, numbers).filter(lambda two: two[0] != two[1]).map(lambda two: (min(two), max(two)))


SCALES = st.sampled_from(["linear", "log"])
KINDS: tuple[st.SearchStrategy[dict[str, Any]], ...] = (
    st.fixed_dictionaries(
        {
            "kind": st.just("categorical"),
            "values": st.lists(TEXTS.filter(bool), min_size=1, max_size=5, unique=True),
            "missing": st.booleans(),
        }
    ),
    st.tuples(pair(INTEGERS), SCALES, st.booleans()).map(
        lambda it: {"kind": "integer", "lower": it[0][0], "upper": it[0][1], "scale": it[1], "missing": it[2]}
    ),
    st.tuples(pair(st.floats(-(2**53), 2**53)), SCALES, st.integers(0, 12)).map(
        lambda it: {"kind": "real", "lower": it[0][0], "upper": it[0][1], "scale": it[1], "decimals": it[2]}
    ),
    st.tuples(pair(st.integers(-9, 9)), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 12)).map(
        lambda it: {"kind": "array", "shape": it[1], "lower": it[0][0], "upper": it[0][1], "decimals": it[2]}
    ),
)
OPTIONS = st.dictionaries(
    TEXTS,
    st.recursive(
        st.booleans() | INTEGERS | REALS | TEXTS,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
        max_leaves=3,
    ),
    max_size=2,
)


@st.composite
def studies(draw: st.DrawFn) -> Study:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    columns = [{"name": name, **draw(st.one_of(*KINDS))} for name in names]
    columns[-1] = {"name": names[-1], "kind": "categorical", "values": ["no", "yes"]}  # the target
    unit = draw(st.none() | NAMES.filter(lambda name: name not in names))
    mode, count = draw(st.sampled_from(["distributed", "local"])), draw(st.integers(3, 5))
    held = [draw(st.booleans()) for _ in range(count)]
    keys = [base64.b64encode(bytes([n + 2]) * 32).decode() if has else "" for n, has in enumerate(held)]
    controller = draw(TEXTS)
    sites = [{"id": f"site-{n}", "key": key, "controller": f"{controller}{n}"} for n, key in enumerate(keys)]
    return Study.model_validate(
        {
            "format": 1,
            "name": draw(st.sampled_from(["a", "A.b-c_9", "0" * 64])),
            "target": names[-1],
            "site_column": draw(st.none() | NAMES.filter(lambda name: name not in (*names, unit))),
            "purpose": draw(st.none() | TEXTS.filter(lambda text: text.isprintable() and text.strip())),
            "privacy": {
                "mode": mode,
                "epsilon": draw(st.floats(1e-9, 100)),
                "delta": draw(st.floats(1e-300, 0.0099)),
                "unit": unit,
                "records_per_unit": 1 if unit is None else draw(st.integers(1, 100_000)),
                "sites_per_unit": draw(st.integers(1, 10)),
                "units_per_site": draw(st.integers(1, 10_000_000)),
                "clip_norm": draw(st.floats(1e-6, 1e6)),
                "sigma_floor": draw(st.none() | st.floats(1e-9, 1e9)),
                "sample_rate": draw(st.floats(1e-9, 1)),
                "steps": draw(st.integers(1, 100_000)),
                "answer_time_s": draw(st.floats(0.005, 600)),
                "statistic_time_s": draw(st.floats(0.005, 600)),
            },
            "model": {"plugin": draw(NAMES), "options": draw(OPTIONS)},
            "cohort": {
                "tolerated": 1,
                "quorum": count,
                "epsilon_if_secagg_fails_at_most": draw(st.none() | st.floats(1e-9, 1e9)),
                "sites": sites,
            },
            "aggregation": {
                "clip_total": draw(st.none() | st.floats(1e-9, 1e9)),
                "key_agreement": draw(st.sampled_from(["hybrid", "x25519"] if mode == "local" else ["hybrid"])),
                "mask_cipher": draw(st.sampled_from(["aes256-ctr", "chacha20"])),
            },
            "columns": columns,
        }
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(studies())
def test_any_study_is_the_same_after_it_was_written_and_read(study: Study) -> None:
    again = parse_study(render_study(study), where="test")
    assert again == study
    assert again.hash == study.hash
    assert render_study(again) == render_study(study)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_names_survive_wherever_they_stand(name: str) -> None:
    study = a_study(
        columns=(Categorical(name=name, values=(name, "other")), Integer(name="n", lower=0, upper=1)),
        target=name,
        unit=f"{name} unit",
        sites=[Site(id="a", controller=name), Site(id="b"), Site(id="c")],
    )
    assert parse_study(render_study(study), where="test") == study


def a_study(
    *,
    columns: Sequence[Column] = (Categorical(name="ill", values=("no", "yes")),),
    target: str = "ill",
    unit: str | None = None,
    sites: Sequence[Site] = (Site(id="a"), Site(id="b"), Site(id="c")),
    tolerated: int = 1,
    quorum: int = 3,
    mode: Any = "distributed",
    options: dict[str, Any] | None = None,
) -> Study:
    privacy = Privacy(mode=mode, epsilon=2.0, delta=1e-6, unit=unit, units_per_site=100, sample_rate=0.5, steps=3)
    return make_study(
        name="drafted",
        target=target,
        privacy=privacy,
        model=ModelTerms(plugin="tabular-gan", options=options or {}),
        cohort={"sites": sites, "tolerated": tolerated, "quorum": quorum},
        columns=columns,
    )


def test_there_is_a_wish_for_every_term_and_its_flag_is_spelt_after_it() -> None:
    terms = {name for part in (Privacy, Aggregation, Cohort) for name in part.model_fields} - {"sites"}
    assert terms <= {wish.name for wish in fields(Wishes)}
    assert doctest.testmod(wishes).failed == 0


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "public.csv"
    rows = [f"{number},{'yes' if number % 3 else 'no'},{number * 0.25:.2f},p{number // 2}" for number in range(40)]
    path.write_text("age,ill,dose,person\n" + "\n".join(rows) + "\n")
    return path


def draft(table: Path, **changes: Any) -> Study:
    wanted: dict[str, Any] = {
        "source": table,
        "out": Path("drafted.toml"),
        "target": "ill",
        "epsilon": 2.0,
        "delta": 1e-6,
        "units_per_site": 100,
        "sample_rate": 0.5,
        "steps": 3,
        "site": list("abc"),
        "drop": ["person"],
    }
    return draft_study(Wishes(**(wanted | changes)))


def test_a_draft_has_the_columns_of_the_table_and_the_rules_of_the_policy(table: Path) -> None:
    study = draft(table)
    assert [(column.name, column.kind) for column in study.columns] == [
        ("age", "integer"),
        ("ill", "categorical"),
        ("dose", "real"),
    ]
    assert study.is_draft
    assert (study.cohort.tolerated, study.cohort.quorum) == (1, 3)
    assert parse_study(render_study(study), where="test") == study


def test_a_draft_leaves_the_unit_column_out(table: Path) -> None:
    study = draft(table, unit="person", records_per_unit=2, drop=[])
    assert "person" not in [column.name for column in study.columns]
    assert study.privacy.unit == "person"


def test_a_draft_publishes_rows_by_site_where_it_is_asked_to(table: Path) -> None:
    study = draft(table, site_column="hospital")
    assert study.site_column == "hospital"
    assert "hospital" not in [column.name for column in study.columns]
    assert draft(table).site_column is None


def test_a_draft_tolerates_the_largest_controller(table: Path) -> None:
    sites: dict[str, Any] = {"site": list("abcdef"), "controller": ["a=trust", "b=trust"]}
    assert draft(table, **sites).cohort.tolerated == 2
    assert draft(table, **sites).cohort.quorum == 4
    local = draft(table, **sites, mode="local").cohort
    assert (local.tolerated, local.quorum) == (1, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "height"}, "target 'height' is not among the columns"),
        ({"site_column": "age"}, "site_column 'age' is among the columns"),
        ({"site": ["a"]}, "give at least two sites"),
        ({"site": ["a", "b"]}, 'use mode = "local"'),
        ({"site": ["a", "a", "b"]}, "lists a site twice"),
        ({"drop": ["height"]}, "has no column 'height' to drop"),
        ({"drop": ["age", "ill", "dose", "person"]}, "has no columns left"),
        ({"name": "two words"}, "name"),
        ({"name": "../escape"}, "name"),
    ],
)
def test_a_draft_that_could_not_run_is_refused(table: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        draft(table, **changes)
    assert "\n" not in str(refused.value)


def test_a_unit_column_that_is_not_there_is_told_as_the_unit(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"public\.csv: has no column 'patient' to name the unit; check --unit"):
        draft(table, unit="patient")
    with pytest.raises(ConfigError, match="has no column 'patient' to drop"):
        draft(table, unit="person", drop=["patient"])


def test_a_draft_takes_tolerated_quorum_and_ceiling_where_they_are_given(table: Path) -> None:
    sites = list("abcde")
    cohort = draft(table, site=sites, tolerated=2, quorum=5, epsilon_if_secagg_fails_at_most=9.0).cohort
    assert (cohort.tolerated, cohort.quorum, cohort.epsilon_if_secagg_fails_at_most) == (2, 5, 9.0)
    assert draft(table, site=sites, tolerated=2).cohort.quorum == 4
    with pytest.raises(ConfigError, match=r"cohort\.quorum must be at least 4"):
        draft(table, site=sites, quorum=2)


def test_a_drafts_options_are_those_that_the_model_knows(table: Path) -> None:
    options = ["refine=true", "bins=16", 'start="marginals"', "critic_rate=1e-3"]
    known = {"refine": True, "bins": 16, "start": "marginals", "critic_rate": 1e-3}
    assert read_options(options) == known
    assert draft(table, option=options).model.options == known
    with pytest.raises(ConfigError, match=r"^model\.options: binz: is not a known field"):
        draft(table, option=["binz=3"])


@pytest.mark.parametrize("text", ["pairs", "1 2", "1\nother = 2", '"', "[" * 5000, " "])
def test_an_option_that_is_not_one_toml_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--option: the value of 'start' must be one TOML value, text in quotes"):
        read_options([f"start={text}"])


def an_enrolment(folder: Path, site: str, controller: str = "") -> Path:
    node = node_public(ec.generate_private_key(ec.SECP384R1()))
    path = folder / f"{site}.json"
    path.write_text(Enrolment.signed(site, controller, Ed25519PrivateKey.generate(), node).model_dump_json())
    return path


def test_a_roster_takes_keys_from_enrolments_and_controllers_from_whoever_names_them(tmp_path: Path) -> None:
    files = [an_enrolment(tmp_path, "a", "trust"), an_enrolment(tmp_path, "b")]
    roster = make_roster(["c", "d"], files, ["b=klinik", "c=trust"])
    assert [(site.id, site.controller, bool(site.key)) for site in roster] == [
        ("a", "trust", True),
        ("b", "klinik", True),
        ("c", "trust", False),
        ("d", "", False),
    ]


def test_a_controller_of_no_site_or_of_one_that_names_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--controller: 'z' is no site of this study; leave it out"):
        make_roster(["c"], [], ["z=trust"])
    with pytest.raises(ConfigError, match="--controller: 'a' names its controller in its enrolment; leave it out"):
        make_roster([], [an_enrolment(tmp_path, "a", "trust")], ["a=klinik"])


def test_a_draft_needs_an_installed_domain(table: Path) -> None:
    with pytest.raises(PluginError, match="'images'"):
        draft(table, domain="images")


@pytest.mark.parametrize("count", [3, 4, 7, 20])
def test_another_roster_keeps_what_the_policy_allows_of_tolerated_and_quorum(count: int) -> None:
    before = a_study(sites=[Site(id=f"s{number}") for number in range(6)], tolerated=2, quorum=5)
    after = with_sites(before, [Site(id=f"t{number}") for number in range(count)])
    assert after.cohort.roster == tuple(sorted(f"t{number}" for number in range(count)))
    assert after.cohort.tolerated == min(2, count - 2)
    assert after.cohort.quorum == {3: 3, 4: 4, 7: 5, 20: 14}[count]
    assert after.privacy == before.privacy
    assert after.columns == before.columns


def test_another_roster_that_the_policy_forbids_is_refused() -> None:
    study = a_study()
    with pytest.raises(ConfigError, match='use mode = "local"'):
        with_sites(study, [Site(id="a"), Site(id="b")])
    with pytest.raises(ConfigError, match="controller 'trust' runs 2 sites"):
        with_sites(study, [Site(id=name, controller="trust" if name < "c" else "") for name in "abc"])


def test_two_sites_are_enough_in_local_mode() -> None:
    study = with_sites(a_study(mode="local"), [Site(id="a"), Site(id="b")])
    assert (study.cohort.tolerated, study.cohort.quorum) == (1, 2)


# The commands, as a person calls them.


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return a function that runs `synthfed` in a folder of its own.

    In a fork of this process, which has imported already what would take each command two seconds.
    """

    def run(*arguments: str) -> Done:
        with (tmp_path / ".out").open("w+") as out, (tmp_path / ".err").open("w+") as err:
            child = os.fork()
            if not child:
                os.chdir(tmp_path)
                os.environ.pop("SYNTHFED_DEBUG", None)
                sys.argv, sys.stdout, sys.stderr = ["synthfed", *arguments], out, err
                leave(main)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            out.seek(0), err.seek(0)
            return Done(code, out.read(), err.read())

    return run


def leave(program: Callable[[], None]) -> NoReturn:
    """Run a program to its end and end this process with its code."""
    code: object = 70
    try:
        program()
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 70)


NEW = ("study", "new", "--from", "public.csv", "--drop", "person", "--target", "ill", "--epsilon", "2")
THREE = ("--site", "a", "--site", "b", "--site", "c")


def assert_refused(done: Done, code: int, message: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("synthfed: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_drafts_a_study_that_parses_and_never_overwrites_it(table: Path, cli: Cli) -> None:
    done = cli(*NEW, *THREE, "--out", "study.toml")
    assert (done.returncode, done.stderr) == (0, "")
    text = (table.parent / "study.toml").read_text()
    assert parse_study(text, where="test").name == "study"
    assert "NEVER take them from private records" in text
    assert_refused(cli(*NEW, *THREE, "--out", "study.toml"), 3, "already exists and is not overwritten")
    assert (table.parent / "study.toml").read_text() == text


def test_every_term_that_a_draft_holds_can_be_set_by_a_flag(table: Path, cli: Cli) -> None:
    flags = {
        "--mode": "distributed", "--delta": "1e-7", "--unit": "person", "--records-per-unit": "2",
        "--sites-per-unit": "2", "--units-per-site": "500", "--sample-rate": "0.5", "--steps": "7",
        "--clip-norm": "2.0", "--answer-time": "0.5", "--statistic-time": "4", "--domain": "table",
        "--model": "tabular-gan",
        "--tolerated": "2", "--quorum": "4", "--controller": "a=trust", "--epsilon-if-secagg-fails-at-most": "90",
        "--name": "first", "--option": "bins=16", "--clip-total": "50", "--mask-cipher": "chacha20",
        "--key-agreement": "hybrid", "--sigma-floor": "0.25",
    }  # fmt: skip
    base = ("study", "new", "--from", "public.csv", "--target", "ill", "--epsilon", "2", "--out", "study.toml")
    given = [part for flag in flags.items() for part in flag]
    done = cli(*base, *THREE, "--site", "d", *given, "--option", 'start="marginals"', "--option", "refine=true")
    assert (done.returncode, done.stderr) == (0, "")
    study = parse_study((table.parent / "study.toml").read_text(), where="test")
    assert study.privacy == Privacy(
        mode="distributed", epsilon=2.0, delta=1e-7, unit="person", records_per_unit=2,
        sites_per_unit=2, units_per_site=500, sample_rate=0.5, steps=7, clip_norm=2.0, sigma_floor=0.25,
        answer_time_s=0.5, statistic_time_s=4.0,
    )  # fmt: skip
    assert (study.name, study.domain, study.model.plugin) == ("first", "table", "tabular-gan")
    assert study.model.options == {"bins": 16, "start": "marginals", "refine": True}
    cohort = study.cohort
    assert (cohort.tolerated, cohort.quorum, cohort.epsilon_if_secagg_fails_at_most) == (2, 4, 90.0)
    assert [site.controller for site in cohort.sites] == ["trust", "", "", ""]
    assert study.aggregation == Aggregation(clip_total=50.0, mask_cipher="chacha20")


def test_in_local_x25519_alone_can_be_drafted_and_is_told_with_the_plan(table: Path, cli: Cli) -> None:
    chosen = (
        "--mode",
        "local",
        "--key-agreement",
        "x25519",
        "--option",
        'start="marginals"',
        "--option",
        "refine=true",
        "--steps",
        "3",
    )
    assert cli(*NEW, *THREE, *chosen, "--out", "study.toml").returncode == 0
    study = parse_study((table.parent / "study.toml").read_text(), where="test")
    assert study.aggregation == Aggregation(key_agreement="x25519")
    assert "keys             X25519 alone\n" in cli("study", "check", "study.toml").stdout


def test_the_noise_of_one_site_alone_and_its_floor_are_told_with_the_plan(table: Path, cli: Cli) -> None:
    chosen = ("--sigma-floor", "0.5", "--option", 'start="marginals"', "--option", "refine=true", "--steps", "3")
    assert cli(*NEW, *THREE, *chosen, "--out", "study.toml").returncode == 0
    told = cli("study", "check", "study.toml").stdout
    assert "own: noise of one site alone when all take part, in clip norms, at least 0.5 by" in told
    lines = [line.split() for line in told.splitlines()]
    header, *rows = [words for words in lines if words[:1] and words[0] in ("sum", "critic", "marginals")]
    noise, own = header.index("noise"), header.index("own")
    for row in rows:
        assert float(row[own]) == pytest.approx(float(row[noise]) / 2**0.5, rel=1e-3)
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((*NEW, "--site", "a"), 3, "at least two sites"),
        ((*NEW, *THREE, "--mode", "central"), 3, "--mode: must be 'distributed' or 'local' (is 'central')"),
        ((*NEW, *THREE, "--delta", "0.5"), 3, "--delta: must be less than 0.01 (is 0.5)"),
        ((*NEW, *THREE, "--combine", "mean"), 3, "--combine: must be 'sum', 'median' or 'trimmed-mean'"),
        ((*NEW, *THREE, "--combine", "median"), 3, "needs to see every site's own vector"),
        ((*NEW, *THREE, "--key-agreement", "p256"), 3, "--key-agreement: must be 'hybrid' or 'x25519' (is 'p256')"),
        ((*NEW, *THREE, "--key-agreement", "x25519"), 3, 'needs privacy.mode = "local"'),
        ((*NEW, *THREE, "--model", "nope"), 9, "plugin 'nope'"),
        ((*NEW, "--site", "A", "--site", "b"), 3, "--site A: must be 1-32 lower-case letters"),
        ((*NEW, *THREE, "--enrolment", "nowhere.json"), 3, "nowhere.json: cannot be read"),
        ((*NEW, *THREE, "--enrolment", "public.csv"), 3, "public.csv: is not an enrolment: is not valid JSON"),
        (("study", "new", "--from", "no.csv", "--target", "x", "--epsilon", "2", *THREE), 3, "no.csv: does not exist"),
        ((*NEW, "--drop", "height", *THREE), 3, "has no column 'height' to drop"),
        ((*NEW, *THREE, "--unit", "height"), 3, "has no column 'height' to name the unit; check --unit"),
        ((*NEW, *THREE, "--records-per-unit", "3"), 3, "synthfed: records_per_unit needs `unit`"),
        ((*NEW, *THREE, "--answer-time", "0"), 3, "--answer-time: must be at least 0.005 (is 0.0)"),
        ((*NEW, *THREE, "--sigma-floor", "0"), 3, "--sigma-floor: must be greater than 0 (is 0.0)"),
        ((*NEW, *THREE, "--sigma-floor", "1000"), 3, "below privacy.sigma_floor = 1000.0; use"),
        ((*NEW, *THREE, "--statistic-time", "601"), 3, "--statistic-time: must be at most 600 (is 601.0)"),
        ((*NEW, *THREE, "--tolerated", "0"), 3, "cohort.tolerated: must be at least 1 (is 0)"),
        ((*NEW, *THREE, "--quorum", "4"), 3, "cohort: quorum is 4 but the roster has 3 sites; lower it"),
        ((*NEW, *THREE, "--option", "bins"), 3, "--option: 'bins' must be NAME=VALUE, each name once"),
        ((*NEW, *THREE, "--option", "bins=1979-01-01"), 3, "--option: must hold only text, finite numbers"),
        ((*NEW, *THREE, "--option", "bins=1"), 3, "model.options: bins: must be at least 2 (is 1)"),
        ((*NEW, *THREE, "--controller", "z=trust"), 3, "--controller: 'z' is no site of this study"),
        ((*NEW, *THREE, "--domain", "images"), 9, "plugin 'images'"),
        ((*NEW, *THREE, "--epsilon-if-secagg-fails-at-most", "0"), 3, "must be greater than 0 (is 0.0)"),
    ],
)
def test_a_wrong_draft_is_one_line_and_a_code(
    table: Path, cli: Cli, arguments: tuple[str, ...], code: int, message: str
) -> None:
    assert_refused(cli(*arguments, "--out", "new.toml"), code, message)
    assert not (table.parent / "new.toml").exists()


def test_an_unknown_target_is_refused_by_the_command(table: Path, cli: Cli) -> None:
    arguments = [each if each != "ill" else "height" for each in NEW]
    assert_refused(cli(*arguments, *THREE, "--out", "new.toml"), 3, "target 'height' is not among the columns")


BAD_ROWS = "age,ill,dose\n1,maybe,0.5\n2,maybe,0.5\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("study", "check", "nowhere.toml"), 3, "nowhere.toml: cannot be read"),
        (("study", "check", "."), 3, ".: cannot be read"),
        (("study", "check", "public.csv"), 3, "public.csv: is not valid TOML"),
        (("study", "check", "binary.toml"), 3, "binary.toml: is not UTF-8 text"),
        (("study", "check", "other-model.toml"), 9, "other-model.toml: plugin 'nope'"),
        (("study", "check", "other-domain.toml"), 9, "other-domain.toml: plugin 'images'"),
        (("study", "check", "option.toml"), 3, "option.toml: model.options: bins: must be at least 2 (is 1)"),
        (("simulate", "good.toml", "--site", "a=bad.csv", "--site", "b=public.csv", "--out", "r"), 4, "bad.csv"),
        (
            ("simulate", "option.toml", "--site", "a=public.csv", "--site", "b=public.csv", "--out", "r"),
            3,
            "option.toml",
        ),
        (("simulate", "good.toml", "--site", "a=public.csv", "--out", "r"), 3, "--site: give at least two sites"),
        (("simulate", "good.toml", "--site", "a", "--out", "r"), 3, "must be NAME=FILE"),
        (("simulate", "good.toml", "--site", "a=x", "--site", "a=y", "--out", "r"), 3, "each name once"),
        (("sample", "nowhere", "--out", "x.csv"), 3, "is this the folder of a release?"),
        (("server", "status", "--home", "nowhere"), 3, "is this a coordinator's home?"),
        (("server", "run", "good.toml", "--home", "nowhere"), 3, "is this a coordinator's home?"),
        (("server", "run", "nowhere.toml", "--home", "home"), 3, "nowhere.toml: cannot be read"),
        (("server", "run", "good.toml", "--home", "home"), 3, "is a draft"),
        (("server", "run", "good.toml", "--home", "home", "--transport", "pigeon"), 3, "--transport: must be"),
        (("server", "enroll", "public.csv", "--home", "home"), 3, "public.csv: is not an enrolment: is not valid JSON"),
        (("server", "init", "--home", "home"), 3, "already is a coordinator's home"),
        (("server", "init", "--home", "new", "--port", "5", "--steps-port", "5"), 3, "the two ports must differ"),
    ],
)
def test_wrong_input_to_a_command_is_one_line_and_the_code_of_who_must_act(
    table: Path, cli: Cli, arguments: tuple[str, ...], code: int, message: str
) -> None:
    folder = table.parent
    columns = draft(table, drop=["person"]).columns
    good = render_study(a_study(columns=columns, mode="local", quorum=3))
    (folder / "good.toml").write_text(good)
    (folder / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (folder / "bad.csv").write_text(BAD_ROWS)
    (folder / "other-model.toml").write_text(good.replace('"tabular-gan"', '"nope"'))
    (folder / "other-domain.toml").write_text(good.replace('domain = "table"', 'domain = "images"'))
    (folder / "option.toml").write_text(good.replace("[model.options]", "[model.options]\nbins = 1"))
    init_home(ServerHome(folder / "home"), "localhost", "127.0.0.1", 8443, 8444)
    done = cli(*arguments)
    assert_refused(done, code, message)
    assert "maybe" not in done.stderr  # a value of a site's table
    assert not (folder / "r").exists()


@pytest.mark.parametrize("arguments", [("study", "nope"), ("nope",), ("study", "check"), ("study", "check", "--nope")])
def test_a_wrong_command_line_is_code_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_delete_character_survives() -> None:
    study = a_study(columns=(Categorical(name="ill", values=("\x7f", "other")),))
    assert parse_study(render_study(study), where="test") == study


@pytest.mark.parametrize("name", ["a.b", "two words", "größe", ""])
def test_awkward_names_of_options_survive(name: str) -> None:
    study = a_study(options={name: 1})
    assert parse_study(render_study(study), where="test") == study


def test_inner_names_of_options_beyond_the_basic_plane_survive() -> None:
    study = a_study(options={"weights": {"🩺": 1}})
    assert parse_study(render_study(study), where="test") == study


def test_another_roster_keeps_the_ceiling_for_when_secure_aggregation_fails() -> None:
    study = a_study()
    cohort = Cohort.model_validate({**study.cohort.model_dump(), "epsilon_if_secagg_fails_at_most": 3.0})
    strict = study.model_copy(update={"cohort": cohort})
    assert with_sites(strict, study.cohort.sites).cohort.epsilon_if_secagg_fails_at_most == 3.0


def test_a_draft_into_a_folder_that_is_not_there_is_one_line(table: Path, cli: Cli) -> None:
    assert_refused(cli(*NEW, *THREE, "--out", "no/such/study.toml"), 3, "no/such/study.toml")
