"""The keyring as the place of a passphrase: through the package's own interface, with a backend of this test.

No keyring of a desktop runs here; the backend keeps its entries in memory, and is chosen as any other would be.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.client.homes import copied
from typer.testing import CliRunner

from synthfed.client.cli import app
from synthfed.client.config import Home
from synthfed.client.keys.identity import load_identity
from synthfed.client.keys.keyring_entry import entry_name, fetch_passphrase, make_passphrase
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.signed import public_text

if TYPE_CHECKING:
    import keyring
    from keyring import backend
    from keyring.backends import chainer, fail, null
else:
    keyring = pytest.importorskip("keyring", reason="the extra `keyring` is not installed")
    backend = pytest.importorskip("keyring.backend")
    chainer = pytest.importorskip("keyring.backends.chainer")
    fail = pytest.importorskip("keyring.backends.fail")
    null = pytest.importorskip("keyring.backends.null")


class Memory(backend.KeyringBackend):  # type: ignore[misc,unused-ignore]  # Any where the package is not installed
    """A keyring that is there as long as this test."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}
        self.is_locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.is_locked:
            raise keyring.errors.KeyringLocked("secret detail")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password


class Forgetful(Memory):
    def get_password(self, service: str, username: str) -> str | None:
        return super().get_password(service, username[1:])


@pytest.fixture
def memory() -> Iterator[Memory]:
    before, memory = keyring.get_keyring(), Memory()
    keyring.set_keyring(memory)
    yield memory
    keyring.set_keyring(before)


@pytest.fixture
def home(made_home: Home, tmp_path: Path) -> Home:
    return copied(made_home, tmp_path)


def test_a_key_whose_passphrase_the_keyring_has_opens_without_anybody(home: Home, memory: Memory) -> None:
    identity = load_identity(home.identity)
    protect = ["key", "protect", "--keyring", "--home", str(home.path)]
    done = CliRunner().invoke(app, protect)
    name = f"a {fingerprint(identity.public_key().public_bytes_raw())}"
    assert done.exit_code == 0, done.exception
    assert f"entry {name}" in done.output.replace("\n", " ")
    (kept,) = memory.entries.items()
    assert kept[0] == ("synthfed", name)
    assert kept[1] not in done.output
    assert CliRunner().invoke(app, ["ledger", "--verify", "--home", str(home.path)]).exit_code == 0
    assert CliRunner().invoke(app, protect).exit_code == 0  # again: with the same passphrase, which a copy may need
    assert tuple(memory.entries.items()) == (kept,)
    memory.entries.clear()
    lost = CliRunner().invoke(app, ["ledger", "--home", str(home.path)])
    assert f"has no entry '{name}' of service 'synthfed'" in str(lost.exception)
    memory.is_locked = True
    locked = CliRunner().invoke(app, ["ledger", "--home", str(home.path)])
    assert str(locked.exception).startswith("keyring: cannot be used (KeyringLocked); unlock it")
    assert "secret detail" not in str(locked.exception)


def test_a_keyring_that_keeps_nothing_is_refused(memory: Memory) -> None:
    for each in (fail.Keyring(), null.Keyring()):  # type: ignore[no-untyped-call]
        keyring.set_keyring(each)
        with pytest.raises(ConfigError, match="has none that keeps secrets sealed"):
            make_passphrase("a name")
    keyring.set_keyring(Forgetful())
    with pytest.raises(ConfigError, match="did not keep the passphrase; the identity key stands as it was"):
        make_passphrase("a name")


def test_an_empty_entry_is_refused_and_leaves_no_key_that_only_seems_protected(home: Home, memory: Memory) -> None:
    identity = load_identity(home.identity)
    memory.entries["synthfed", f"a {fingerprint(identity.public_key().public_bytes_raw())}"] = ""
    done = CliRunner().invoke(app, ["key", "protect", "--keyring", "--home", str(home.path)])
    assert "has an empty entry 'a " in str(done.exception)
    assert "under a passphrase" not in done.output


def test_a_keyring_of_plain_files_is_refused(memory: Memory) -> None:
    plain = type("PlaintextKeyring", (Memory,), {"__module__": "keyrings.alt.file"})()
    keyring.set_keyring(plain)
    with pytest.raises(ConfigError, match="this user has none that keeps secrets sealed"):
        make_passphrase("entry")
    assert not plain.entries
    assert not memory.entries


def test_of_several_keyrings_the_first_that_is_fit_is_asked(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chainer.ChainerBackend, "backends", [null.Keyring(), memory])  # type: ignore[no-untyped-call]
    keyring.set_keyring(chainer.ChainerBackend())  # type: ignore[no-untyped-call]
    made = make_passphrase("a name")
    assert memory.entries == {("synthfed", "a name"): made.decode()}
    assert fetch_passphrase("a name") == made
    assert len(made) >= 43


def test_an_entry_is_of_one_site_and_one_key(home: Home) -> None:
    public = public_text(load_identity(home.identity))
    assert entry_name("a", public) != entry_name("b", public)
    assert entry_name("a", public).startswith("a ")
