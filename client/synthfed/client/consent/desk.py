"""Where a steward's command finds everything: home, settings, terms, what is pinned, and what was decided.

Never approves for a key that the site does not list, nor what its budget does not hold beside what is reserved.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from synthfed.plugins.files import read_text, write_whole
from synthfed.protocols.approval import NEVER, Act, Decision, Subject
from synthfed.protocols.errors import ConfigError, PrivacyError, describe
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.proposal import Proposal, parse_terms
from synthfed.protocols.signed import public_text
from synthfed.protocols.study import Study

from ..books.audit_log import AuditLog
from ..config import Home, SiteConfig, study_path
from ..gate import Gate, OverLimit
from ..keys.identity import Unlock, load_identity, locked
from ..roster import check_roster
from ..vault import Ledger
from .decisions import next_time, read_decisions, write_decision
from .review import Reviewed
from .standing import Rule, rule_of, subject_of

if TYPE_CHECKING:
    from synthfed.plugins.pinning import Pinned


_DECIDED: Final[dict[Act, str]] = {
    "approve": "study-approved",
    "reject": "study-rejected",
    "withdraw": "study-withdrawn",
}


@dataclass(frozen=True, slots=True)
class Desk:
    """What lies before a steward.

    Attributes:
        home: the site's.
        config: its settings.
        identity: its key.
        study: the terms.
        proposal: the coordinator's signature over them, if they came under one.
        source: the file they came from.
        pinned: the study with its plan and plugins; None where a decision needs no more than the terms.
        rule: whose approval they need.
    """

    home: Home
    config: SiteConfig
    identity: Ed25519PrivateKey
    study: Study
    proposal: Proposal | None
    source: Path
    pinned: "Pinned | None"
    rule: Rule


def open_desk(home: Home, terms: Path | None, unlock: Unlock = locked, *, is_pinned: bool = True) -> Desk:
    """Return what a steward's command works with.

    Args:
        home: the site's.
        terms: a study file or proposal; None for the study in the home.
        unlock: is asked for the passphrase of an identity key that has one.
        is_pinned: load the plugins and make the plan; a block needs neither.

    Raises:
        ConfigError: a file is wrong, the proposal is another coordinator's, or the roster has not this site's key.
        StudyRefused: the study breaks rules of the site; a plugin that they do not allow is not loaded.
        PluginError: a plugin is missing or broken.
    """
    config = home.load()
    identity = load_identity(home.identity, unlock)
    source = terms or study_path(home, config)
    advice = "" if terms else "name the study file or proposal that the coordinator sent"
    study, proposal = parse_terms(read_text(source, advice=advice).encode(), where=str(source))
    wanted = config.coordinator.key
    if proposal is not None and wanted is not None and proposal.coordinator != wanted:
        raise ConfigError(
            f"is signed by another coordinator's key ({proposal.fingerprint}) than coordinator.key in {home.config}",
            where=str(source),
        )
    if not is_pinned:
        subject = Subject(config.site, study.hash.hex(), "", ())
        return Desk(home, config, identity, study, proposal, source, None, _rule(home, config, identity, subject))
    # Loaded here because it takes seconds, and whoever withdraws should not wait for it.
    from synthfed.plugins.pinning import naming

    from ..rules import pin_allowed

    if study.is_draft:
        raise ConfigError("is a draft: a site of its roster has no key yet", where=str(source))
    check_roster(home, config, study, identity)
    with naming(str(source)):
        pinned = pin_allowed(study, config.policy, where=str(home.config))
    rule = _rule(home, config, identity, subject_of(config.site, pinned))
    return Desk(home, config, identity, study, proposal, source, pinned, rule)


def reviewed(desk: Desk) -> Reviewed:
    """Return what a review tells.

    Raises:
        ConfigError: the study's delta is above the site's, or was spent in part under another plan.
        PrivacyError: the ledger is missing or was changed.
    """
    if desk.pinned is None:
        raise ConfigError("a review needs the plan", where=str(desk.source))
    with contextlib.closing(Ledger(desk.home.ledger, desk.identity)) as ledger:
        limits = tuple(_gate(desk, desk.pinned, ledger).standings())
        remembered_unix_s = ledger.blocked_unix_s(desk.rule.study)
    found, objection = desk.rule.look(remembered_unix_s, time.time())
    decisions, _ = read_decisions(desk.home.decisions)
    own = tuple(each for each in decisions if (each.site, each.study) == (desk.config.site, desk.rule.subject.study))
    return Reviewed(desk.config, desk.pinned, desk.proposal, limits, desk.rule, found, objection, own)


def decide(desk: Desk, act: Act, key: Ed25519PrivateKey, reason: str | None) -> tuple[Decision, Path]:
    """Sign a decision, dated after all earlier ones, and return it and where it lies.

    Raises:
        ConfigError: an approval by a key that is not listed, or beside a decision that cannot be read; or the
            decision cannot be written.
        PrivacyError: an approval beside a ledger that is missing or was changed.
        BudgetExceeded: an approval of what does not fit under the site's limits.
    """
    decisions, problems = read_decisions(desk.home.decisions)
    if act == "approve":
        if problems:
            raise ConfigError(f"{problems[0]}; restore it before you approve anything")
        if public_text(key) not in desk.rule.stewards:
            raise ConfigError(
                "approval.stewards does not list this key; give --key with a listed steward's, or list it",
                where=str(desk.home.config),
            )
        _check_fit(desk)
    try:
        remembered_unix_s = _remembered_unix_s(desk)
    except PrivacyError:
        if act == "approve":
            raise
        remembered_unix_s = NEVER  # to stop needs no ledger that holds
    try:
        at_unix_s = next_time(decisions, desk.rule.subject.study, remembered_unix_s, int(time.time()))
        decision = Decision.of(key, act, desk.rule.subject, at_unix_s, reason)
    except ValidationError as error:
        raise ConfigError(describe(error), where="decision") from None
    if act == "approve":
        _note_decision(desk, act, key)
        return decision, write_decision(desk.home.decisions, decision)
    place = write_decision(desk.home.decisions, decision)
    with contextlib.suppress(PrivacyError):  # to stop needs no log that holds
        _note_decision(desk, act, key)
    return decision, place


def _note_decision(desk: Desk, act: Act, key: Ed25519PrivateKey) -> None:
    """Write a person's decision into the log; PrivacyError where that fails."""
    facts = {"steward": fingerprint(key.public_key().public_bytes_raw()), "policy": desk.rule.subject.policy}
    with contextlib.closing(AuditLog(desk.home.audit_log, desk.identity)) as log:
        log.note(_DECIDED[act], who="operator", study=desk.study.name, terms=desk.study.hash.hex(), **facts)


def keep_terms(desk: Desk) -> bool:
    """Put the terms into a home that has none; return whether the home has these terms now."""
    place = study_path(desk.home, desk.config)
    if not place.exists():
        write_whole(place, [desk.source.read_bytes()])
    try:
        return desk.home.load_study(desk.config).hash == desk.study.hash
    except ConfigError:
        return False


def outcome(desk: Desk) -> str:
    """Return why the decisions so far are too little; empty where the agent serves."""
    return desk.rule.look(_remembered_unix_s(desk), time.time())[1]


def reserve(desk: Desk) -> None:
    """Keep in the ledger what the approved study may spend, also beside a running agent.

    Raises:
        BudgetExceeded: it does not fit any more.
        PrivacyError: the ledger is missing, was changed or cannot be written.
    """
    if desk.pinned is None:
        raise ConfigError("a reservation needs the plan", where=str(desk.source))
    with contextlib.closing(Ledger(desk.home.ledger, desk.identity)) as ledger:
        found, _ = desk.rule.look(ledger.blocked_unix_s(desk.rule.study), time.time())
        ledger.remember_block(desk.rule.study, found.blocked_unix_s)  # before: it would end the reservation
        with _noting(desk):
            _gate(desk, desk.pinned, ledger).reserve()


def remember(desk: Desk, at_unix_s: int) -> None:
    """Write a block into the ledger, also beside a running agent: it stands when its file is gone."""
    with contextlib.closing(Ledger(desk.home.ledger, desk.identity)) as ledger:
        ledger.remember_block(desk.rule.study, at_unix_s)


def _check_fit(desk: Desk) -> None:
    """Raise BudgetExceeded where the study does not fit under one of the site's limits."""
    if desk.pinned is not None:
        with contextlib.closing(Ledger(desk.home.ledger, desk.identity)) as ledger, _noting(desk):
            _gate(desk, desk.pinned, ledger).check_fit()


@contextlib.contextmanager
def _noting(desk: Desk) -> Iterator[None]:
    """Write into the log that a study does not fit under a limit: no agent starts under it that would."""
    try:
        yield
    except OverLimit as error:
        with contextlib.closing(AuditLog(desk.home.audit_log, desk.identity)) as log:
            facts = {"study": desk.study.name, "terms": desk.study.hash.hex()}
            log.note("study-refused", who="operator", rules=[error.rule], **facts)
        raise


def _gate(desk: Desk, pinned: "Pinned", ledger: Ledger) -> Gate:
    return Gate(pinned.policy, desk.config.ceiling, ledger, desk.config.policy)


def _remembered_unix_s(desk: Desk) -> int:
    with contextlib.closing(Ledger(desk.home.ledger, desk.identity)) as ledger:
        return ledger.blocked_unix_s(desk.rule.study)


def _rule(home: Home, config: SiteConfig, identity: Ed25519PrivateKey, subject: Subject) -> Rule:
    return rule_of(home, config, subject, public_text(identity))
