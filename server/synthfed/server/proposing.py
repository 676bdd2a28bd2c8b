"""The coordinator's own key, and proposals of studies under it.

Never gives a proposal out for a consent, and never overwrites a key or a file.
"""

import contextlib
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import read_text, write_whole
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.proposal import Proposal
from synthfed.protocols.study import parse_study

from .home import ServerHome
from .revocation import demand_unrevoked


def propose(home: ServerHome, file: Path, out: Path | None) -> tuple[Path, Proposal]:
    """Sign a study file's terms and return where the proposal lies.

    Args:
        home: the coordinator's; one that was made without a key gets it now.
        file: the study.
        out: where to; beside the study as ``NAME.terms.json`` by default.

    Raises:
        ConfigError: the study is wrong or a draft, its roster has a revoked key, or the place is taken.
    """
    home.load()
    study = parse_study(read_text(file), where=str(file))
    if study.is_draft:
        raise ConfigError("is a draft: put each site's key into the roster before you propose it", where=str(file))
    demand_unrevoked(home.revoked, study.cohort.sites, where=str(file))
    place = out or file.with_suffix(".terms.json")
    if place.exists():
        raise ConfigError("already exists and is not overwritten", where=str(place))
    proposal = Proposal.of(coordinator_key(home), study)
    write_whole(place, [proposal.content])
    return place, proposal


def coordinator_key(home: ServerHome) -> Ed25519PrivateKey:
    """Return the key of a coordinator's proposals (Ed25519, PKCS #8), made when it is first asked for.

    Raises:
        ConfigError: it cannot be read or written, others can read it, or it is no such key.
    """
    path = home.key
    try:
        with contextlib.suppress(FileExistsError):
            _write_new(path)
        wider, content = path.stat().st_mode & 0o077, path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read or written: {error.strerror}", where=str(path)) from None
    if wider:
        raise ConfigError("can be read by others; run `chmod 600` on it", where=str(path))
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (TypeError, ValueError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("is not an Ed25519 private key; restore it from your backup", where=str(path))
    return key


def _write_new(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(
            Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        file.flush()
        os.fsync(file.fileno())
