"""Makes a site's home: keys, settings, and the file with public keys for the coordinator.

Never overwrites a key, and never writes a private key readable by others.
"""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import make_private_folder, read_text, write_whole
from synthfed.protocols.enrolment import Enrolment, Invitation, parse
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import SITE_ID

from .books.audit_log import AuditLog
from .config import Home, draft_config
from .keys.files import write_secret
from .keys.identity import identity_content
from .vault import Ledger


def init_home(
    home: Home, invitation: Path, site: str, controller: str, data: str, passphrase: bytes = b""
) -> tuple[Enrolment, Invitation]:
    """Create a site's home from an invitation and return what to send back and what was trusted.

    The identity key is put under the passphrase, unless that is empty.

    Raises:
        ConfigError: the invitation is wrong, or the home already holds keys.
    """
    if not SITE_ID.fullmatch(site):
        raise ConfigError("must be 1-32 lower-case letters, digits and inner hyphens", where="--site")
    invited = parse(Invitation, read_text(invitation), where=str(invitation))
    if any(path.exists() for path in (home.config, home.identity, home.node_key)):
        raise ConfigError("already is a site's home; choose another --home", where=str(home.path))
    make_private_folder(home.path)
    make_private_folder(home.node)
    identity, node = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
    write_secret(home.identity, identity_content(identity, passphrase))
    write_secret(home.node_key, node_pem(node))
    enrolment = Enrolment.signed(site, controller, identity, node_public(node))
    write_whole(home.node / "ca.crt", [invited.ca.encode()])
    Ledger(home.ledger, identity, create=True).close()
    AuditLog(home.audit_log, identity).close()
    write_whole(home.config, [draft_config(site, controller, data, invited.address).encode()], private=True)
    write_whole(home.enrolment, [enrolment.model_dump_json(indent=2).encode(), b"\n"])
    return enrolment, invited


def node_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the private key of a Flower node in OpenSSH's format."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def node_public(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the public key of a Flower node as one OpenSSH line."""
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
