"""The commands ``synthfed client key ...``, and how every other command of a site comes to its identity's passphrase.

Never prints a key or a passphrase, and never takes one as an argument.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from synthfed.protocols.errors import ConfigError

from ..config import Home

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from .identity import Unlock
    from .passphrases import Passphrases
    from .sealed import SealedKey

HomeOption = Annotated[Path, typer.Option("--home", help="The site's folder: settings, keys and ledger.")]
PassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="A file (mode 0600) with the identity key's passphrase.")
]
NewPassphraseOption = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", help="A file (mode 0600) with the new passphrase; asked for else."),
]
_HOME = Path("site")
_TERMINAL = "/dev/tty"

key = typer.Typer(help="Change how this site's identity key is kept.", pretty_exceptions_enable=False)


def passphrases_of(home: Home, file: Path | None) -> "Passphrases":
    """Return where a command of a home looks for its identity's passphrase: a person at the terminal comes last."""
    from .passphrases import Passphrases

    return Passphrases(home, file, _ask)


def piped_passphrase() -> "Unlock":
    """Return what takes a passphrase from the standard input, where `client run` has put it."""
    import sys

    from .passphrases import LONGEST_BYTES, checked

    def read(_: "SealedKey") -> bytes:
        return checked(sys.stdin.buffer.readline(LONGEST_BYTES + 2).removesuffix(b"\n"), where="standard input")

    return read


def new_passphrase(file: Path | None) -> bytes:
    """Return a new passphrase from a file, or from a person who types it twice."""
    from .passphrases import checked, read_passphrase

    if file is not None:
        return read_passphrase(file)
    _demand_terminal()
    text: str = typer.prompt("A passphrase for the identity key", hide_input=True, confirmation_prompt=True)
    return checked(text.encode(), where="passphrase")


def _ask(prompt: str) -> bytes:
    from .passphrases import checked

    _demand_terminal()
    text: str = typer.prompt(prompt, hide_input=True)
    return checked(text.encode(), where="passphrase")


def _demand_terminal() -> None:
    """Raise ConfigError where nobody could type: a prompt would wait for ever, or read what was meant for others."""
    from .passphrases import CREDENTIAL

    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        raise ConfigError(
            "is needed for identity.key, and there is no terminal to ask at; give --passphrase-file FILE (mode 0600), "
            f"or the service manager's credential {CREDENTIAL}",
            where="passphrase",
        ) from None


@key.command()
def protect(
    home: HomeOption = _HOME,
    keyring: Annotated[
        bool, typer.Option("--keyring", help="Let the operating system's keyring keep a random passphrase.")
    ] = False,
    passphrase_file: PassphraseOption = None,
    new_passphrase_file: NewPassphraseOption = None,
) -> None:
    """Put the identity key under a passphrase, or under another one; the agent must be stopped."""
    from synthfed.protocols.signed import public_text

    from .identity import identity_content, load_identity, rewrite_identity
    from .keyring_entry import SERVICE, entry_name, make_passphrase

    place = Home(home)
    if keyring and new_passphrase_file:
        raise ConfigError("makes a passphrase of its own; leave --new-passphrase-file out", where="--keyring")
    with _alone(place):
        identity = load_identity(place.identity, passphrases_of(place, passphrase_file))
        name = entry_name(place.load().site, public_text(identity))
        passphrase = make_passphrase(name) if keyring else new_passphrase(new_passphrase_file)
        content = identity_content(identity, passphrase, in_keyring=keyring)
        rewrite_identity(place.identity, identity, content, passphrase)
    if keyring:
        _say(f"{place.identity} is under a passphrase that the keyring has: service {SERVICE}, entry {name}.")
    else:
        _say(f"{place.identity} is under the passphrase now.")
    _say("Without the passphrase the key is lost. What the disk or a backup still has of the file as it was opens too.")


@key.command()
def unprotect(home: HomeOption = _HOME, passphrase_file: PassphraseOption = None) -> None:
    """Write the identity key without a passphrase again; the agent must be stopped."""
    from .identity import identity_pem, load_identity, rewrite_identity

    place = Home(home)
    with _alone(place):
        identity = load_identity(place.identity, passphrases_of(place, passphrase_file))
        rewrite_identity(place.identity, identity, identity_pem(identity), b"")
    _say(f"{place.identity} opens without a passphrase now.")


@key.command()
def rotate(
    home: HomeOption = _HOME,
    passphrase_file: PassphraseOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give this site a new identity key, signed by the old one; or finish that where it was interrupted.

    Ledger and log go on. Studies that list the old key end here: their rosters must be agreed on anew.
    """
    import time

    from .rotation import rotate as rotate_identity
    from .rotation import told

    place = Home(home)
    with _alone(place):
        passphrases = passphrases_of(place, passphrase_file)
        if not yes:
            _say("A study whose roster lists this site's present key cannot go on here after this.")
            typer.confirm("Rotate the identity key of this site?", abort=True)
        done = rotate_identity(place, passphrases, _like(place, passphrases), int(time.time()))
    statement, enrolment = done.statement, done.enrolment
    _say(f"identity      {told(statement.new)}   (other sites compare it by voice)")
    _say(f"earlier       {told(statement.old)}; both have signed, and its private key is gone from this home")
    _say(f"enrolment     {place.enrolment}, fingerprint {enrolment.fingerprint}   (compare by voice)")
    _say("Send it to the coordinator, who runs `synthfed server enroll` and proposes each study anew with this key.")
    _say("Back up the home anew. What a disk or backup still has of the old key's file is as good as the key.")


def _like(home: Home, passphrases: "Passphrases") -> "Callable[[Ed25519PrivateKey], bytes]":
    """Return what writes a new key as the present one is: plain, under its passphrase, or under one of the keyring."""
    from synthfed.protocols.signed import public_text

    from .files import load_secret
    from .identity import identity_content
    from .keyring_entry import entry_name, make_passphrase
    from .sealed import is_sealed, parse_sealed

    def make(new: "Ed25519PrivateKey") -> bytes:
        content = load_secret(home.identity)
        if not is_sealed(content):
            return identity_content(new)
        sealed = parse_sealed(content, "a site's identity key", where=str(home.identity))
        if sealed.in_keyring:
            passphrase = make_passphrase(entry_name(home.load().site, public_text(new)))
        else:
            passphrase = passphrases(sealed)
        return identity_content(new, passphrase, in_keyring=sealed.in_keyring)

    return make


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Hold a home that its owner alone can reach, without an agent that would meet another key at its next start."""
    from synthfed.plugins.processes import exclusive

    from .modes import demand_private

    home.load()
    demand_private(home)
    with exclusive(home.lock, "agent"):
        yield


def _say(line: str) -> None:
    Console(highlight=False, soft_wrap=True).print(line, markup=False)
