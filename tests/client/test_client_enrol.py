"""Making a home: private files, no key overwritten, and nothing private in what is sent away."""

import base64
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from synthfed.client.config import Home
from synthfed.client.enrol import init_home
from synthfed.client.keys.identity import load_identity
from synthfed.protocols.enrolment import Enrolment, Invitation, parse
from synthfed.protocols.errors import ConfigError

CA = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n"


@pytest.fixture
def invitation(tmp_path: Path) -> Path:
    path = tmp_path / "invitation.json"
    path.write_text(Invitation(address="coordinator.example:9092", ca=CA).model_dump_json(), encoding="utf-8")
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "site")


def made(home: Home, invitation: Path, controller: str = "Hospital A") -> Enrolment:
    enrolment, _ = init_home(home, invitation, "hospital-a", controller, "data.csv")
    return enrolment


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_keys_are_private_to_their_owner_whatever_the_umask(home: Home, invitation: Path) -> None:
    old = os.umask(0)
    try:
        made(home, invitation)
    finally:
        os.umask(old)
    assert mode(home.path) == 0o700
    assert mode(home.identity) == 0o600
    assert mode(home.node_key) == 0o600


def test_the_home_holds_settings_and_authority_of_the_invitation(home: Home, invitation: Path) -> None:
    made(home, invitation)
    config = home.load()
    assert (config.site, config.controller, config.data) == ("hospital-a", "Hospital A", "data.csv")
    assert config.coordinator.address == "coordinator.example:9092"
    assert (home.path / config.coordinator.ca).read_text(encoding="utf-8") == CA


def test_the_enrolment_is_signed_and_names_the_keys_of_the_home(home: Home, invitation: Path) -> None:
    returned = made(home, invitation)
    enrolment = parse(Enrolment, home.enrolment.read_text(encoding="utf-8"), where="enrolment.json")
    enrolment.verify(where="enrolment.json")
    assert enrolment == returned
    assert enrolment.roster_entry.public_key == load_identity(home.identity).public_key().public_bytes_raw()
    node = serialization.load_ssh_private_key(home.node_key.read_bytes(), password=None)
    assert isinstance(node, ec.EllipticCurvePrivateKey)
    assert node.public_key() == serialization.load_ssh_public_key(enrolment.node.encode())


def test_the_enrolment_holds_no_byte_of_a_private_key(home: Home, invitation: Path) -> None:
    made(home, invitation)
    sent = home.enrolment.read_bytes()
    node = serialization.load_ssh_private_key(home.node_key.read_bytes(), password=None)
    assert isinstance(node, ec.EllipticCurvePrivateKey)
    secrets = [
        load_identity(home.identity).private_bytes_raw(),
        node.private_numbers().private_value.to_bytes(48, "big"),
    ]
    enrolment = parse(Enrolment, sent.decode(), where="enrolment.json")
    encoded = (enrolment.identity, enrolment.node.split()[1], enrolment.signature)
    blobs = [sent, *(base64.b64decode(part, validate=True) for part in encoded)]
    for secret in secrets:
        for start in range(len(secret) - 7):
            piece = secret[start : start + 8]
            assert not any(piece in blob or piece.hex().encode() in blob for blob in blobs)
    for line in home.identity.read_bytes().splitlines() + home.node_key.read_bytes().splitlines():
        assert line not in sent
    assert b"PRIVATE" not in sent


def test_two_homes_never_share_a_key(tmp_path: Path, invitation: Path) -> None:
    first, second = (made(Home(tmp_path / name), invitation) for name in ("one", "two"))
    assert first.identity != second.identity
    assert first.node != second.node
    assert first.fingerprint != second.fingerprint


def test_a_home_is_never_made_twice_and_stays_as_it_was(home: Home, invitation: Path) -> None:
    made(home, invitation)
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="already is a site's home; choose another --home"):
        made(home, invitation)
    assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["site.toml", "identity.key", "node/node.key"])
def test_one_file_of_an_earlier_home_is_enough_and_is_kept(home: Home, invitation: Path, name: str) -> None:
    home.node.mkdir(parents=True)
    (home.path / name).write_bytes(b"earlier")
    with pytest.raises(ConfigError, match="already"):
        made(home, invitation)
    assert (home.path / name).read_bytes() == b"earlier"


@pytest.mark.parametrize("site", ["", "Hospital", "a b", "-a", "a-", "../a", "a" * 33, "a\n"])
def test_a_bad_site_name_is_refused_before_anything_is_made(home: Home, invitation: Path, site: str) -> None:
    with pytest.raises(ConfigError, match="--site: must be 1-32 lower-case letters"):
        init_home(home, invitation, site, "", "data.csv")
    assert not home.path.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"address: is missing; give the coordinator's invitation\.json"),
        ("not json", "is not valid JSON"),
        ('{"format": 2, "address": "a:1", "ca": ""}', "format: "),
        ('{"address": "a:1", "ca": "", "more": 1}', "more: is not a known field"),
        ('{"address": "a b:1", "ca": ""}', "address: must be HOST:PORT"),
    ],
)
def test_a_bad_invitation_is_refused_before_anything_is_made(
    home: Home, invitation: Path, text: str, message: str
) -> None:
    invitation.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"invitation\.json: is not an invitation: {message}"):
        made(home, invitation)
    assert not home.path.exists()
    with pytest.raises(ConfigError, match="cannot be read"):
        made(home, invitation.with_name("none.json"))


def test_a_home_that_cannot_be_made_is_an_error_of_the_operator(tmp_path: Path, invitation: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be made: "):
        made(Home(tmp_path / "file" / "site"), invitation)


@pytest.mark.parametrize("controller", ['Klinik "Nord"', "Klinik \\Nord", "Klinik\nNord"])
def test_any_controllers_name_gives_settings_that_can_be_read(home: Home, invitation: Path, controller: str) -> None:
    made(home, invitation, controller)
    assert home.load().controller == controller
