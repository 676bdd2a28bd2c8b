"""Keeps a site's two processes alive: the agent without a network, the Flower node without data.

Never touches a record, a key's content or the ledger itself.
"""

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final

from synthfed.plugins.cli import EXIT_CODES
from synthfed.plugins.processes import Child, close_all, flower_environment, free_port, program, this_program
from synthfed.protocols.errors import ConfigError, DataError, PluginError, PrivacyError, SynthfedError, TransportError

from .config import Home, SiteConfig

_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0
_STABLE_S: Final = 60.0
_POLL_S: Final = 0.2
_CONNECT_S: Final = 5.0
_PERMANENT: Final = {EXIT_CODES[kind]: kind for kind in (ConfigError, DataError, PrivacyError, PluginError)}
"""Exit codes of faults that only a person can mend."""

_WRONG_NAME: Final = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH of OpenSSL's x509_vfy.h
_WRONG_TIME: Final = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID and _CERT_HAS_EXPIRED


def _ready() -> None:
    """Stand for a child that needs nothing from elsewhere."""


@dataclass(slots=True)
class Watched:
    """A child, what it cannot do without, and when it may be started again."""

    child: Child
    part: str = ""
    """A program that the child starts and is of no use without."""
    look: Callable[[], None] = _ready
    """Raises TransportError while the child would be started in vain, any other error where it always would."""
    is_up: bool = False
    is_held_back: bool = False
    started_s: float = 0.0
    wait_s: float = _FIRST_WAIT_S
    not_before_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Secret:
    """The passphrase of a home's identity key, for every agent that is started.

    Attributes:
        passphrase: None for a key without one; never in a command, an environment or a file of ours.
        file: where it was read from, which the node must not see; None where it was not.
    """

    passphrase: bytes | None = field(default=None, repr=False)
    file: Path | None = None


def agent_command(home: Home, secret: Secret) -> list[str]:
    """Return the command that runs a home's agent; a passphrase comes through its standard input."""
    piped = [] if secret.passphrase is None else ["--passphrase-stdin"]
    return this_program("client", "agent", "--home", str(home.path), *piped)


def confined_node_command(home: Home, secret: Secret, *, allow_unconfined: bool) -> list[str]:
    """Return the command that hides the home from itself and becomes the Flower node."""
    hidden = [] if secret.file is None else ["--hide", str(secret.file)]
    unconfined = ["--allow-unconfined"] if allow_unconfined else []
    return this_program("client", "node", "--home", str(home.path), *hidden, *unconfined)


def node_command(home: Home, config: SiteConfig) -> list[str]:
    """Return the command that runs a home's Flower node; it is given paths and a name, no secret but its own key."""
    absolute = home.path.absolute()
    settings = f'site="{config.site}" socket="{home.socket.absolute()}" ca="{absolute / config.coordinator.ca}"'
    return [
        program("flower-supernode"),
        *("--superlink", config.coordinator.address),
        *("--root-certificates", str(absolute / config.coordinator.ca)),
        *("--auth-supernode-private-key", str(home.node_key.absolute())),
        *("--node-config", settings),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]


def connect(home: Home, config: SiteConfig) -> HTTPSConnection:
    """Return a connection to the coordinator, whose certificate holds under the pinned authority.

    Raises:
        ConfigError: the authority's file is of no use, or the certificate does not hold under it.
        TransportError: nothing answers with TLS there; it may later.
    """
    address, authority = config.coordinator.address, home.path / config.coordinator.ca
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except OSError as error:  # the kind for content that is no certificate is one of these
        reason = "holds no certificate" if isinstance(error, ssl.SSLError) else f"cannot be read: {error.strerror}"
        what = f"{reason}; put the certificate there that stands in the coordinator's invitation as `ca`"
        raise ConfigError(what, where=str(authority)) from None
    connection = HTTPSConnection(host, int(port), timeout=_CONNECT_S, context=context)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(_mistrust(error, home, config), where=address) from None
    except (OSError, HTTPException, UnicodeError) as error:
        raise unreachable(home, config, error) from None
    return connection


def unreachable(home: Home, config: SiteConfig, error: Exception) -> TransportError:
    """Return what it means that the connection to the coordinator failed like this."""
    said = "it speaks no TLS" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", "")
    return TransportError(
        f"{config.coordinator.address}: cannot be reached ({said or type(error).__name__}); start `synthfed server "
        f"run` there, or mend `address` in {home.config}"
    )


def _mistrust(error: ssl.SSLCertVerificationError, home: Home, config: SiteConfig) -> str:
    """Return what is wrong with the coordinator's certificate and who must mend it where."""
    if error.verify_code in _WRONG_NAME:
        return f"its certificate is for another name; mend `address` in {home.config} as the invitation has it"
    authority = home.path / config.coordinator.ca
    if error.verify_code in _WRONG_TIME:
        return (
            f"its certificate or the authority in {authority} is not valid by this machine's clock "
            f"({error.verify_message}); set the clock, or ask the coordinator for a new invitation"
        )
    return (
        f"its certificate is not from the authority in {authority}; compare the invitation's fingerprint by voice, "
        "then put its `ca` into that file"
    )


def supervise(
    home: Home, secret: Secret, stop: Callable[[], bool], say: Callable[[str], None], *, allow_unconfined: bool
) -> None:
    """Run agent and node until ``stop`` says so, starting each again with a growing wait when it ends.

    Raises:
        ConfigError, DataError, PrivacyError or PluginError: as `keep_alive`; or the coordinator's certificate
            does not hold under the pinned authority.
    """
    has_answered = False

    def look() -> None:
        nonlocal has_answered
        config = home.load()  # as the node will, which is started after this
        try:
            connect(home, config).close()
            has_answered = True
        except ConfigError as error:
            if not has_answered:
                raise
            # It was the right one before: who now answers in its place must not end this site for good.
            raise TransportError(f"{error}; trying again") from None
        except TransportError:
            address = config.coordinator.address
            raise TransportError(f"the coordinator at {address} does not answer yet; trying again") from None

    environment = flower_environment(home.node / "flwr")
    node = confined_node_command(home, secret, allow_unconfined=allow_unconfined)
    piped = b"" if secret.passphrase is None else secret.passphrase + b"\n"
    watched = [
        Watched(Child("agent", agent_command(home, secret), home.agent_log, environment, piped)),
        Watched(Child("node", node, home.path / "node.log", environment), "flower-superexec", look),
    ]
    keep_alive(watched, stop, say)


def keep_alive(
    watched: Sequence[Watched],
    stop: Callable[[], bool],
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run all children until ``stop`` says so; none of them is left afterwards, whatever happened.

    Raises:
        ConfigError, DataError, PrivacyError or PluginError: a child ended for a reason that starting it again
            cannot mend; class and message are those of the child's own error.
    """
    try:
        while not stop():
            for each in watched:
                _tend(each, say, clock)
            sleep(_POLL_S)
    finally:
        close_all([each.child for each in watched])


def _tend(each: Watched, say: Callable[[str], None], clock: Callable[[], float]) -> None:
    """See to a child that has ended, or start one whose wait is over."""
    if each.is_up:
        code = _end(each, say)
        if code is None:
            if clock() - each.started_s > _STABLE_S:
                each.wait_s = _FIRST_WAIT_S
            return
        if code in _PERMANENT:
            raise _own_error(each.child, code)
        each.is_up = False
        _put_off(each, clock)
        if _could_start(each, say):  # else that was said, and is why it has ended
            say(f"{each.child.name} ended with code {code}: {each.child.last_words(1)} (log: {each.child.log})")
    elif clock() >= each.not_before_s:
        if not _could_start(each, say):
            _put_off(each, clock)
            return
        each.child.start()
        each.is_up, each.started_s = True, clock()
        say(f"{each.child.name} started (process {each.child.pid})")


def _end(each: Watched, say: Callable[[str], None]) -> int | None:
    """Return the exit code of a child that has ended or had to be ended, None while it runs."""
    if each.part and each.child.has_lost(each.part):
        say(f"{each.child.name} lost its {each.part}")
        close_all([each.child])  # politely: one that signs off may connect again at once
    return each.child.exit_code()


def _put_off(each: Watched, clock: Callable[[], float]) -> None:
    each.not_before_s = clock() + each.wait_s
    each.wait_s = min(2 * each.wait_s, _LONGEST_WAIT_S)


def _could_start(each: Watched, say: Callable[[str], None]) -> bool:
    """Return whether a child has what it needs from elsewhere; that it has not is said once."""
    try:
        each.look()
    except TransportError as error:
        if not each.is_held_back:
            say(str(error))
        each.is_held_back = True
        return False
    each.is_held_back = False
    return True


def _own_error(child: Child, code: int) -> SynthfedError:
    """Return the error that a command of ours ended with, in the words that it wrote last."""
    text = child.log.read_text(encoding="utf-8", errors="replace") if child.log.exists() else ""
    _, mark, sentence = f"\n{text}".rpartition("\nsynthfed: ")
    kind = _PERMANENT[code]
    # Not by its __init__: that of a PluginError would put the plugin's name in front once more.
    return kind.__new__(kind, sentence.strip() if mark else child.last_words(1))
