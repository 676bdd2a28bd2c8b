"""The errors of synthfed, named by who must act on them.

Never carries a record, a value from a record, a secret or a vector in its message.
"""


class SynthfedError(Exception):
    """Something a person must act on; the message is one sentence that says what to do."""


class ConfigError(SynthfedError):
    """A file, option or environment is wrong; the operator must mend it."""

    def __init__(self, message: str, *, where: str = "") -> None:
        """Store ``message``, prefixed by ``where`` (file and field) when it is known."""
        super().__init__(f"{where}: {message}" if where else message)


class DataError(SynthfedError):
    """A site's table does not fit the schema; names columns and numbers of rows, never a value."""


class LocalProtocolError(SynthfedError):
    """This program broke its own protocol: a bug to report."""


class RemoteProtocolError(SynthfedError):
    """A peer sent something that the protocol does not allow at this point."""

    def __init__(self, message: str, *, peer: str = "peer") -> None:
        """Store ``message``, prefixed by the name of the peer that broke the protocol."""
        super().__init__(f"{peer}: {message}")
        self.peer = peer


class PrivacyError(SynthfedError):
    """Going on would break a privacy promise; nobody catches this and goes on."""


class BudgetExceeded(PrivacyError):
    """A charge would pass a cap of the study or a ceiling of the site."""


class UnsupportedMechanism(PrivacyError):
    """A query that the accountant cannot bound; unknown means refuse."""


class PluginError(SynthfedError):
    """A plugin is missing or misbehaves; names the plugin and its distribution."""

    def __init__(self, message: str, *, plugin: str, distribution: str = "unknown") -> None:
        """Store ``message`` with the plugin's name and the distribution it came from."""
        super().__init__(f"plugin {plugin!r} (distribution {distribution}): {message}")
        self.plugin = plugin
        self.distribution = distribution


class TransportError(SynthfedError):
    """A connection failed; trying again later may succeed."""


class QuorumLost(SynthfedError):
    """Fewer sites than the study's quorum are left; the study pauses at its last checkpoint."""
