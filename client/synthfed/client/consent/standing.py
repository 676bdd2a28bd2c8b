"""Whether a site consents to what its agent has pinned: looked at before every step, in the decisions and the ledger.

Never takes an approval for one of other terms, other code or another plan, and never forgets a block it has seen.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from synthfed.plugins.registry import find
from synthfed.protocols.approval import NEVER, Decision, PluginPin, Standing, Subject, standing
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.study import Study

from ..config import Home, SiteConfig
from ..vault import Ledger
from .decisions import TOLERANCE_S, State, read_decisions, state_of
from .words import day, plain

if TYPE_CHECKING:
    from synthfed.plugins.pinning import Pinned
    from synthfed.plugins.registry import Plugin

OWN_KEY: Final = "this site's own key"


def subject_of(site: str, pinned: "Pinned") -> Subject:
    """Return what a decision at a site is about: all that is pinned."""
    policy = pinned.policy
    plugins = (_pin(pinned.plugin, "model"), _pin(pinned.reader, "domain"))
    return Subject(site, policy.study.hash.hex(), policy.hash.hex(), plugins)


def code_of(site: str, study: Study) -> Subject:
    """Return what can be said of a study without loading its plugins: terms and code, but no plan.

    Raises:
        PluginError: a plugin is missing or cannot be located.
    """
    model, domain = find("synthfed.models", study.model.plugin), find("synthfed.domains", study.domain)
    return Subject(site, study.hash.hex(), "", (_pin(model, "model"), _pin(domain, "domain")))


@dataclass(frozen=True, slots=True)
class Rule:
    """Whose approval of what a site's agent needs.

    Attributes:
        home: the site's folder.
        subject: what is pinned.
        stewards: names of who may approve, by public key in base64.
        needed: how many of them must.
        own_key: the site's public key, which may stop a study in any case.
    """

    home: Home
    subject: Subject
    stewards: Mapping[str, str]
    needed: int
    own_key: str

    @property
    def study(self) -> bytes:
        """The hash of the study's terms."""
        return bytes.fromhex(self.subject.study)

    def who(self, key: str) -> str:
        """Return how people know a key's holder."""
        return self.stewards.get(key, OWN_KEY if key == self.own_key else "a key that site.toml does not list")

    def look(self, remembered_unix_s: int, now_s: float) -> tuple[Standing, str]:
        """Return what the decisions amount to, and why that is too little (empty where it is enough); writes nothing.

        Args:
            remembered_unix_s: time of the latest block in the ledger.
            now_s: seconds since 1970.
        """
        decisions, problems = read_decisions(self.home.decisions)
        found = standing(decisions, self.subject, self.stewards, self.needed, remembered_unix_s)
        if problems:
            return found, _unreadable(problems)
        if ahead := self._ahead(decisions, found, now_s):
            return found, f"{ahead} is dated in the future; set this machine's clock, or take that file away"
        return found, "" if found.is_approved else _too_little(found, self, decisions)

    def _ahead(self, decisions: Iterable[Decision], found: Standing, now_s: float) -> str:
        """Return what is dated further ahead than any decision that matters here may be; empty where nothing is."""
        dates = [each.at_unix_s for each in decisions if each.steward in found.approvals]
        if max(dates, default=NEVER) > now_s + TOLERANCE_S:
            return "an approval"
        is_far = found.block is not None and found.block.at_unix_s > now_s + TOLERANCE_S
        return "a rejection or withdrawal" if is_far else ""

    def rememberable_unix_s(self, found: Standing, now_s: float) -> int:
        """Return the time under which a block goes into the ledger: its own, but never one that ends terms for good.

        That is at most a day ahead, or what is after every approval by a steward: those it must stay ahead of, also
        when the clock was set back meanwhile.
        """
        approvals = [each.at_unix_s for each in read_decisions(self.home.decisions)[0] if self._is_approval(each)]
        return min(found.blocked_unix_s, max([int(now_s) + TOLERANCE_S, *(each + 1 for each in approvals)]))

    def _is_approval(self, each: Decision) -> bool:
        about = (each.site, each.study) == (self.subject.site, self.subject.study)
        return about and each.decision == "approve" and each.steward in self.stewards

    def look_at_code(self, remembered_unix_s: int) -> str:
        """Return why the plugins must not even be loaded; empty where an approval that stands is of their code.

        The subject has no plan yet, so that no approval is of all of it.
        """
        decisions, problems = read_decisions(self.home.decisions)
        if problems:
            return _unreadable(problems)
        found = standing(decisions, self.subject, self.stewards, self.needed, remembered_unix_s)
        is_known = any(each.plugins == self.subject.plugins for each in found.outdated)
        return "" if is_known else _too_little(found, self, decisions)


class NotApproved(ConfigError):
    """A site's people have not approved what its agent has pinned."""

    rules: Final = ("approval",)


def rule_of(home: Home, config: SiteConfig, subject: Subject, own_key: str) -> Rule:
    """Return the rule of a site's settings; with nobody listed the site's own key approves."""
    stewards = {each.key: each.name for each in config.approval.stewards} or {own_key: OWN_KEY}
    return Rule(home, subject, stewards, config.approval.needed, own_key)


def demand_known_code(home: Home, config: SiteConfig, study: Study, own_key: str, ledger: Ledger) -> None:
    """Refuse a study before any of its plugins is loaded, unless some approval of it is of their code as it is here.

    Loading code runs it. Whether the approval is of the plan, too, is known only once the plugins are loaded.

    Raises:
        NotApproved: there is none.
        PluginError: a plugin is missing or cannot be located.
    """
    subject = code_of(config.site, study)
    objection = rule_of(home, config, subject, own_key).look_at_code(ledger.blocked_unix_s(study.hash))
    if objection:
        raise NotApproved(objection, where=str(home.decisions))


class Consent:
    """What a site's people say to what its agent has pinned, at this moment; for the one agent that has the ledger."""

    def __init__(self, rule: Rule, ledger: Ledger, clock: Callable[[], float] = time.time) -> None:
        """Remember the rule, the ledger that keeps blocks, and a clock of seconds since 1970."""
        self._rule = rule
        self._ledger = ledger
        self._clock = clock
        self._seen: tuple[State | None, int] = (None, NEVER)
        self._objection = ""

    def objection(self) -> str:
        """Return why this site does not consent, and what to do; empty where it does.

        Files are read only when something in their folder, or the ledger's memory of a block, has changed. A block goes
        into the ledger at once, so that it stands when its file is gone.

        Raises:
            PrivacyError: the ledger cannot be written; the agent must stop.
        """
        state = state_of(self._rule.home.decisions)  # before the files: the next look sees a change in between
        known = self._ledger.blocked_unix_s(self._rule.study)
        if state is None or (state, known) != self._seen:
            found, self._objection = self._rule.look(known, self._clock())
            self._ledger.remember_block(self._rule.study, self._rule.rememberable_unix_s(found, self._clock()))
            self._seen = state, self._ledger.blocked_unix_s(self._rule.study)
        return self._objection

    def demand(self) -> None:
        """Raise NotApproved unless this site consents."""
        if objection := self.objection():
            raise NotApproved(objection, where=str(self._rule.home.decisions))


def _unreadable(problems: Sequence[str]) -> str:
    return f"{problems[0]}; nothing is served beside a decision that cannot be read: restore it"


def _too_little(found: Standing, rule: Rule, decisions: Iterable[Decision]) -> str:
    """Return why what stands is too little, by the rule of site.toml, and what to run."""
    home = rule.home.path
    names = sorted(rule.who(key) for key in found.approvals)
    have = f" (there is that of {', '.join(names)})" if names else ""
    said = f"approval.needed = {found.needed}: these terms have {len(names)} of {found.needed} approval(s){have}"
    key = "" if rule.own_key in rule.stewards else " --key FILE"
    look = f"look with `synthfed client review --home {home}`, then run `synthfed client approve --home {home}{key}`"
    if found.outdated:
        said += f"; {rule.who(found.outdated[0].steward)} approved {_difference(found.outdated[0], rule.subject)}"
    elif found.blocked_unix_s > NEVER:
        said += f"; {_told(found, rule)}"
    elif _is_of_other_terms(decisions, rule.subject):
        said += (
            f"; what was approved here has other terms than these, {rule.subject.study[:12]}: another study, or the "
        )
        said += "file was changed since"
    return f"{said}; {look}"


def _is_of_other_terms(decisions: Iterable[Decision], subject: Subject) -> bool:
    """Return whether this site has approved something, but never these terms."""
    studies = {each.study for each in decisions if (each.site, each.decision) == (subject.site, "approve")}
    return bool(studies) and subject.study not in studies


def _told(found: Standing, rule: Rule) -> str:
    block, since = found.block, day(found.blocked_unix_s)
    if block is None or block.at_unix_s < found.blocked_unix_s:
        return f"the ledger remembers that they were rejected, withdrawn or released on {since}"
    done = "rejected" if block.decision == "reject" else "withdrawn"
    reason = f" ({plain(block.reason)})" if block.reason else ""
    return f"{rule.who(block.steward)} has {done} them on {since}{reason}"


def _difference(approved: Decision, subject: Subject) -> str:
    """Return in what the pinned code differs from what was approved."""
    before = {each.kind: each for each in approved.plugins}
    for now in subject.plugins:
        then = before.get(now.kind)
        if then != now:
            was = "none" if then is None else f"{plain(then.distribution)} {plain(then.version)}, hash {then.hash[:16]}"
            return f"another {now.kind} plugin: {was}; here is {now.distribution} {now.version}, hash {now.hash[:16]}"
    return "another plan of the same terms, which another version of synthfed made"


def _pin(plugin: "Plugin", kind: str) -> PluginPin:
    return PluginPin.model_validate(
        {
            "kind": kind,
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "hash": plugin.hash.hex(),
        }
    )
