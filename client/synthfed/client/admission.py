"""Whether a home may spend on the records it has read: its ledger must be the one that keeps their budget.

Never lets what tells the records apart leave the site.
"""

import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from synthfed.plugins.api import Table
from synthfed.protocols.secagg.keys import KEY_BYTES, identity_secret
from synthfed.protocols.study import Study

from .config import Home, SiteConfig, data_path, register_folder
from .dataset import Marks, fingerprint, marks_of
from .register import Register
from .vault import Ledger


@dataclass(frozen=True, slots=True)
class Admission:
    """A home at the register of data sets.

    Attributes:
        home: the site's.
        config: its settings.
        study: what the records are read for.
        identity: the site's key.
        ledger: the home's.
    """

    home: Home
    config: SiteConfig
    study: Study
    identity: Ed25519PrivateKey
    ledger: Ledger

    def admit(self, table: Table) -> None:
        """Note in the ledger, and in the register, that this home keeps the budget of these records.

        Raises:
            ConfigError: another home does; nothing was noted.
            PrivacyError: the ledger failed.
        """
        register, marks = self._looked_up(table)
        name = self.ledger.book.ledger or secrets.token_hex(8)
        key = HKDF(hashes.SHA256(), KEY_BYTES, None, b"synthfed/1/dataset").derive(identity_secret(self.identity))
        # The ledger first: under a name that only the register knew, this home would be a stranger to itself.
        self.ledger.note_dataset(name, fingerprint(marks, self.study.privacy.unit, key))
        register.keep(self.home.path, name, marks, self.config.distinct_from)

    def check(self, table: Table) -> None:
        """Raise ConfigError where another home keeps the budget of these records; writes nothing about them."""
        self._looked_up(table)

    def _looked_up(self, table: Table) -> tuple[Register, Marks]:
        register = Register(register_folder())
        marks = marks_of(data_path(self.home, self.config), table, register.key)
        register.check(self.home.path, self.ledger.book.ledger, marks, self.config.distinct_from)
        return register, marks
