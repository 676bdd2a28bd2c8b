"""An identity key under a passphrase: what opens it, where that comes from, and that no crash loses it."""

import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client.homes import copied
from typer.testing import CliRunner

from synthfed.client.cli import app
from synthfed.client.config import Home
from synthfed.client.consent.stewards import make_key
from synthfed.client.keys.files import remove_parts, write_secret
from synthfed.client.keys.identity import identity_content, identity_pem, load_identity, rewrite_identity
from synthfed.client.supervise import Secret, agent_command, confined_node_command
from synthfed.client.vault import Ledger
from synthfed.plugins.processes import Child, close_all, exclusive
from synthfed.protocols.enrolment import Invitation
from synthfed.protocols.errors import ConfigError

WORD = b"correct horse"


@pytest.fixture
def home(made_home: Home, tmp_path: Path) -> Home:
    return copied(made_home, tmp_path)


@pytest.fixture
def word(tmp_path: Path) -> Path:
    path = tmp_path / "word"
    path.write_bytes(WORD + b"\nnot this\n")
    path.chmod(0o600)
    return path


def done(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, f"{result.output} {result.exception!r}"
    return result.output


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


def seal(home: Home, passphrase: bytes = WORD) -> Ed25519PrivateKey:
    identity = load_identity(home.identity)
    rewrite_identity(home.identity, identity, identity_content(identity, passphrase), passphrase)
    return identity


def test_a_key_goes_under_a_passphrase_under_another_and_back_and_is_the_same_key(home: Home, word: Path) -> None:
    before, other = load_identity(home.identity).private_bytes_raw(), word.with_name("other")
    write_secret(other, b"battery staple\n")
    said = done("key", "protect", "--home", home.path, "--new-passphrase-file", word)
    assert "identity.key is under the passphrase now" in said.replace("\n", "")
    assert load_identity(home.identity, lambda _: WORD).private_bytes_raw() == before
    assert b"PRIVATE" not in home.identity.read_bytes()
    assert stat.S_IMODE(home.identity.stat().st_mode) == 0o600
    done("key", "protect", "--home", home.path, "--passphrase-file", word, "--new-passphrase-file", other)
    with pytest.raises(ConfigError, match=r"identity\.key: the passphrase is wrong, or the file was changed"):
        load_identity(home.identity, lambda _: WORD)
    done("key", "unprotect", "--home", home.path, "--passphrase-file", other)
    assert load_identity(home.identity).private_bytes_raw() == before


def test_every_command_of_a_site_takes_the_passphrase_from_a_private_file_only(home: Home, word: Path) -> None:
    seal(home)
    given, terms = ["--home", home.path, "--passphrase-file", word], home.path / "study.toml"
    assert "0 charges" in done("ledger", *given)
    assert "log-begun" in done("log", *given)
    assert "all hold" in done("log", "verify", *given)
    assert "0 interrupted" in done("clear", *given)
    own = ["--home", home.path, "--identity-passphrase-file", word]
    assert "reject by this site's own key" in done("reject", terms, *own).replace("\n", " ")
    assert "approved: the agent serves these terms" in done("approve", terms, *own)
    word.chmod(0o640)
    assert "word: can be read by others; run `chmod 600` on it" in refused("ledger", *given)


def test_a_wrong_passphrase_or_none_is_one_error_that_says_what_to_give(
    home: Home, word: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(home)
    monkeypatch.setattr("synthfed.client.keys.cli._TERMINAL", str(home.path / "no-terminal"))
    for command in (["run"], ["agent"], ["ledger"], ["review"], ["key", "unprotect"]):
        if command != ["agent"]:  # which would take this process off the network
            assert "there is no terminal to ask at; give --passphrase-file FILE" in refused(
                *command, "--home", home.path
            )
    word.write_bytes(b"wrong\n")
    for command in (["clear"], ["key", "unprotect"]):
        said = refused(*command, "--home", home.path, "--passphrase-file", word)
        assert "identity.key: the passphrase is wrong, or the file was changed" in said
        assert "wrong\n" not in said
    word.write_bytes(b"\n")
    assert "word: is empty" in refused("clear", "--home", home.path, "--passphrase-file", word)
    word.write_bytes(b"w" * 1025)
    assert "word: is longer than 1024 bytes" in refused("clear", "--home", home.path, "--passphrase-file", word)


def test_a_service_managers_credential_opens_the_key_and_must_not_be_open_to_all(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(home)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    credential = tmp_path / "synthfed-passphrase"
    credential.write_bytes(WORD)
    credential.chmod(0o440)  # as systemd shows an access list for the service's user
    assert "all hold" in done("ledger", "--verify", "--home", home.path)
    credential.chmod(0o444)
    assert "synthfed-passphrase: can be read by others" in refused("ledger", "--home", home.path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("log2_n", 40, "log2_n: must be at most 18"),
        ("log2_n", 1, "log2_n: must be at least 14"),
        ("salt", "A" * 200, "salt: must have at most 128 characters"),
        ("sealed", "?", "sealed: does not have the form"),
        ("format", 2, "format: must be 1"),
        ("more", 1, "more: is not a known field"),
    ],
)
def test_a_file_that_asks_for_more_than_ours_do_is_refused_before_anything_is_computed(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    path = tmp_path / "identity.key"
    content = json.loads(identity_content(Ed25519PrivateKey.generate(), WORD)) | {field: value}
    write_secret(path, json.dumps(content).encode())
    with pytest.raises(ConfigError, match=f"is not a site's identity key: {message}"):
        load_identity(path, lambda _: pytest.fail("a passphrase was asked for"))


def test_what_is_no_small_file_or_another_persons_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    write_secret(path, b"{" + b" " * 2**16)
    with pytest.raises(ConfigError, match="is not a file of a few bytes"):
        load_identity(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="is not a file of a few bytes"):
        load_identity(path)
    make_key(tmp_path / "anna.key", WORD)
    with pytest.raises(ConfigError, match="the passphrase is wrong, or the file was changed"):
        load_identity(tmp_path / "anna.key", lambda _: WORD)


def test_a_key_is_not_rewritten_beside_a_running_agent_nor_with_what_does_not_open(home: Home, word: Path) -> None:
    before = home.identity.read_bytes()
    with exclusive(home.lock, "agent"):
        said = refused("key", "protect", "--home", home.path, "--new-passphrase-file", word)
        assert "another agent is using this home; stop it first" in said
    identity, other = load_identity(home.identity), Ed25519PrivateKey.generate()
    for content, passphrase in ((identity_content(identity, WORD), b"other"), (identity_pem(other), b"")):
        with pytest.raises(ConfigError, match=r"wrong|stands"):
            rewrite_identity(home.identity, identity, content, passphrase)
    assert home.identity.read_bytes() == before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_kill_at_any_line_of_the_rewriting_leaves_a_key_that_opens(home: Home) -> None:
    identity = load_identity(home.identity)
    seal(home)
    before, plain = home.identity.read_bytes(), identity_pem(identity)
    states = set()
    for line in range(1, 200):
        home.identity.write_bytes(before)
        if not killed_at(line, lambda: rewrite_identity(home.identity, identity, plain, b"")):
            break
        states.add(home.identity.read_bytes() == before)
        assert home.identity.read_bytes() in (before, plain)
    else:
        pytest.fail("it never came to its end")
    assert states == {True, False}
    remove_parts(home.identity)
    assert not list(home.path.glob(".*"))


def killed_at(wanted: int, act: Callable[[], None]) -> bool:
    """Act in a child that is killed at the wanted line of files that are written; return whether it came so far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def trace(frame: object, event: str, _: object) -> object:
            nonlocal seen
            if Path(frame.f_code.co_filename).name not in ("files.py", "identity.py"):  # type: ignore[attr-defined]
                return None
            seen += event == "line"
            if seen == wanted:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)  # type: ignore[arg-type]
        act()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_home_can_be_made_under_a_passphrase_from_the_start(tmp_path: Path, word: Path) -> None:
    invitation, home = tmp_path / "invitation.json", Home(tmp_path / "site")
    invitation.write_text(Invitation(address="127.0.0.1:1", ca="none").model_dump_json(), encoding="utf-8")
    done("init", "--invitation", invitation, "--site", "a", "--home", home.path, "--passphrase-file", word)
    with pytest.raises(ConfigError, match="is under a passphrase, and none was given"):
        load_identity(home.identity)
    with closing(Ledger(home.ledger, load_identity(home.identity, lambda _: WORD))) as ledger:
        assert ledger.length == 0


def test_the_passphrase_is_in_no_command_and_reaches_a_child_that_is_started_again_by_its_input(
    home: Home, tmp_path: Path
) -> None:
    secret = Secret(WORD, tmp_path / "word")
    node = confined_node_command(home, secret, allow_unconfined=False)
    assert node[-2:] == ["--hide", str(tmp_path / "word")]
    assert agent_command(home, secret)[-1] == "--passphrase-stdin"
    assert not any(WORD.decode() in part for part in (*agent_command(home, secret), *node, repr(secret)))
    echo = "import sys; print(repr(sys.stdin.buffer.readline()), repr(sys.stdin.buffer.read()))"
    child = Child("agent", [sys.executable, "-c", echo], tmp_path / "log", os.environ, WORD + b"\n")
    for _ in range(2):
        child.start()
        child.reap()
    close_all([child])
    assert child.log.read_text() == "b'correct horse\\n' b''\n" * 2
