"""A key follows another only where both have signed that, at one site, in one unbroken row."""

import json
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError
from tests.protocols.federation import identity, public_text
from tests.vectors import generate

from synthfed.protocols.enrolment import Enrolment, parse
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.rotation import MOST, Rotation, verify_row

NODE = "ecdsa-sha2-nistp384 AAAA"
VECTOR: dict[str, Any] = json.loads((generate.FOLDER / "rotation.json").read_text(encoding="ascii"))


def step(old: str, new: str, site: str = "north", at_unix_s: int = 7) -> Rotation:
    return Rotation.of(site, identity(old), identity(new), at_unix_s)


def test_the_vector_is_what_this_version_computes_and_accepts() -> None:
    assert generate.rotation() == VECTOR
    found = parse(Enrolment, json.dumps(VECTOR["enrolment"]), where="vector")
    found.verify(where="vector")
    assert found.follows(VECTOR["statement"]["old"])
    assert not found.follows(found.identity)


@pytest.mark.parametrize(
    "fields",
    [
        {"site": "south"},
        {"old": public_text("third")},
        {"new": public_text("third")},
        {"at_unix_s": 8},
        {"by_old": ""},
        {"by_new": ""},
        {"by_old": step("first", "second").by_new},
        {"by_new": step("first", "second").by_old},
        {"by_old": step("third", "second").by_old},
    ],
)
def test_a_statement_with_anything_changed_or_one_signature_is_refused(fields: dict[str, Any]) -> None:
    stated = step("first", "second")
    stated.verify(where="north.json")
    with pytest.raises(ConfigError, match=r"north\.json: states a rotation that was changed, or that not both keys"):
        Rotation.model_validate({**stated.model_dump(), **fields}).verify(where="north.json")


def test_a_key_does_not_follow_itself() -> None:
    with pytest.raises(ValidationError, match="the new key is the old one"):
        step("first", "first")


@pytest.mark.parametrize(
    "row",
    [
        [step("first", "second")],
        [step("second", "third"), step("first", "second")],
        [step("first", "second"), step("first", "third")],
        [step("first", "second", "south"), step("second", "third")],
        [step("third", "second"), step("second", "third")],
    ],
    ids=["ends elsewhere", "disorder", "gap", "another site", "back again"],
)
def test_a_row_that_does_not_lead_to_the_key_is_refused(row: list[Rotation]) -> None:
    with pytest.raises(ConfigError, match="its rotations do not lead to its key"):
        verify_row(row, "north", public_text("third"), where="x")
    enrolled = Enrolment.signed("north", "", identity("third"), NODE, row)
    with pytest.raises(ConfigError, match="its rotations do not lead to its key"):
        enrolled.verify(where="x")


def test_an_enrolment_of_format_1_has_the_bytes_and_the_signature_it_always_had() -> None:
    plain = Enrolment.signed("north", "trust", identity("north"), NODE)
    assert list(plain.model_dump()) == ["format", "site", "controller", "identity", "node", "signature"]
    rotated = Enrolment.signed("north", "trust", identity("second"), NODE, [step("north", "second")])
    assert rotated.format == 2
    parse(Enrolment, rotated.model_dump_json(), where="x").verify(where="x")
    without: list[dict[str, Any]] = [{"format": 1}, {"rotations": []}]
    for changed in without:
        with pytest.raises(ValidationError, match="rotations stand in format 2, and only there"):
            Enrolment.model_validate({**rotated.model_dump(), **changed})


def test_a_file_carries_the_last_rotations_of_many() -> None:
    names = [f"key {number}" for number in range(MOST + 3)]
    row = [step(old, new) for old, new in pairwise(names)]
    enrolled = Enrolment.signed("north", "", identity(names[-1]), NODE, row)
    enrolled.verify(where="x")
    assert enrolled.follows(public_text(names[2]))
    assert not enrolled.follows(public_text(names[1]))
