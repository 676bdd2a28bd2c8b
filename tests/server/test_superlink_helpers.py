"""What can be tested of Flower's side without starting Flower: files, commands, and how a run's end is told."""

import stat
import tomllib
from pathlib import Path

import pytest

from synthfed.plugins.cli import EXIT_CODES
from synthfed.protocols import errors
from synthfed.protocols.secagg.aggregator import SumCorrupt
from synthfed.server import conduct, superlink
from synthfed.server.home import ServerHome, init_home
from synthfed.server.store import Run, Status
from synthfed.server.superlink import SuperLink, flower_app


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    place = ServerHome(tmp_path / 'a "home" with spaces')
    init_home(place, "coordinator.example", "127.0.0.1", 18443, 18444)
    return place


def test_the_flower_app_is_found_and_names_the_server_app() -> None:
    settings = tomllib.loads((flower_app() / "pyproject.toml").read_text())
    components = settings["tool"]["flwr"]["app"]["components"]
    assert components["serverapp"] == "synthfed.server.app:app"
    assert components["clientapp"] == "synthfed.client.app:app"


def test_flowers_settings_trust_this_authority_and_no_other(home: ServerHome) -> None:
    link = SuperLink(home, home.load())
    link._write_settings()
    settings = tomllib.loads((home.path / "flwr" / "config.toml").read_text())["superlink"]
    chosen = settings[settings["default"]]
    assert chosen["address"] == "127.0.0.1:18443"
    assert Path(chosen["root-certificates"]).read_text() == (home.path / "ca.crt").read_text()
    assert "insecure" not in chosen


def test_the_secret_between_flowers_programs_is_made_once_for_its_owner_only(home: ServerHome) -> None:
    link = SuperLink(home, home.load())
    link._write_settings()
    secret = home.path / "superexec.secret"
    first = secret.read_bytes()
    link._write_settings()
    assert secret.read_bytes() == first
    assert len(bytes.fromhex(first.decode())) == 32
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_no_program_is_started_without_tls_or_with_a_secret_on_its_command_line(home: ServerHome) -> None:
    link = SuperLink(home, home.load())
    link._write_settings()
    secret = (home.path / "superexec.secret").read_text()
    for child in link.children:
        assert "--insecure" not in child._command
        assert secret not in " ".join(child._command)
    assert "--enable-supernode-auth" in link.children[0]._command
    assert not any(child.is_running() for child in link.children)
    link.check()  # nothing that was not started has ended


def test_long_output_becomes_one_line() -> None:
    assert superlink._one_line("a\n  b\r\n\tc\n") == "a b c"
    assert len(superlink._one_line("word " * 1000)) == 300
    assert superlink._one_line("") == ""


@pytest.mark.parametrize("kind", list(EXIT_CODES))
def test_an_error_of_the_run_keeps_its_kind_and_advises_to_resume_only_where_that_can_help(
    kind: type[errors.SynthfedError],
) -> None:
    rebuilt = conduct._rebuilt(kind, "s1: something happened")
    assert type(rebuilt) is kind
    passes = kind in (errors.TransportError, errors.QuorumLost)
    advice = "; the checkpoint stands: go on with --resume" if passes else ""
    assert str(rebuilt) == "s1: something happened" + advice


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("QuorumLost", errors.QuorumLost),
        ("BudgetExceeded", errors.BudgetExceeded),
        ("PluginError", errors.PluginError),
        ("ZeroDivisionError", errors.TransportError),
        ("SynthfedError", errors.SynthfedError),
        ("", errors.TransportError),
    ],
)
def test_the_end_of_a_run_in_its_own_process_is_told_by_its_status(
    home: ServerHome, name: str, kind: type[errors.SynthfedError]
) -> None:
    with pytest.raises(errors.SynthfedError, match="it ended") as ended:
        follow(home, Status("paused", "it ended", error=name))
    assert type(ended.value) is kind


def test_a_trained_run_is_followed_to_its_end(home: ServerHome) -> None:
    assert follow(home, Status("trained", "every planned round is done")) == ["trained"]


def test_a_run_whose_process_is_gone_is_noticed(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "is_alive", lambda _: False)
    with pytest.raises(errors.TransportError, match="process died"):
        follow(home, Status("training", "sum 'critic'"))


def follow(home: ServerHome, status: Status) -> list[str]:
    """Follow a run that has this status, with Flower's programs not started; return the phases seen."""
    run = Run.begin(home.run_folder("study"), "", {}, resume=False)
    run.report(status)
    seen: list[str] = []
    conduct._follow(SuperLink(home, home.load()), run, lambda status: seen.append(status.phase))
    return seen


def test_a_corrupt_sum_is_told_as_what_a_person_must_look_at(home: ServerHome) -> None:
    with pytest.raises(errors.SynthfedError) as ended:
        follow(home, Status("paused", "masks did not cancel", error=SumCorrupt.__name__))
    assert isinstance(ended.value, errors.RemoteProtocolError)
