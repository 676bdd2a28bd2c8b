"""Without the package of keyrings: one error that names what to install."""

import sys

import pytest

from synthfed.client.keys.keyring_entry import fetch_passphrase
from synthfed.protocols.errors import ConfigError


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(ConfigError, match=r"keyring: needs the package of that name; install `synthfed\[keyring\]`"):
        fetch_passphrase("a name")
