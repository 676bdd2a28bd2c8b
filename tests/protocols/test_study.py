"""Study files: what is refused and where, and one canonical form."""

import base64
import itertools
import json
import random
import re
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from tests.protocols import federation
from tests.protocols.federation import public_text, terms
from tests.vectors.generate import STUDY
from tests.vectors.session import EAST_KEY, identity

from synthfed.protocols.cohort import Site, least_quorum, least_tolerated
from synthfed.protocols.errors import ConfigError, PluginError
from synthfed.protocols.schema import Categorical
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import LATER_TERMS, Aggregation, Privacy, Study, canonical_json, parse_study

GOOD = STUDY.replace('id = "east-2"\n', f'id = "east-2"\nkey = "{EAST_KEY}"\n')
NORTH_KEY, SOUTH_KEY = (
    base64.b64encode(identity(name).public_key().public_bytes_raw()).decode() for name in ("north", "south")
)


def respelled(key: str) -> str:
    """Return other base64 text of the same 32 bytes: the last digit's lowest two bits are not used."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return key[:42] + digits[digits.index(key[42]) + 1] + "="


def problem_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_study(text, where="study.toml")
    message = str(caught.value)
    assert message.startswith("study.toml: ")
    assert caught.value.__cause__ is None
    return message.removeprefix("study.toml: ")


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def study(**changes: Any) -> Study:
    return Study.model_validate({**terms(), **changes})


def test_a_good_file_gives_its_study() -> None:
    found = parse_study(GOOD, where="study.toml")
    assert found.cohort.roster == ("east-2", "north", "south")
    assert found.cohort.keys["north"] == base64.b64decode(NORTH_KEY)
    assert found.model.options == {"width": 8, "rate": 0.5, "layers": [3, 2], "label": "\u00e4"}
    assert found.privacy.epsilon == 2.0
    assert not found.is_draft


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("format = 1", "format = 2", "format: must be 1 (is 2)"),
        ("format = 1", "", "format: is missing"),
        ('name = "vectors"', 'name = "not good"', "name: must be 1-64 letters, digits, dots, underscores and hyphens"),
        ('name = "vectors"', 'name = ""', "name: must be 1-64 letters, digits, dots, underscores and hyphens"),
        ('target = "ill"', 'target = "age"', "target 'age' is not among the columns"),
        ('mode = "distributed"', 'mode = "central"', "privacy.mode: must be 'distributed' or 'local' (is 'central')"),
        ("epsilon = 2", "epsilon = 0", "privacy.epsilon: must be greater than 0 (is 0)"),
        ("epsilon = 2", "epsilon = 101", "privacy.epsilon: must be at most 100 (is 101)"),
        ("epsilon = 2", "epsilon = inf", "privacy.epsilon: must be a finite number (is inf)"),
        ("epsilon = 2", "epsilon = nan", "privacy.epsilon: must be a finite number (is nan)"),
        ("epsilon = 2", 'epsilon = "2"', "privacy.epsilon: must be a number (is '2')"),
        ("epsilon = 2", "epsilon = true", "privacy.epsilon: must be a number (is true)"),
        ("delta = 1e-6", "delta = 0.01", "privacy.delta: must be less than 0.01 (is 0.01)"),
        ("delta = 1e-6", "delta = 0.0", "privacy.delta: must be greater than 0 (is 0.0)"),
        ("records_per_unit = 4", "records_per_unit = 0", "privacy.records_per_unit: "),
        ('unit = "person"', "", "privacy: records_per_unit needs `unit`"),
        ('unit = "person"', 'unit = "ill"', "the unit column 'ill' names persons"),
        ("units_per_site = 1000", "units_per_site = 10_000_001", "privacy.units_per_site: "),
        ("units_per_site = 1000", "units_per_site = 0", "privacy.units_per_site: "),
        ("units_per_site = 1000", "units_per_site = 10.0", "privacy.units_per_site: must be a whole number (is 10.0)"),
        ("sample_rate = 0.1", "sample_rate = 0", "privacy.sample_rate: "),
        ("sample_rate = 0.1", "sample_rate = 1.01", "privacy.sample_rate: "),
        ("steps = 10", "steps = 0", "privacy.steps: "),
        ("steps = 10", "steps = 100_001", "privacy.steps: "),
        ("steps = 10", "steps = 10\nclip_norm = 0.0", "privacy.clip_norm: "),
        ("steps = 10", "steps = 10\nclip_norm = 1e7", "privacy.clip_norm: "),
        ("steps = 10", "steps = 10\nanswer_time_s = 0.001", "privacy.answer_time_s: "),
        ("steps = 10", "steps = 10\nstatistic_time_s = 601.0", "privacy.statistic_time_s: "),
        ("steps = 10", "steps = 10\nstep = 10", "privacy.step: is not a known field"),
        ('plugin = "toy"', 'plugin = ""', "model.plugin: "),
        ("tolerated = 1", "tolerated = 0", "cohort.tolerated: "),
        ("quorum = 3", "quorum = 1", "cohort.quorum: must be at least 2 (is 1)"),
        ("quorum = 3", "quorum = 2", "cohort.quorum must be at least 3 for 3 sites with 1 tolerated"),
        ("quorum = 3", "quorum = 4", "cohort: quorum is 4 but the roster has 3 sites"),
        ("at_most = 50.0", "at_most = 0.0", "cohort.epsilon_if_secagg_fails_at_most: "),
        ("tolerated = 1", "tolerated = 2", "cohort: `distributed` with 2 tolerated needs at least 4 sites"),
        ('id = "north"', 'id = "south"', "cohort: lists a site twice"),
        ('id = "north"', 'id = "North"', "site 'North': id: must be 1-32 lower-case letters"),
        (NORTH_KEY, SOUTH_KEY, "cohort: two sites share one key"),
        (NORTH_KEY, respelled(SOUTH_KEY), "site 'north': key"),  # the same 32 bytes in another spelling
        (NORTH_KEY, "AAAA", "site 'north': key: must be an Ed25519 public key"),
        (NORTH_KEY, "not base64", "site 'north': key: must be an Ed25519 public key"),
        (NORTH_KEY, "\u00e4", "site 'north': key: "),
        (
            'kind = "real"',
            'kind = "complex"',
            "column 'weight': kind: must be one of 'categorical', 'integer', 'real'",
        ),
        ('name = "weight"', 'name = "ill"', "column 'ill' is declared twice"),
        ("upper = 300.5", "upper = 0", "column 'weight': lower must be less than upper"),
        ("upper = 300.5", f"upper = {10**400}", "column 'weight': upper: is too large to be held exactly"),
        (
            'target = "ill"',
            'target = "ill"\nsite_column = "weight"',
            "site_column 'weight' is among the columns, but a site's agent alone says whose a record is; take it out",
        ),
        (
            'target = "ill"',
            'target = "place"\nsite_column = "place"',
            "target 'place' is the site column, which no data should help to predict; name another",
        ),
        (
            'target = "ill"',
            'target = "ill"\nsite_column = "person"',
            "site_column 'person' is the unit column, which names persons; give it another name",
        ),
        ('target = "ill"', 'target = "ill"\nsite_column = ""', "site_column: "),
        ('target = "ill"', 'target = "ill"\npurpose = ""', "purpose: must have at least 1 character(s)"),
        ('target = "ill"', 'target = "ill"\npurpose = " "', "purpose: must be one line of printable text"),
        ('target = "ill"', 'target = "ill"\npurpose = "a\\u001bc"', "purpose: must be one line of printable text"),
        ("width = 8", "width = nan", "model"),  # canonical JSON would write null for nan and inf alike
        ("width = 8", "width = inf", "model"),
        ("[model]", "[model", "is not valid TOML: "),
    ],
)
def test_an_error_names_the_file_the_field_and_what_is_wrong(old: str, new: str, problem: str) -> None:
    assert problem_of(changed(old, new)).startswith(problem)


def test_the_first_problem_is_told_and_how_many_more_there_are() -> None:
    text = changed("epsilon = 2", "epsilon = 0").replace("steps = 10", "steps = 0").replace('"toy"', '""')
    assert problem_of(text).startswith("privacy.epsilon: ")
    assert problem_of(text).endswith("(and 2 more)")


def test_an_error_of_a_plugin_names_the_plugin_and_its_distribution() -> None:
    error = PluginError("does not start", plugin="toy", distribution="toys 1.0")
    assert str(error) == "plugin 'toy' (distribution toys 1.0): does not start"
    assert (error.plugin, error.distribution) == ("toy", "toys 1.0")


def test_an_error_never_repeats_what_the_file_says_there() -> None:
    assert "s3cret" not in problem_of(changed(NORTH_KEY, "s3cret"))


@pytest.mark.parametrize(("count", "limit"), [(1, "at least 2"), (51, "at most 50")])
def test_a_roster_has_two_to_fifty_sites(count: int, limit: str) -> None:
    fields = terms(tuple(f"s{i}" for i in range(count)))
    with pytest.raises(ValueError, match=limit):
        Study.model_validate(fields)


def test_a_controller_with_more_sites_than_are_tolerated_is_refused_in_distributed_only() -> None:
    text = changed('id = "south"', 'id = "south"\ncontroller = "trust"')
    assert problem_of(text).startswith("cohort.tolerated is 1 but controller 'trust' runs 2 sites")
    assert parse_study(text.replace("distributed", "local"), where="study.toml").privacy.mode == "local"


def test_a_draft_lacks_a_key_and_two_missing_keys_are_not_a_shared_one() -> None:
    text = changed(SOUTH_KEY, "").replace(NORTH_KEY, "")
    draft = parse_study(text, where="study.toml")
    assert draft.is_draft
    assert draft.cohort.keys["south"] == b""


@pytest.mark.parametrize(
    ("sites", "tolerated", "mode", "least"),
    [(3, 1, "distributed", 3), (10, 1, "distributed", 7), (10, 6, "distributed", 8), (3, 1, "local", 2),
     (2, 1, "local", 2), (10, 6, "local", 7)],
)  # fmt: skip
def test_the_least_quorum_is_two_thirds_and_in_distributed_two_beyond_the_tolerated(
    sites: int, tolerated: int, mode: Any, least: int
) -> None:
    assert least_quorum(sites, tolerated, mode) == least


def test_by_default_the_largest_controller_or_a_third_is_tolerated() -> None:
    def sites(*controllers: str) -> list[Site]:
        return [Site(id=f"s{i}", controller=name) for i, name in enumerate(controllers)]

    assert least_tolerated(sites("", "")) == 1
    assert least_tolerated(sites(*[""] * 10)) == 3
    assert least_tolerated(sites("x", "x", "x", "", "")) == 3
    assert least_tolerated(sites("s1", "")) == 2  # a site's own name is its controller


# The canonical form.


def toml_of(fields: dict[str, Any], order: random.Random) -> str:
    """Return TOML text of nested fields, the keys of every table in a random order."""

    def value_of(value: Any) -> str:
        if isinstance(value, dict):
            entries = [f"{key} = {value_of(each)}" for key, each in shuffled(value)]
            return "{" + ", ".join(entries) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(value_of(each) for each in value) + "]"
        return json.dumps(value)

    def shuffled(table: dict[str, Any]) -> list[tuple[str, Any]]:
        items = list(table.items())
        order.shuffle(items)
        return items

    return "\n".join(f"{key} = {value_of(value)}" for key, value in shuffled(fields))


@given(seed=st.integers(0, 2**32))
def test_canonical_bytes_do_not_depend_on_the_order_of_sites_or_keys_in_the_file(seed: int) -> None:
    order, fields = random.Random(seed), tomllib.loads(GOOD)
    order.shuffle(fields["cohort"]["sites"])
    found = parse_study(toml_of(fields, order), where="study.toml")
    assert found.canonical == parse_study(GOOD, where="study.toml").canonical
    assert found.hash == parse_study(GOOD, where="study.toml").hash


def test_canonical_bytes_are_sorted_json_without_spaces_that_give_the_study_back() -> None:
    found = parse_study(GOOD, where="study.toml")
    fields = json.loads(found.canonical)
    assert canonical_json(fields) == found.canonical
    assert list(fields) == sorted(fields)
    assert re.search(rb"\s", found.canonical) is None
    assert Study.model_validate(fields).canonical == found.canonical


def test_the_order_of_columns_and_values_is_part_of_the_terms() -> None:
    columns = [{"kind": "categorical", "name": name, "values": ["no", "yes"]} for name in ("ill", "old")]
    assert study(columns=columns).hash != study(columns=columns[::-1]).hash
    assert study().hash != study(columns=[{**columns[0], "values": ["yes", "no"]}]).hash


DETERMINED = """[[constraints]]
kind = "determines"
determinant = "ill"
determined = "weight"
table = { yes = 1.5, no = 70 }
"""

CHANGES: list[tuple[str, str]] = [
    ('name = "vectors"', 'name = "other"'),
    ("epsilon = 2", "epsilon = 2.5"),
    ("delta = 1e-6", "delta = 1.1e-6"),
    ("records_per_unit = 4", "records_per_unit = 5"),
    ("units_per_site = 1000", "units_per_site = 1001"),
    ("sample_rate = 0.1", "sample_rate = 0.11"),
    ("steps = 10", "steps = 11"),
    ("steps = 10", "steps = 10\nanswer_time_s = 0.5"),
    ("steps = 10", "steps = 10\nclip_norm = 2.0"),
    ('mode = "distributed"', 'mode = "local"'),
    ("width = 8", "width = 9"),
    ('controller = "trust"', 'controller = "other"'),
    (NORTH_KEY, public_text("x")),
    ("upper = 300.5", "upper = 300.25"),
    ("at_most = 50.0", "at_most = 9.0"),
    ("[[columns]]", f"{DETERMINED}[[columns]]"),
    ("[[columns]]", f"{DETERMINED}[[columns]]".replace("70", "71")),
]


def test_every_term_changes_the_hash() -> None:
    hashes = {parse_study(changed(*change), where="x").hash for change in CHANGES}
    assert len(hashes | {parse_study(GOOD, where="x").hash}) == len(CHANGES) + 1


def test_an_unchanged_study_file_keeps_the_hash_by_which_earlier_versions_charged_it() -> None:
    """The hash that the last program without any of the later terms gave to the vectors' study.

    Where it changes, a new term of format 1 is missing in ``LATER_TERMS``, and a site's caps would begin anew.
    """
    known = "a48fe97901e9f7e243cc79190c697967f4417e90006701be411093e422aa7642"
    assert parse_study(STUDY, where="x").hash.hex() == known
    tables: dict[str, type[BaseModel]] = {"aggregation": Aggregation, "privacy": Privacy, "": Study}
    for table, name, default in LATER_TERMS:
        own = tables[table].model_fields[name].default
        assert (list(own) if isinstance(own, tuple) else own) == default


def test_a_later_term_that_is_written_with_its_default_is_no_other_study() -> None:
    written = changed("[cohort]\n", '[aggregation]\nkey_agreement = "hybrid"\n[cohort]\n')
    assert parse_study(written, where="x").hash == parse_study(GOOD, where="x").hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("steps = 10", "steps = 10\nsigma_floor = 0.5"),
        ("[cohort]\n", '[aggregation]\nkey_agreement = "x25519"\n[cohort]\n'),
        ("[[columns]]", f"{DETERMINED}[[columns]]"),
        ('target = "ill"', 'target = "ill"\nsite_column = "place"'),
        ('target = "ill"', 'target = "ill"\npurpose = "to plan beds"'),
    ],
)
def test_a_later_term_with_another_value_than_its_default_changes_the_hash(old: str, new: str) -> None:
    local = changed('mode = "distributed"', 'mode = "local"')
    assert parse_study(local.replace(old, new, 1), where="x").hash != parse_study(local, where="x").hash
    assert len(LATER_TERMS) == 5  # one case for each


BY_SITE = changed('target = "ill"', 'target = "ill"\nsite_column = "place"')


def test_released_records_end_with_their_site_in_the_order_that_the_hash_does_not_depend_on() -> None:
    found = parse_study(BY_SITE, where="x")
    other = found.model_copy(
        update={"cohort": found.cohort.model_copy(update={"sites": tuple(reversed(found.cohort.sites))})}
    )
    assert other.hash == found.hash
    assert other.released.columns == found.released.columns
    *columns, site = found.released.columns
    assert tuple(columns) == found.columns
    assert site == Categorical(name="place", values=("east-2", "north", "south"))
    assert found.released.released == found.released
    plain = parse_study(GOOD, where="x")
    assert plain.released is plain
    assert plain.free is plain


def test_a_model_sees_the_site_column_and_none_that_a_constraint_derives() -> None:
    found = parse_study(BY_SITE.replace("[[columns]]", f"{DETERMINED}[[columns]]", 1), where="x")
    names = [column.name for column in found.free.columns]
    assert names == [*(column.name for column in found.columns if column.name != "weight"), "place"]
    assert not found.free.constraints


def test_no_constraint_can_be_on_the_site_column() -> None:
    by_place = DETERMINED.replace('"ill"', '"place"')
    assert problem_of(BY_SITE.replace("[[columns]]", f"{by_place}[[columns]]", 1)).startswith(
        "constraint 1: determinant: 'place' is not among the columns"
    )


def test_the_site_column_counts_among_the_numbers_of_a_record() -> None:
    wide = {"kind": "array", "name": "scan", "shape": [2**20 - 1], "lower": 0, "upper": 1}
    kept = [column for column in terms()["columns"] if column["name"] == terms()["target"]]
    assert study(columns=[*kept, wide]).released
    with pytest.raises(ValidationError, match="a record has more than"):
        study(columns=[*kept, wide], site_column="place")


def test_a_number_written_as_an_integer_or_as_a_real_is_the_same_term() -> None:
    tables = (changed("[[columns]]", DETERMINED.replace("70", text) + "[[columns]]") for text in ("70", "70.0"))
    assert len({parse_study(text, where="x").hash for text in tables}) == 1
    assert parse_study(GOOD, where="x").hash == parse_study(changed("epsilon = 2", "epsilon = 2.0"), where="x").hash


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_canonical_json_has_no_numbers_that_are_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": bad})


def test_canonical_json_is_ascii_and_tells_texts_apart() -> None:
    assert canonical_json({"b": "\u00e4", "a": 1}) == b'{"a":1,"b":"\\u00e4"}'


# The policy.


def test_the_policy_hash_covers_the_study_every_kind_and_the_code() -> None:
    base = federation.policy()
    kinds = base.plan.kinds

    def with_kinds(*changed: Any) -> Policy:
        plan = type(base.plan)(changed, base.plan.epsilon, base.plan.epsilon_if_secagg_fails, base.plan.curve)
        return Policy(base.study, plan, base.code)

    others = [
        federation.policy(code=b"other"),
        federation.policy(study(name="other")),
        with_kinds(*kinds[:2]),
        with_kinds(*kinds[::-1]),
        with_kinds(federation.kind("steps", 64), *kinds[1:]),
    ]
    hashes = {policy.hash for policy in itertools.chain([base], others)}
    assert len(hashes) == 6
    assert base.hash == federation.policy().hash


def test_a_target_with_one_category_is_refused() -> None:
    fields = terms()
    fields["columns"][0]["values"] = ["no"]
    with pytest.raises(ValidationError, match="has one category only, so there is nothing to predict"):
        Study.model_validate(fields)


def test_a_target_that_is_an_array_is_refused() -> None:
    fields = terms()
    fields["columns"][0] = {"kind": "array", "name": fields["target"], "shape": [2, 2], "lower": 0, "upper": 1}
    with pytest.raises(ValidationError, match="is an array; name a column with one value"):
        Study.model_validate(fields)
