"""The coordinator's home: what it holds, who is enrolled, and what is refused."""

import json
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.client.enrol import node_public
from synthfed.protocols.enrolment import Enrolment, Invitation, parse
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.rotation import Rotation
from synthfed.server.home import ServerHome, enrol, init_home


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    place = ServerHome(tmp_path / "home")
    init_home(place, "coordinator.example", "0.0.0.0", 8443, 8444)  # noqa: S104
    return place


def enrolment(site: str = "clinic", controller: str = "trust") -> Enrolment:
    node = node_public(ec.generate_private_key(ec.SECP384R1()))
    return Enrolment.signed(site, controller, Ed25519PrivateKey.generate(), node)


def written(path: Path, content: Enrolment) -> Path:
    path.write_text(content.model_dump_json())
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_reads_back_as_it_was_made(home: ServerHome) -> None:
    config = home.load()
    assert (config.host, config.bind, config.port, config.steps_port) == ("coordinator.example", "0.0.0.0", 8443, 8444)  # noqa: S104
    assert config.address == "coordinator.example:8443"
    assert config.steps_address == "coordinator.example:8444"
    assert home.sites() == {}
    assert home.run_folder("study").parent == home.path / "runs"


def test_only_its_owner_can_enter_a_home_and_read_its_keys(home: ServerHome) -> None:
    assert mode(home.path) == 0o700
    assert {mode(home.path / name) for name in ("ca.key", "server.key")} == {0o600}


def test_a_folder_that_others_can_enter_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o755)
    with pytest.raises(ConfigError, match="home: exists and can be entered by others; choose a new folder"):
        init_home(ServerHome(tmp_path / "home"), "localhost", "127.0.0.1", 1, 2)
    assert mode(tmp_path / "home") == 0o755
    assert not list((tmp_path / "home").iterdir())


def test_an_invitation_holds_the_address_and_the_authority_and_no_secret(home: ServerHome) -> None:
    invitation = parse(Invitation, home.invitation.read_text(), where="test")
    assert set(json.loads(home.invitation.read_text())) == {"format", "address", "ca"}
    assert invitation.address == "coordinator.example:8443"
    assert invitation.ca == (home.path / "ca.crt").read_text()
    assert "PRIVATE" not in home.invitation.read_text()
    for name in ("ca.key", "server.key"):
        body = (home.path / name).read_text().splitlines()[1:-1]
        assert not any(line in home.invitation.read_text() for line in body)


def test_a_home_is_never_made_twice(home: ServerHome) -> None:
    before = {path.name: path.read_bytes() for path in home.path.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match="already is a coordinator's home"):
        init_home(home, "other.example", "127.0.0.1", 1, 2)
    home.config.unlink()  # as if the first had been interrupted: its keys are still not overwritten
    with pytest.raises(ConfigError, match="already holds certificates"):
        init_home(home, "other.example", "127.0.0.1", 1, 2)
    del before["server.toml"]
    assert {path.name: path.read_bytes() for path in home.path.iterdir() if path.is_file()} == before


def test_equal_ports_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--steps-port: the two ports must differ"):
        init_home(ServerHome(tmp_path / "home"), "localhost", "127.0.0.1", 8443, 8443)
    assert not (tmp_path / "home").exists()


def test_a_home_below_a_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        init_home(ServerHome(tmp_path / "file" / "home"), "localhost", "127.0.0.1", 1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = 1\nhost = ", "is not valid TOML"),
        ("format = 1", "host: is missing"),
        ('format = 2\nhost = "a"\nbind = "a"\nport = 1\nsteps_port = 2', "format: must be 1"),
        ('format = 1\nhost = "a"\nbind = "a"\nport = 0\nsteps_port = 2', r"port: must be at least 1 \(is 0\)"),
        ('format = 1\nhost = "a"\nbind = "a"\nport = "1"\nsteps_port = 2', "port: must be a whole number"),
        (
            'format = 1\nhost = "a"\nbind = "a"\nport = 1\nsteps_port = 70000',
            "steps_port: must be at most 65535",
        ),
        ('format = 1\nhost = "a"\nbind = "a"\nport = 1\nsteps_port = 2\nkey = 1', "key: is not a known field"),
    ],
)
def test_wrong_settings_are_refused_by_file_and_field(home: ServerHome, text: str, message: str) -> None:
    home.config.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        home.load()
    assert str(refused.value).startswith(f"{home.config}: ")
    assert "\n" not in str(refused.value)


def test_a_folder_without_settings_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is this a coordinator's home"):
        ServerHome(tmp_path).load()
    with pytest.raises(ConfigError, match="is this a coordinator's home"):
        enrol(ServerHome(tmp_path), written(tmp_path / "site.json", enrolment()))


def test_a_site_is_enrolled_once_or_again_with_the_same_keys(home: ServerHome, tmp_path: Path) -> None:
    content = enrolment()
    file = written(tmp_path / "site.json", content)
    assert enrol(home, file) == enrol(home, file) == content
    assert home.sites() == {"clinic": content}
    other = enrolment("praxis")
    enrol(home, written(tmp_path / "other.json", other))
    assert home.sites() == {"clinic": content, "praxis": other}
    assert [path.suffix for path in (home.path / "sites").iterdir()] == [".json", ".json"]


def test_a_site_with_other_keys_is_refused_and_the_first_stays(home: ServerHome, tmp_path: Path) -> None:
    first = enrol(home, written(tmp_path / "site.json", enrolment()))
    second = enrolment()
    with pytest.raises(ConfigError, match="enrolled with other keys") as refused:
        enrol(home, written(tmp_path / "site.json", second))
    assert first.fingerprint in str(refused.value)
    assert home.sites() == {"clinic": first}


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "other-clinic"},
        {"controller": "someone else"},
        {"identity": enrolment().identity},
        {"node": enrolment().node},
        {"signature": enrolment().signature},
        {"signature": ""},
        {"signature": "not base64"},
        {"identity": "c2hvcnQ="},
        {"site": "../../etc/passwd"},
        {"site": "Clinic"},
    ],
)
def test_a_damaged_or_forged_enrolment_is_refused(home: ServerHome, tmp_path: Path, changes: dict[str, str]) -> None:
    content = enrolment().model_copy(update=changes)
    with pytest.raises(ConfigError, match="damaged or not signed by its own key"):
        enrol(home, written(tmp_path / "site.json", content))
    assert home.sites() == {}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 1}', enrolment().model_dump_json()[:-20], '{"private": "key"}']
)
def test_a_file_that_is_no_enrolment_is_refused_in_one_line(home: ServerHome, tmp_path: Path, content: str) -> None:
    file = tmp_path / "site.json"
    file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        enrol(home, file)
    assert str(refused.value).startswith(f"{file}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_bytes(b"\xff\xfe"), lambda _: None])
def test_an_enrolment_that_cannot_be_read_is_one_error(home: ServerHome, tmp_path: Path, make: Any) -> None:
    make(tmp_path / "site.json")
    with pytest.raises(ConfigError, match=r"cannot be read: |is not UTF-8 text"):
        enrol(home, tmp_path / "site.json")


def test_a_leftover_part_of_an_interrupted_enrolment_does_no_harm(home: ServerHome, tmp_path: Path) -> None:
    (home.path / "sites" / "clinic.part").write_text("{")
    assert home.sites() == {}
    content = enrol(home, written(tmp_path / "site.json", enrolment()))
    assert home.sites() == {"clinic": content}


@pytest.mark.parametrize(("host", "port"), [("::1", 1), ("my_host", 1), ("localhost", -1), ("local host", 1)])
def test_a_host_or_port_that_sites_cannot_use_is_refused_before_keys_are_made(
    tmp_path: Path, host: str, port: int
) -> None:
    place = ServerHome(tmp_path / "home")
    with pytest.raises(ConfigError):
        init_home(place, host, "127.0.0.1", port, 2)
    assert not (place.path / "ca.key").exists()


@pytest.mark.parametrize(("port", "steps_port"), [(70_000, 2), (0, 2), (1, 70_000), (1, -5)])
def test_a_port_out_of_range_is_refused_when_the_home_is_made(tmp_path: Path, port: int, steps_port: int) -> None:
    with pytest.raises(ConfigError):
        init_home(ServerHome(tmp_path / "home"), "localhost", "127.0.0.1", port, steps_port)


@pytest.mark.parametrize("name", ["server.toml", "sites/clinic.json"])
def test_settings_that_are_not_utf_8_are_one_error(home: ServerHome, name: str) -> None:
    (home.path / name).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        home.load()
        home.sites()


@pytest.mark.parametrize(
    ("host", "bind", "ports", "option"),
    [
        ("fe80::1", "127.0.0.1", (1, 2), "--host"),
        ("300.1.1.1", "127.0.0.1", (1, 2), "--host"),
        ("a..b", "127.0.0.1", (1, 2), "--host"),
        ("", "127.0.0.1", (1, 2), "--host"),
        ("localhost", "::", (1, 2), "--bind"),
        ("localhost", "127.0.0.1", (0, 2), "--port"),
        ("localhost", "127.0.0.1", (1, 70_000), "--steps-port"),
    ],
)
def test_a_refused_address_is_named_by_its_option_and_nothing_is_written(
    tmp_path: Path, host: str, bind: str, ports: tuple[int, int], option: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{option}: "):
        init_home(ServerHome(tmp_path / "home"), host, bind, *ports)
    assert not (tmp_path / "home").exists()


def test_a_rotated_key_is_taken_where_the_enrolled_key_has_signed_and_nothing_else_has_changed(
    home: ServerHome, tmp_path: Path
) -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(3)]
    node, other = (node_public(ec.generate_private_key(ec.SECP384R1())) for _ in range(2))
    row = [Rotation.of("clinic", old, new, 1) for old, new in pairwise(keys)]

    def taken(key: Ed25519PrivateKey, node: str, *rotations: Rotation, controller: str = "trust") -> Enrolment:
        return enrol(home, written(tmp_path / "new.json", Enrolment.signed("clinic", controller, key, node, rotations)))

    first = taken(keys[0], node)
    stranger = Ed25519PrivateKey.generate()
    attempts: list[tuple[str, list[Rotation], str]] = [
        (node, [], "trust"),
        (other, row[:1], "trust"),
        (node, row[:1], "someone else"),
        (node, [Rotation.of("clinic", stranger, keys[1], 1)], "trust"),
    ]
    for its_node, rotations, controller in attempts:
        with pytest.raises(ConfigError, match="enrolled with other keys"):
            taken(keys[1], its_node, *rotations, controller=controller)
        assert home.sites() == {"clinic": first}
    last = taken(keys[2], node, *row)  # two rotations at once: the coordinator has not seen the first
    assert home.sites() == {"clinic": last}
    with pytest.raises(ConfigError, match="enrolled with other keys"):
        taken(keys[0], node)  # the earlier key does not come back
