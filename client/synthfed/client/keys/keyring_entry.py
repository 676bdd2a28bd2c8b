"""A passphrase in the operating system's keyring, for a site that nobody sits at.

Never puts one where others could read it as it is, and never replaces one: an older file may need it.
"""

import secrets
from typing import Any, Final

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.signed import decoded

SERVICE: Final = "synthfed"
_RANDOM_BYTES: Final = 32
_CHAIN: Final = "keyring.backends.chainer"
_UNFIT: Final = ("keyring.backends.fail", "keyring.backends.null", "keyrings.alt")
"""Modules of what keeps nothing, or keeps it in files in which it can be read or that ask for a passphrase again."""

_WHERE: Final = "keyring"


def entry_name(site: str, public: str) -> str:
    """Return under which name a site's passphrase stands.

    Args:
        site: the site's name in its settings.
        public: the identity's public key in base64.
    """
    return f"{site} {fingerprint(decoded(public))}"


def make_passphrase(name: str) -> bytes:
    """Return the passphrase of an entry; a random one is put there where there is none.

    Raises:
        ConfigError: there is no keyring, none that is fit, or it does not give back what it was given.
    """
    known = _known(name)
    if known is None:
        known = secrets.token_urlsafe(_RANDOM_BYTES)
        _asked("set_password", name, known)
        if _known(name) != known:
            raise ConfigError("did not keep the passphrase; the identity key stands as it was", where=_WHERE)
    return known.encode()


def fetch_passphrase(name: str) -> bytes:
    """Return the passphrase of an entry.

    Raises:
        ConfigError: there is none, or no keyring that is fit.
    """
    known = _known(name)
    if known is None:
        raise ConfigError(
            f"has no entry {name!r} of service {SERVICE!r} for this user; restore the keyring, or identity.key from a "
            "backup that was made before `client key protect --keyring`",
            where=_WHERE,
        )
    return known.encode()


def _known(name: str) -> str | None:
    """Return an entry's passphrase; ConfigError where it is empty: a key under that would be under none."""
    found = _asked("get_password", name)
    if found == "":
        raise ConfigError(f"has an empty entry {name!r} of service {SERVICE!r}; remove that first", where=_WHERE)
    return None if found is None else str(found)


def _asked(what: str, *arguments: str) -> Any:
    backend = _backend()
    try:
        return getattr(backend, what)(SERVICE, *arguments)
    except Exception as error:  # noqa: BLE001 - a backend is another program's client, and raises what it likes
        raise ConfigError(
            f"cannot be used ({type(error).__name__}); unlock it for this user, or use a passphrase of your own",
            where=_WHERE,
        ) from None


def _backend() -> Any:
    """Return the first fit keyring of those that this user has."""
    try:
        import keyring
    except ImportError:
        raise ConfigError(
            "needs the package of that name; install `synthfed[keyring]`, or use a passphrase of your own", where=_WHERE
        ) from None
    chosen: Any = keyring.get_keyring()
    for each in chosen.backends if type(chosen).__module__ == _CHAIN else [chosen]:
        module = type(each).__module__
        if not any(module == unfit or module.startswith(f"{unfit}.") for unfit in _UNFIT):
            return each
    raise ConfigError(
        "this user has none that keeps secrets sealed (a Secret Service or KWallet, or that of macOS "
        "or Windows); use a passphrase of your own",
        where=_WHERE,
    )
