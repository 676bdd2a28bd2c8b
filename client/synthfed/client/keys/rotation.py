"""A home goes on under a new identity key: ledger and log under keys of it, and the enrolment with both signatures.

Never loses or resets an entry, and never leaves a home that the same command cannot finish: the new key lies beside
the old one until everything else is done, and every step before looks whether it was done already.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import sync, write_whole
from synthfed.protocols.enrolment import Enrolment
from synthfed.protocols.errors import ConfigError, PrivacyError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.rotation import Rotation
from synthfed.protocols.signed import decoded, public_text

from ..anchor import take_staged
from ..books import lines
from ..books.audit_log import AuditLog, mark_of
from ..books.statement import read_statement
from ..chain import ROTATION, last_rotation, mark_path
from ..config import Home
from ..enrol import node_public
from ..entries import chain_key
from ..vault import Ledger
from .files import load_secret, remove_parts
from .identity import Unlock, load_identity, next_identity
from .succession import unsealed


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation has come to.

    Attributes:
        statement: under both keys.
        enrolment: for the coordinator.
    """

    statement: Rotation
    enrolment: Enrolment


def rotate(home: Home, unlock: Unlock, make: Callable[[Ed25519PrivateKey], bytes], now_unix_s: int) -> Rotated:
    """Give a home a new identity key, or finish what an interrupted rotation has begun; the caller holds its lock.

    The old private key is gone from the home when this returns. What was written under it stays verifiable, as each
    chain holds its key, and nothing else, sealed under the new one.

    Args:
        home: the site's.
        unlock: is asked for the passphrase of a key that has one.
        make: returns what the new key's file holds.
        now_unix_s: the time of the statement.

    Raises:
        ConfigError: a key cannot be read or written; run it again.
        PrivacyError: ledger or log do not hold; nothing is rotated.
    """
    config, pending = home.load(), next_identity(home.identity)
    old = load_identity(home.identity, unlock, is_rotating=True)
    if not pending.exists():
        _check_books(home, old)
        remove_parts(pending)
        write_whole(pending, [make(Ed25519PrivateKey.generate())], private=True)
    new = load_identity(pending, unlock)
    _rotate_ledger(home, old, new, lambda: Rotation.of(config.site, old, new, now_unix_s))
    _rotate_log(home, old, new)
    rotations = _rotations(home, new)
    enrolment = Enrolment.signed(config.site, config.controller, new, _node_public(home), rotations)
    write_whole(home.enrolment, [enrolment.model_dump_json(indent=2).encode(), b"\n"])
    try:
        pending.replace(home.identity)  # the old key's file is gone with this
        sync(home.path)
    except OSError as error:
        raise ConfigError(f"cannot be replaced: {error.strerror}; run it again", where=str(home.identity)) from None
    return Rotated(rotations[-1], enrolment)


def _check_books(home: Home, identity: Ed25519PrivateKey) -> None:
    """Raise PrivacyError where ledger or log do not hold: nothing is to follow what was tampered with."""
    with contextlib.closing(Ledger(home.ledger, identity)), contextlib.closing(AuditLog(home.audit_log, identity)):
        pass


def _rotate_ledger(home: Home, old: Ed25519PrivateKey, new: Ed25519PrivateKey, stated: Callable[[], Rotation]) -> None:
    if _ledger_follows(home.ledger, new):
        take_staged(mark_path(home.ledger))
        with contextlib.closing(Ledger(home.ledger, new)):
            return
    with contextlib.closing(Ledger(home.ledger, old)) as ledger:
        ledger.hand_over(new, stated())


def _ledger_follows(path: Path, new: Ed25519PrivateKey) -> bool:
    """Return whether a ledger's last entry begins the chain under a new key; it is not verified by that."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as db:
            return unsealed(chain_key(new), last_rotation(db)) is not None
    except sqlite3.Error as error:
        raise PrivacyError(f"{path}: the ledger cannot be used ({error}); restore it, never replace it") from None


def _rotate_log(home: Home, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> None:
    path = home.audit_log
    content = _content(path)
    if unsealed(lines.log_key(new), lines.last_rotation(content)) is not None:
        take_staged(mark_of(path))
        with contextlib.closing(AuditLog(path, new)):
            return
    names = {name: fingerprint(key.public_key().public_bytes_raw()) for name, key in (("old", old), ("new", new))}
    with contextlib.closing(AuditLog(path, old)) as log:
        log.hand_over(new, who="operator", **names)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise PrivacyError(f"{path}: the log cannot be read ({error.strerror}); mend its permissions") from None


def _rotations(home: Home, new: Ed25519PrivateKey) -> list[Rotation]:
    """Return every rotation of this home, in their order, out of the ledger, whose whole chain is verified."""
    notes = [entry.note for entry in read_statement(home.ledger, new).entries if entry.note.kind == ROTATION]
    return [Rotation.model_validate(json.loads(note.content)["statement"]) for note in notes]


def _node_public(home: Home) -> str:
    try:
        key = serialization.load_ssh_private_key(load_secret(home.node_key), password=None)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("is not a Flower node's private key; restore it from your backup", where=str(home.node_key))
    return node_public(key)


def earlier_keys(home: Home, own: Ed25519PrivateKey) -> frozenset[str]:
    """Return the public keys that this home has rotated away, as its enrolment tells; for an error, nothing more."""
    try:
        found = Enrolment.model_validate_json(home.enrolment.read_bytes())
        found.verify(where=str(home.enrolment))
    except (OSError, ValueError, ConfigError):
        return frozenset()
    return frozenset(each.old for each in found.rotations) if found.identity == public_text(own) else frozenset()


def told(key: str) -> str:
    """Return how people compare a public key."""
    return fingerprint(decoded(key))
