"""Invitations and enrolments, the two files exchanged by hand."""

import base64
from typing import Any

import pytest
from tests.protocols.federation import identity, public_text

from synthfed.protocols.enrolment import Enrolment, Invitation, parse
from synthfed.protocols.errors import ConfigError

NODE = "ecdsa-sha2-nistp384 AAAA"


@pytest.fixture
def enrolment() -> Enrolment:
    return Enrolment.signed("north", "trust", identity("north"), NODE)


def changed(enrolment: Enrolment, **fields: Any) -> Enrolment:
    return Enrolment(**{**enrolment.model_dump(), **fields})


def test_an_enrolment_survives_its_file_and_verifies(enrolment: Enrolment) -> None:
    again = parse(Enrolment, enrolment.model_dump_json(), where="north.json")
    again.verify(where="north.json")
    assert again == enrolment


def test_the_roster_entry_names_the_site_its_key_and_its_controller(enrolment: Enrolment) -> None:
    entry = enrolment.roster_entry
    assert (entry.id, entry.key, entry.controller) == ("north", public_text("north"), "trust")


@pytest.mark.parametrize(
    "fields",
    [
        {"site": "south"},
        {"site": "No Name"},
        {"controller": "other"},
        {"node": NODE + "AA"},
        {"identity": public_text("south")},
        {"identity": ""},
        {"identity": "AAAA"},
        {"identity": "\u00e4"},
        {"signature": ""},
        {"signature": "\u00e4"},
        {"signature": "A"},
        {"signature": base64.b64encode(bytes(64)).decode()},
    ],
)
def test_an_enrolment_with_any_field_changed_is_refused(enrolment: Enrolment, fields: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^north\.json: is damaged or not signed by its own key"):
        changed(enrolment, **fields).verify(where="north.json")


def test_a_fingerprint_covers_every_field_but_the_signature(enrolment: Enrolment) -> None:
    others = [{"site": "x"}, {"controller": "x"}, {"node": NODE + "AA"}, {"identity": public_text("south")}]
    prints = {changed(enrolment, **fields).fingerprint for fields in others}
    assert len(prints | {enrolment.fingerprint}) == 5
    assert changed(enrolment, signature="").fingerprint == enrolment.fingerprint


def test_an_invitation_survives_its_file_and_its_fingerprint_is_that_of_the_authority() -> None:
    invitation = Invitation(address="host.example:443", ca="PEM")
    assert parse(Invitation, invitation.model_dump_json(), where="x") == invitation
    assert invitation.fingerprint != Invitation(address="host.example:443", ca="PEM2").fingerprint
    assert invitation.fingerprint == Invitation(address="other.example:443", ca="PEM").fingerprint


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"address": "host", "ca": ""}', "i.json: is not an invitation: address: must be HOST:PORT"),
        ('{"address": "host:443\\n", "ca": ""}', "i.json: is not an invitation: address: must be HOST:PORT"),
        ('{"address": "host:65536", "ca": ""}', "i.json: is not an invitation: address: must be HOST:PORT"),
        ('{"address": "host:0", "ca": ""}', "i.json: is not an invitation: address: must be HOST:PORT"),
        ('{"address": "host:443"}', "i.json: is not an invitation: ca: is missing"),
        ('{"address": "host:443", "ca": "", "key": ""}', "i.json: is not an invitation: key: is not a known field"),
        ('{"address": "host:443", "ca": "", "format": 2}', "i.json: is not an invitation: format: must be 1 (is 2)"),
        ("{", "i.json: is not an invitation: is not valid JSON"),
        ("[]", "i.json: is not an invitation: must be a table of fields"),
    ],
)
def test_a_malformed_file_is_refused_by_name_and_field(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Invitation, text, where="i.json")
    assert str(caught.value).startswith(problem)


def test_a_file_of_the_other_kind_is_told_for_what_it_is_not(enrolment: Enrolment) -> None:
    with pytest.raises(
        ConfigError, match=r"^a\.json: is not an invitation: .*; give the coordinator's invitation\.json$"
    ):
        parse(Invitation, enrolment.model_dump_json(), where="a.json")
    with pytest.raises(ConfigError, match=r"^b\.json: is not an enrolment: .*; give the site's enrolment\.json$"):
        parse(Enrolment, Invitation(address="host:443", ca="PEM").model_dump_json(), where="b.json")


@pytest.mark.parametrize("node", ["", "ssh-rsa AAAA", "ecdsa-sha2-nistp384 ", "ecdsa-sha2-nistp384 A B"])
def test_a_node_key_of_another_kind_is_refused(node: str) -> None:
    with pytest.raises(ValueError, match="must be a Flower node's public key"):
        Enrolment.signed("north", "", identity("north"), node)
