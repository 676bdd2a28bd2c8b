"""A key that the coordinator has revoked gets into no enrolment, proposal or run, and decides over no other key."""

from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client.conftest import terms
from typer.testing import CliRunner

from synthfed.client.enrol import node_public
from synthfed.protocols.enrolment import Enrolment
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.rotation import Rotation
from synthfed.protocols.signed import decoded, public_text
from synthfed.server.cli import app
from synthfed.server.conduct import Request, conduct
from synthfed.server.home import ServerHome, enrol, init_home, revoke
from synthfed.server.proposing import propose
from synthfed.server.study_file import render_study

NOW_S = 1_700_000_000.0


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    place = ServerHome(tmp_path / "home")
    init_home(place, "localhost", "127.0.0.1", 8443, 8444)
    return place


@pytest.fixture
def keys() -> list[Ed25519PrivateKey]:
    return [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (41, 42, 43)]


NODE = node_public(ec.derive_private_key(7, ec.SECP384R1()))


def told(key: Ed25519PrivateKey) -> str:
    return fingerprint(decoded(public_text(key)))


def sent(home: ServerHome, key: Ed25519PrivateKey, *rotations: Rotation) -> Enrolment:
    file = home.path.parent / "enrolment.json"
    file.write_text(Enrolment.signed("a", "", key, NODE, rotations).model_dump_json(), encoding="utf-8")
    return enrol(home, file)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_revoked_site_is_enrolled_no_longer_and_its_key_never_again(
    home: ServerHome, keys: list[Ed25519PrivateKey], by_name: bool
) -> None:
    sent(home, keys[0])
    revoked, site = revoke(home, "a" if by_name else told(keys[0]), NOW_S)
    assert (revoked.key, site, home.sites()) == (told(keys[0]), "a", {})
    with pytest.raises(
        ConfigError, match=r"enrolment\.json: has the key .* of site 'a', which was revoked on 2023-11-14"
    ):
        sent(home, keys[0])
    sent(home, keys[1], Rotation.of("a", keys[0], keys[1], 1))  # as any new site, whose key people compare
    assert revoke(home, told(keys[0]), NOW_S + 9) == (revoked, "")


def test_a_revoked_key_decides_over_no_other_key(home: ServerHome, keys: list[Ed25519PrivateKey]) -> None:
    first = sent(home, keys[0])
    revoke(home, told(keys[1]), NOW_S)
    row = [Rotation.of("a", old, new, 1) for old, new in pairwise(keys)]
    with pytest.raises(ConfigError, match="enrolled with other keys"):
        sent(home, keys[2], *row)
    assert home.sites() == {"a": first}


def test_who_was_revoked_before_the_enrolled_key_is_no_matter(home: ServerHome, keys: list[Ed25519PrivateKey]) -> None:
    revoke(home, told(keys[0]), NOW_S)
    row = [Rotation.of("a", old, new, 1) for old, new in pairwise(keys)]
    sent(home, keys[1], row[0])
    assert sent(home, keys[2], *row).identity == public_text(keys[2])


def test_a_study_with_a_revoked_key_is_neither_proposed_nor_run(
    home: ServerHome, keys: list[Ed25519PrivateKey], tmp_path: Path
) -> None:
    study = terms(dict(zip("abc", keys, strict=True)), "first", 5.0)
    file = tmp_path / "first.toml"
    file.write_text(render_study(study), encoding="utf-8")
    propose(home, file, tmp_path / "before.json")
    revoke(home, told(keys[1]), NOW_S)
    said = r"first\.toml: has the key .* of site 'b', which was revoked on 2023-11-14; take its new enrolment"
    with pytest.raises(ConfigError, match=said):
        propose(home, file, tmp_path / "after.json")
    with pytest.raises(ConfigError, match=said):
        conduct(home, Request(file, tmp_path / "out", 10, 0, 1.0, "session", resume=False), lambda _: None)


def test_what_is_no_site_and_no_key_or_a_damaged_list_is_an_error(home: ServerHome) -> None:
    with pytest.raises(ConfigError, match="nobody: is neither an enrolled site nor the fingerprint"):
        revoke(home, "nobody", NOW_S)
    home.revoked.write_text("[{}]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"revoked\.json: .*; restore it"):
        revoke(home, "0000-0000-0000-0000-0000", NOW_S)


def test_the_commands_tell_what_follows_from_a_rotation_and_a_revocation(
    home: ServerHome, keys: list[Ed25519PrivateKey]
) -> None:
    def said(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--home", str(home.path)])
        assert done.exit_code == 0, done.exception
        return " ".join(done.output.split())

    sent(home, keys[0])
    file = home.path.parent / "enrolment.json"
    rotated = Enrolment.signed("a", "", keys[1], NODE, [Rotation.of("a", keys[0], keys[1], 1)])
    file.write_text(rotated.model_dump_json(), encoding="utf-8")
    assert f"identity {told(keys[0])} was followed by {told(keys[1])}" in said("enroll", str(file))
    earlier = said("revoke", told(keys[0]))
    assert "a stays enrolled under a key that this one has signed" in earlier
    assert "run `synthfed server revoke a`" in earlier
    revoked = said("revoke", "a")
    assert "stays enrolled" not in revoked
    assert f"revoked {told(keys[1])}" in revoked
    assert "a is not enrolled any more" in revoked
    assert "`revoked_keys` of [policy] in site.toml" in revoked
