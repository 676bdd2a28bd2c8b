"""A home that others can reach is not started: each file by its name, with the command that mends it."""

import os
import stat
from contextlib import closing
from pathlib import Path

import pytest
from tests.client.homes import copied

from synthfed.client.cli import run
from synthfed.client.config import Home
from synthfed.client.consent.decisions import write_decision
from synthfed.client.enrol import init_home
from synthfed.client.keys.identity import load_identity
from synthfed.client.keys.modes import demand_private
from synthfed.client.preflight.machine import look_at_keys
from synthfed.client.site import open_agent
from synthfed.client.vault import Ledger
from synthfed.plugins.processes import exclusive
from synthfed.protocols.approval import Decision, Subject
from synthfed.protocols.enrolment import Invitation
from synthfed.protocols.errors import ConfigError

OWNED = [
    "identity.key",
    "site.toml",
    "ledger.db",
    "ledger.mark",
    "audit.log",
    "audit.mark",
    "node/node.key",
    "decisions/*",
]


@pytest.fixture
def home(made_home: Home, tmp_path: Path) -> Home:
    return copied(made_home, tmp_path)


def test_whatever_a_home_is_given_is_private_whatever_the_umask(made_home: Home, tmp_path: Path) -> None:
    invitation = tmp_path / "invitation.json"
    invitation.write_text(Invitation(address="127.0.0.1:1", ca="none").model_dump_json(), encoding="utf-8")
    home, old = Home(tmp_path / "site"), os.umask(0)
    try:
        init_home(home, invitation, "a", "", "data.csv")
        (home.path / "study.toml").write_bytes((made_home.path / "study.toml").read_bytes())
        identity = load_identity(home.identity)
        write_decision(home.decisions, Decision.of(identity, "reject", Subject("a", "0a" * 32, "", ()), 1))
        with exclusive(home.lock, "agent"), closing(Ledger(home.ledger, identity)) as ledger:
            ledger.clear()
            demand_private(home)
    finally:
        os.umask(old)
    assert stat.S_IMODE(home.lock.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o611])
@pytest.mark.parametrize("name", OWNED)
def test_a_file_that_others_can_reach_is_named_with_the_command_that_mends_it(home: Home, name: str, mode: int) -> None:
    (path,) = home.path.glob(name)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        demand_private(home)
    assert str(caught.value) == f"{path}: can be reached by others (mode {mode:04o}); run `chmod go= {path}`"


@pytest.mark.parametrize("name", ["", "node", "decisions"])
def test_a_folder_that_others_can_enter_stops_run_agent_and_check(home: Home, name: str) -> None:
    folder = home.path / name
    folder.chmod(0o750)
    said = rf"{folder}: can be entered by others \(mode 0750\); run `chmod go= {folder}`"
    with pytest.raises(ConfigError, match=said):
        run(home.path)
    with pytest.raises(ConfigError, match=said), open_agent(home):
        pytest.fail("the agent opened")
    assert any(not finding.is_ok and "can be entered by others" in finding.detail for finding in look_at_keys(home))


def test_many_files_are_mended_by_one_command_and_what_is_not_the_sites_is_left_alone(home: Home) -> None:
    for path in home.path.glob("*.*"):
        path.chmod(0o644)
    with pytest.raises(ConfigError, match=rf"and [0-9]+ more can; run `chmod -R go= {home.path}`"):
        demand_private(home)
    for path in home.path.glob("*.*"):
        path.chmod(0o600)
    for name in ("data.csv", "study.toml", "enrolment.json", "node/ca.crt"):
        (home.path / name).chmod(0o644)
    demand_private(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_home_of_another_user_is_refused(home: Home) -> None:
    os.chown(home.identity, 4711, -1)
    with pytest.raises(ConfigError, match=r"identity\.key: belongs to another user \(number 4711\)"):
        demand_private(home)
