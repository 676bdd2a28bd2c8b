"""Puts an agent together from a site's home, for a real site and for a simulated one.

Never starts without the lock on the home, the verified ledger and the valid data.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.api import Table, local_part
from synthfed.plugins.pinning import Pinned
from synthfed.plugins.processes import exclusive
from synthfed.protocols.errors import ConfigError, PrivacyError, SynthfedError
from synthfed.protocols.secagg.site import SiteMachine
from synthfed.protocols.signed import public_text
from synthfed.protocols.study import Study

from .admission import Admission
from .agent import Agent
from .books.audit_log import AuditLog, Log, Unlogged
from .channel import Clock, set_once, since_boot_s
from .config import Ceiling, Home, data_path
from .consent.standing import Consent, NotApproved, demand_known_code, rule_of, subject_of
from .data import load_units
from .gate import Gate, OverLimit
from .keys.identity import Unlock, load_identity, locked
from .keys.modes import demand_private
from .local_steps import seconds_per_round
from .policy import SitePolicy
from .rehearsal import check_moves_apart, check_rows, check_uncoupled
from .roster import check_consent, check_roster
from .rules import StudyRefused, pin_allowed
from .train import row_width
from .vault import Ledger


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a site's data lie, and whether records that do not fit are left out."""

    path: Path
    drop_invalid: bool = False


@dataclass(frozen=True, slots=True)
class Holdings:
    """What an agent has of its site.

    Attributes:
        site: its name in the roster.
        identity: its private key.
        ledger: open, and nobody else's.
        data: where the records are.
        objection: looks why the site does not consent now, empty where it does.
        rules: of the site's own, beyond the ceiling.
        log: where decisions are written down.
        admit: given what was read, raises where its budget is not kept in this ledger.
    """

    site: str
    identity: Ed25519PrivateKey
    ledger: Ledger
    data: Origin
    objection: Callable[[], str]
    rules: SitePolicy = field(default_factory=SitePolicy)
    log: Log = field(default_factory=Unlogged)
    admit: Callable[[Table], object] = bool


@contextlib.contextmanager
def open_agent(home: Home, unlock: Unlock = locked) -> Iterator[Agent]:
    """Yield the agent of a home, holding its lock; ConfigError or DataError where something is wrong."""
    config = home.load()
    demand_private(home)
    study = home.load_study(config)
    identity = load_identity(home.identity, unlock)
    now = set_once(time.time())  # no leap of the machine's clock makes a charge old, or opens the site
    with (
        exclusive(home.lock, "agent"),
        contextlib.closing(Ledger(home.ledger, identity, now=now)) as ledger,
        contextlib.closing(AuditLog(home.audit_log, identity)) as log,
    ):
        with _refusing(log, study):
            check_roster(home, config, study, identity)
            check_consent(home, config, study)
            own_key = public_text(identity)
            demand_known_code(home, config, study, own_key, ledger)
            pinned = pin_allowed(study, config.policy, where=str(home.config))
            consent = Consent(rule_of(home, config, subject_of(config.site, pinned), own_key), ledger)
            consent.demand()
            gate = Gate(pinned.policy, config.ceiling, ledger, config.policy)
            gate.reserve()  # where `approve` has not: this is the first start, or the last approval came as a file
            _warm_up(pinned)  # a plugin that fails on made-up rows never meets a record
            data = Origin(data_path(home, config), drop_invalid=config.drop_invalid)
            admission = Admission(home, config, study, identity, ledger)
            own = Holdings(config.site, identity, ledger, data, consent.objection, config.policy, log, admission.admit)
            agent = _agent(pinned, own, gate, since_boot_s)
        _note_start(log, agent)
        try:
            yield agent
        except PrivacyError:  # the log itself may be what failed
            raise
        except BaseException as error:
            log.note("agent-stopped", charges=ledger.length, error=type(error).__name__)
            raise
        log.note("agent-stopped", charges=ledger.length)


@contextlib.contextmanager
def _refusing(log: Log, study: Study) -> Iterator[None]:
    """Write down that a study is not served, by which rules, or by what kind of error."""
    try:
        yield
    except SynthfedError as error:
        rules = [type(error).__name__]
        if isinstance(error, StudyRefused | NotApproved):
            rules = list(error.rules)
        elif isinstance(error, OverLimit):
            rules = [error.rule]
        log.note("study-refused", study=study.name, terms=study.hash.hex(), rules=rules)
        raise


def _note_start(log: Log, agent: Agent) -> None:
    """Write down that a study is served, under which policy, and what was read: counts, which stay here."""
    policy, data = agent.policy, agent.data
    terms = {"study": policy.study.name, "terms": policy.study.hash.hex()}
    log.note("study-accepted", policy=policy.hash.hex(), **terms)
    log.note("data-loaded", rows=len(data.encoded), units=len(data.starts), left_out=data.left_out, **terms)
    log.note("agent-started", charges=agent.ledger.length)


def _warm_up(pinned: Pinned) -> None:
    """Compute one gradient round on made-up rows: a process's first one is slow and would overrun its time."""
    for kind in pinned.policy.plan.kinds:
        if kind.sum.family == "gradient":
            with pinned.plugin.blamed(f"cannot compute {kind.sum.name!r} on made-up rows"):
                seconds_per_round(pinned, kind)
    check_records_apart(pinned)


def check_records_apart(pinned: Pinned) -> None:
    """Refuse a plugin that lets the records of a batch act on each other or past the noise, as made-up rows show.

    Raises:
        UnsupportedMechanism: naming the encoding or the sum.
        PluginError: one of them cannot be computed.
    """
    private, sums = pinned.model.private(), [kind.sum for kind in pinned.policy.plan.kinds]
    with pinned.plugin.blamed("cannot compute encoding or a statistic on made-up rows"):
        statistics = [each for each in sums if each.family == "statistic"]
        check_rows(private, statistics, pinned.policy.study.released.columns)
    for each in sums:
        if each.family == "gradient":
            with pinned.plugin.blamed(f"cannot compute {each.name!r} on made-up rows"):
                check_uncoupled(private, each, row_width(pinned, private))
                if each.steps > 1:
                    check_moves_apart(private, local_part(pinned.model), each, row_width(pinned, private))


class SimulatedSite:
    """A whole site in this process, for `synthfed simulate`: a fresh identity and an empty ledger."""

    def __init__(self, folder: Path, site: str, data: Path) -> None:
        """Make the site's folder and identity."""
        folder.mkdir(mode=0o700)
        self._identity = Ed25519PrivateKey.from_private_bytes(secrets.token_bytes(32))
        self._ledger = Ledger(folder / "ledger.db", self._identity, create=True)
        self._site = site
        self._data = Origin(data)
        self._agent: Agent | None = None

    @property
    def public_key(self) -> bytes:
        """The identity's public key, 32 bytes, for the roster."""
        return self._identity.public_key().public_bytes_raw()

    def open(self, pinned: Pinned) -> None:
        """Read the data and take part in the study; its promise is the ceiling, and time stands still."""
        privacy = pinned.policy.study.privacy
        ceiling = Ceiling(epsilon=privacy.epsilon, delta=privacy.delta)
        # Whoever simulates has all the data; there is nobody else to ask.
        own = Holdings(self._site, self._identity, self._ledger, self._data, str)
        gate = Gate(pinned.policy, ceiling, self._ledger)
        self._agent = _agent(pinned, own, gate, lambda: 0.0)

    def answer(self, frame: bytes) -> bytes:
        """Return the agent's reply to one frame, at once; nothing where it closes the session."""
        if self._agent is None:
            raise ConfigError(f"site {self._site!r} has not joined a study")
        reply = self._agent.answer(frame)
        return reply.frame if reply else b""

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()


def _agent(pinned: Pinned, own: Holdings, gate: Gate, clock: Clock) -> Agent:
    policy, encoder, data, keep = pinned.policy, pinned.model.private(), own.data, own.rules.keep
    units = load_units(
        data.path,
        policy.study,
        pinned.domain,
        encoder,
        own.site,
        keep=keep,
        drop_invalid=data.drop_invalid,
        admit=own.admit,
    )
    machine = SiteMachine(policy, own.site, own.identity)
    # Another private part than that which met all records at once: what it may have kept must not act in a sum.
    private, local = pinned.model.private(), local_part(pinned.model)
    return Agent(policy, machine, gate, own.ledger, units, private, clock, local, own.log, objection=own.objection)
