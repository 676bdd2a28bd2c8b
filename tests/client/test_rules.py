"""A study against the site's rules: each refuses exactly when it should, all at once, before a plugin is loaded."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.client.homes import copied

from synthfed.client.config import Home
from synthfed.client.policy import PluginPin, SitePolicy
from synthfed.client.rules import StudyRefused, broken_rules, installed_plugins, pin_allowed
from synthfed.plugins.registry import find
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.privacy.plan import make_plan
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum, own_noise

SUMS = (Sum("count", "statistic", 2, 1.0, 1.0, 2, 1.0), Sum("totals", "statistic", 3, 1.0, 0.5, 3, 0.1))
VALUES = ["no", "yes"]


def study(**changes: Any) -> Study:
    """Return terms of five sites of which one may be bad, with some fields changed: ``privacy__epsilon=2.0``."""
    keys = {f"s{i}": base64.b64encode(bytes([i + 1]) * 32).decode() for i in range(5)}
    fields: dict[str, Any] = {
        "format": 1,
        "name": "first",
        "target": "ill",
        "privacy": {
            "mode": "distributed",
            "epsilon": 5.0,
            "delta": 1e-5,
            "units_per_site": 40,
            "sample_rate": 0.5,
            "steps": 6,
        },
        "model": {"plugin": "moments"},
        "cohort": {"tolerated": 1, "quorum": 4, "sites": [{"id": site, "key": key} for site, key in keys.items()]},
        "columns": [
            {"name": "age", "kind": "integer", "lower": 0, "upper": 120},
            {"name": "ill", "kind": "categorical", "values": VALUES},
        ],
    }
    for path, value in changes.items():
        table, _, name = path.rpartition("__")
        (fields[table] if table else fields)[name] = value
    return Study.model_validate(fields)


def rules(policy: SitePolicy, terms: Study) -> list[str]:
    return [each.rule for each in broken_rules(terms, policy)]


def test_a_site_without_rules_refuses_nothing() -> None:
    terms = study()
    assert [*broken_rules(terms, SitePolicy(), installed_plugins(terms), make_plan(terms, SUMS))] == []


def test_a_roster_with_a_revoked_key_is_refused_by_name_and_no_other() -> None:
    terms = study()
    revoked, other = terms.cohort.sites[1], fingerprint(b"another key")
    policy = SitePolicy(revoked_keys=(other, fingerprint(revoked.public_key)))
    (broken,) = broken_rules(terms, policy)
    assert broken.rule == "policy.revoked_keys"
    assert f"the roster has key {fingerprint(revoked.public_key)} of site {revoked.id!r}" in broken.what
    assert rules(SitePolicy(revoked_keys=(other,)), terms) == []


@given(promised=st.floats(0.5, 20), most=st.floats(0.5, 20))
def test_a_promise_above_that_of_one_study_is_refused_and_no_other(promised: float, most: float) -> None:
    broken = rules(SitePolicy(epsilon_per_study=most), study(privacy__epsilon=promised))
    assert broken == ["policy.epsilon_per_study"] * (promised > most)


@given(quorum=st.integers(4, 5), tolerated=st.integers(1, 2), sites=st.integers(2, 6), honest=st.integers(1, 6))
def test_a_quorum_is_refused_exactly_where_sites_or_honest_sites_are_too_few(
    quorum: int, tolerated: int, sites: int, honest: int
) -> None:
    terms = study(cohort__quorum=quorum, cohort__tolerated=tolerated)
    expected = ["policy.least_sites"] * (quorum < sites) + ["policy.least_honest"] * (quorum - tolerated < honest)
    assert rules(SitePolicy(least_sites=sites, least_honest=honest), terms) == expected


@pytest.mark.parametrize("mode", ["distributed", "local"])
@pytest.mark.parametrize("allowed", [("distributed",), ("local",), ("distributed", "local")])
def test_a_mode_that_is_not_allowed_is_refused(mode: str, allowed: tuple[str, ...]) -> None:
    policy = SitePolicy.model_validate({"modes": list(allowed)})
    assert rules(policy, study(privacy__mode=mode)) == ["policy.modes"] * (mode not in allowed)


def test_the_floor_refuses_where_this_sites_own_noise_in_one_step_of_any_sum_is_below_it() -> None:
    terms = study()
    plan = make_plan(terms, SUMS)
    least, name = min((own_noise(terms, kind), kind.sum.name) for kind in plan.kinds)
    assert [*broken_rules(terms, SitePolicy(sigma_floor=least), plan=plan)] == []
    (broken,) = broken_rules(terms, SitePolicy(sigma_floor=least * 1.001), plan=plan)
    assert broken.rule == "policy.sigma_floor"
    assert f"in a step of sum {name!r} this site alone would add noise of" in broken.what


@pytest.mark.parametrize(
    ("stated", "allowed", "is_refused"),
    [
        (None, ["research"], True),
        ("research", ["research"], False),
        ("research", ["care", "research"], False),
        ("Research", ["research"], True),
        ("research and more", ["research"], True),
        ("research  on sepsis", ["research on sepsis"], False),
        ("études", ["e\u0301tudes"], False),
    ],
)
def test_a_purpose_must_be_one_of_those_allowed_word_by_word(
    stated: str | None, allowed: list[str], is_refused: bool
) -> None:
    policy = SitePolicy.model_validate({"purposes": allowed})
    assert rules(policy, study(purpose=stated)) == ["policy.purposes"] * is_refused


def test_a_purpose_changes_the_terms_hash_and_its_absence_does_not() -> None:
    assert study(purpose=None).hash == study().hash != study(purpose="research").hash
    with pytest.raises(ValidationError):
        study(purpose="")


@pytest.mark.parametrize(
    ("denied", "is_refused"),
    [
        (["income"], False),
        (["age"], True),
        ([" AGE"], True),
        (["\uff41\uff47\uff45"], True),  # wide letters
        (["visits"], True),
        (["hospital"], True),
    ],
)
def test_a_column_that_never_leaves_is_refused_also_where_a_constraint_or_the_agent_derives_it(
    denied: list[str], is_refused: bool
) -> None:
    derived = {"name": "visits", "kind": "integer", "lower": 0, "upper": 3}
    bound = {"kind": "determines", "determinant": "ill", "determined": "visits", "table": {"no": 0, "yes": 1}}
    columns = [*study().model_dump(mode="json")["columns"], derived]
    terms = study(columns=columns, constraints=[bound], site_column="hospital")
    policy = SitePolicy.model_validate({"deny_columns": denied})
    assert rules(policy, terms) == ["policy.deny_columns"] * is_refused


def test_a_plugin_that_differs_from_the_pinned_one_in_any_part_is_refused_and_told() -> None:
    found = installed_plugins(study())
    assert sorted(found) == ["domain 'table'", "model 'moments'"]
    pins = tuple(found.values())
    assert [*broken_rules(study(), SitePolicy(plugins=pins), found)] == []
    assert len([*broken_rules(study(), SitePolicy(plugins=pins[:1]), found)]) == 1
    for change in ({"hash": "0" * 64}, {"version": "9"}, {"distribution": "other"}):
        other = SitePolicy(plugins=(pins[0].model_copy(update=change), pins[1]))
        (broken,) = broken_rules(study(), other, found)
        assert broken.rule == "policy.plugins"
        assert pins[0].hash in broken.what


def test_a_pin_is_the_hash_that_the_listing_shows() -> None:
    plugin = find("synthfed.models", "moments")
    expected = PluginPin(distribution=plugin.distribution, version=plugin.version, hash=plugin.hash.hex())
    assert installed_plugins(study())["model 'moments'"] == expected


def test_all_broken_rules_are_named_at_once_with_the_study_and_what_to_do() -> None:
    policy = SitePolicy.model_validate(
        {"epsilon_per_study": 1.0, "least_sites": 5, "modes": ["local"], "sigma_floor": 1000.0, "purposes": ["care"]}
    )
    with pytest.raises(StudyRefused) as caught:
        pin_allowed(study(model={"plugin": "vae"}), policy, where="site.toml")
    assert caught.value.rules == (
        *("policy.epsilon_per_study", "policy.least_sites", "policy.modes", "policy.purposes", "policy.sigma_floor"),
    )
    assert str(caught.value).startswith("site.toml: study 'first' breaks 5 rules of this site: (1) policy.epsilon_per")
    assert isinstance(caught.value, ConfigError)
    assert "\n" not in str(caught.value)


def test_a_plugin_that_is_not_allowed_is_never_loaded(install: Callable[..., Path], tmp_path: Path) -> None:
    witness = tmp_path / "loaded"
    source = f"from pathlib import Path\nPath({str(witness)!r}).touch()\nclass Bad: ...\n"
    install("sneaky", "[synthfed.models]\nsneaky = sneaky:Bad\n", source)
    pins = tuple(installed_plugins(study()).values())
    with pytest.raises(StudyRefused, match=r"policy\.plugins: model 'sneaky' is of distribution 'sneaky', version"):
        pin_allowed(study(model={"plugin": "sneaky"}), SitePolicy(plugins=pins), where="site.toml")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[policy]\ncolour = "red"', r"policy\.colour: is not a known field"),
        ("[policy]\nepsilon_per_year = 0", r"policy\.epsilon_per_year: must be greater than 0"),
        ('[policy]\nmodes = ["central"]', r"modes: must be 'distributed' or 'local'"),
        ("[policy]\nmodes = []", r"policy\.modes: must list at least 1"),
        ("[policy]\npurposes = []", r"policy\.purposes: must list at least 1"),
        ('[policy]\nrevoked_keys = ["C76F"]', r"entry 1 of policy\.revoked_keys: does not have the form"),
        ('[policy]\nopen = ["always"]', r"policy: open or zone: 'always' is not of the form"),
        ('[policy]\nzone = "Mars"', r"policy: open or zone: 'Mars' is not a time zone"),
        ('[policy.consent]\ncolumn = "c"', r"policy\.consent\.accepted: is missing"),
        ('[policy.consent]\ncolumn = "c"\naccepted = [""]', "must have at least 1 character"),
        ('[[policy.plugins]]\ndistribution = "d"\nversion = "1"\nhash = "ABC"', "does not have the form"),
    ],
)
def test_a_mistake_in_the_rules_names_file_field_and_what_is_wrong(
    settings: Callable[[str], Home], table: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"site\.toml: .*{message}"):
        settings(table).load()


@pytest.fixture
def settings(made_home: Home, tmp_path: Path) -> Callable[[str], Home]:
    home = copied(made_home, tmp_path)

    def written(table: str) -> Home:
        text = home.config.read_text(encoding="utf-8")
        assert "\n[policy]\n" in text
        home.config.write_text(text.replace("[policy]", table), encoding="utf-8")
        return home

    return written


def test_every_rule_can_be_written_into_the_settings(settings: Callable[[str], Home]) -> None:
    table = """
[policy]
epsilon_per_study = 4
epsilon_per_year = 6.0
least_sites = 3
least_honest = 2
modes = ["distributed"]
sigma_floor = 0.5
deny_columns = ["name"]
purposes = ["research on sepsis"]
revoked_keys = ["c76f-5d65-6086-54a6-0609"]
open = ["mon-fri 08:00-18:00", "sat 22:00-04:00"]
zone = "Europe/Berlin"

[policy.consent]
column = "consent"
accepted = ["yes", "broad"]

[[policy.plugins]]
distribution = "synthfed"
version = "0.1.0"
hash = "%s"
""" % ("0" * 64)
    policy = settings(table).load().policy
    assert policy.consent is not None
    assert policy.keep == policy.consent.keep
    assert policy.hours is not None
    assert policy.plugins == (PluginPin(distribution="synthfed", version="0.1.0", hash="0" * 64),)
    assert all(getattr(policy, name) for name in SitePolicy.model_fields)


def test_the_example_of_the_page_on_rules_can_be_loaded(settings: Callable[[str], Home]) -> None:
    page = (Path(__file__).parents[2] / "docs/site-policy.md").read_text(encoding="utf-8")
    table = page.partition("```toml")[2].partition("```")[0]
    table = table[table.index("[policy]") :].replace("8f3c...", "0" * 64)
    policy = settings(table).load().policy
    assert all(getattr(policy, name) for name in SitePolicy.model_fields)
    assert all(f"`{name}`" in page or f"[policy.{name}" in page for name in SitePolicy.model_fields)
