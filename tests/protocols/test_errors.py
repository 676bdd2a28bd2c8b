"""A validator's findings in plain words: where, what is allowed, and nothing long or private."""

import tomllib
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError
from tests.protocols.federation import terms

from synthfed.protocols.errors import (
    BudgetExceeded,
    ConfigError,
    PluginError,
    RemoteProtocolError,
    StudyError,
    describe,
)
from synthfed.protocols.schema import Strict
from synthfed.protocols.study import Study


class Inner(Strict):
    id: Annotated[str, Field(min_length=2, max_length=70)]


class Terms(Strict):
    """A field of every kind."""

    rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    count: Annotated[int, Field(ge=1, lt=10)] = 1
    is_on: bool = True
    mode: Literal["fast", "slow"] = "fast"
    digest: Annotated[str, Field(pattern="^[0-9a-f]+$")] = "0"
    numbers: Annotated[tuple[int, ...], Field(max_length=2, strict=False)] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    inner: Inner | None = None
    sites: Annotated[tuple[Inner, ...], Field(strict=False)] = ()
    other: bytes = b""


def found_in(fields: Any) -> str:
    """Return what is said of fields that do not fit; the validator's own words must not come through."""
    with pytest.raises(ValidationError) as caught:
        Terms.model_validate(fields)
    said = describe(caught.value, fields)
    assert "Input" not in said
    return said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rate": 0}, "rate: must be greater than 0 (is 0)"),
        ({"rate": 1.5}, "rate: must be at most 1 (is 1.5)"),
        ({"rate": float("inf")}, "rate: must be a finite number (is inf)"),
        ({"rate": "much"}, "rate: must be a number (is 'much')"),
        ({"rate": [0.5]}, "rate: must be a number"),
        ({"count": 0}, "count: must be at least 1 (is 0)"),
        ({"count": 10}, "count: must be less than 10 (is 10)"),
        ({"count": 2.5}, "count: must be a whole number (is 2.5)"),
        ({"count": True}, "count: must be a whole number (is true)"),
        ({"count": 2**70}, "count: must be less than 10"),
        ({"is_on": "yes"}, "is_on: must be true or false (is 'yes')"),
        ({"mode": "slower"}, "mode: must be 'fast' or 'slow' (is 'slower')"),
        ({"mode": "s" * 40}, "mode: must be 'fast' or 'slow'"),
        ({"digest": "secret"}, "digest: does not have the form that is expected here"),
        ({"numbers": 3}, "numbers: must be a list in brackets"),
        ({"numbers": [1, 2, 3]}, "numbers: must list at most 2 (lists 3)"),
        ({"numbers": [1, "x"]}, "entry 2 of numbers: must be a whole number (is 'x')"),
        ({"options": 3}, "options: must be a table of fields"),
        ({"inner": 3}, "inner: must be a table of fields"),
        ({"inner": {}}, "inner.id: is missing; add it"),
        ({"inner": {"id": "x"}}, "inner.id: must have at least 2 character(s)"),
        ({"inner": {"id": 7}}, "inner.id: must be text in quotes (is 7)"),
        ({"sites": [{"id": "ab", "ip": 1}]}, "site 'ab': ip: is not a known field; remove it or mend its spelling"),
        ({"sites": [{"id": "ab"}, {}]}, "site 2: id: is missing; add it"),
        ({"sites": [3]}, "site 1: must be a table of fields"),
        ({"sites": [{"id": "x" * 71}]}, "site 1: id: must have at most 70 characters"),
        (3, "must be a table of fields"),
    ],
)
def test_a_finding_says_where_it_is_and_what_is_allowed(fields: Any, said: str) -> None:
    assert found_in(fields) == said


def test_a_kind_of_finding_that_has_no_words_here_keeps_its_own() -> None:
    with pytest.raises(ValidationError) as caught:
        Terms.model_validate({"other": 3})
    assert describe(caught.value) == "other: Input should be a valid bytes"


def test_an_unknown_field_is_told_before_the_field_that_it_may_be_meant_for() -> None:
    assert found_in({"inner": {"ID": "ab"}}).startswith("inner.ID: is not a known field")
    assert found_in({"inner": {"ID": "ab"}}).endswith(" (and 1 more)")


def test_an_unknown_field_of_any_name_steers_no_terminal() -> None:
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({"id": "ab", "\x1b[2J\u202e\x9b ü": 1})
    assert describe(caught.value).startswith("\\x1b[2J\\u202e\\x9b ü: is not a known field")


def test_without_the_document_entries_are_counted() -> None:
    with pytest.raises(ValidationError) as caught:
        Terms.model_validate_json('{"sites": [{"id": "ab"}, {"id": "x"}]}')
    assert describe(caught.value) == "site 2: id: must have at least 2 character(s)"
    with pytest.raises(ValidationError) as caught:
        Terms.model_validate_json('{"sites": ')
    assert describe(caught.value).startswith("is not valid JSON (EOF while parsing a value at line 1")


AGE = {"name": "age", "kind": "integer", "lower": 0, "upper": 90}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lower": "x"}, "column 'age': lower: must be a whole number (is 'x')"),
        ({"lower": 91}, "column 'age': lower must be less than upper"),
        ({"digits": 3}, "column 'age': digits: is not a known field; remove it or mend its spelling"),
        ({"kind": "int"}, "column 'age': kind: must be one of 'categorical', 'integer', 'real', 'array' (is 'int')"),
        ({"name": ""}, "column 1: name: must have at least 1 character(s)"),
        ({"name": 3}, "column 1: name: must be text in quotes (is 3)"),
        ({"kind": "categorical", "values": ["a", 2], "lower": 0}, "column 'age': lower: is not a known field"),
        ({"kind": None}, "column 'age': kind: "),
    ],
)
def test_a_finding_in_a_column_names_the_column_and_no_tag(changes: dict[str, Any], said: str) -> None:
    fields = {**terms(), "columns": [{**AGE, **changes}]}
    with pytest.raises(ValidationError) as caught:
        Study.model_validate(fields)
    assert describe(caught.value, fields).startswith(said)


@pytest.mark.parametrize("absent", ["kind", "lower"])
def test_a_field_that_a_column_lacks_is_named(absent: str) -> None:
    fields = {**terms(), "columns": [{name: value for name, value in AGE.items() if name != absent}]}
    with pytest.raises(ValidationError) as caught:
        Study.model_validate(fields)
    assert describe(caught.value, fields) == f"column 'age': {absent}: is missing; add it"


def test_a_column_that_is_no_table_is_counted() -> None:
    fields = {**terms(), "columns": tomllib.loads("columns = [3]")["columns"]}
    with pytest.raises(ValidationError) as caught:
        Study.model_validate(fields)
    assert describe(caught.value, fields) == "column 1: must be a table of fields"


def test_errors_say_who_or_what_they_are_about() -> None:
    assert str(ConfigError("is wrong", where="a.toml")) == "a.toml: is wrong"
    assert str(ConfigError("is wrong")) == "is wrong"
    assert isinstance(StudyError("is wrong"), ConfigError)
    assert str(RemoteProtocolError("lied", peer="a")) == "a: lied"
    assert str(PluginError("is not there", plugin="toy")) == "plugin 'toy': is not there"
    assert str(BudgetExceeded("no more")) == "no more"
