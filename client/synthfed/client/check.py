"""The preflight of a site: everything that could stop a study, looked at before it starts.

Never charges the ledger or sends a record; the timing of a step is measured on made-up rows.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.api import Table
from synthfed.plugins.pinning import Pinned, naming, pin
from synthfed.protocols.completion import Completion
from synthfed.protocols.errors import ConfigError, PluginError, PrivacyError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.schema import Records
from synthfed.protocols.signed import public_text
from synthfed.protocols.study import Study
from synthfed.protocols.sums import own_noise

from .admission import Admission
from .books.audit_log import check_log
from .config import Home, SiteConfig, data_path, study_path
from .consent.standing import NotApproved, demand_known_code, rule_of, subject_of
from .data import drops, group_units, read_table
from .gate import Gate
from .keys.identity import Unlock, load_identity, locked
from .limits import Standing
from .policy import SitePolicy
from .preflight.findings import Finding, attempt
from .preflight.machine import look_at_confinement, look_at_coordinator, look_at_disk, look_at_keys
from .preflight.timing import look_at_timing, measured
from .roster import check_consent, check_roster
from .rules import Broken, broken_rules, installed_plugins
from .site import check_records_apart
from .vault import Ledger

_BY_SITE: Final = "the release tells this site's rows by its name, and so its size, rates and gaps, as site.toml allows"


def preflight(home: Home, unlock: Unlock = locked, *, drop_invalid: bool = False) -> Iterator[Finding]:
    """Yield one finding after another; a topic that needs an earlier one to be well is left out.

    Args:
        home: the site's.
        unlock: is asked for the passphrase of an identity key that has one.
        drop_invalid: read the data as if the settings said so.
    """
    config, finding = attempt("settings", home.load, "site.toml is complete")
    yield finding
    if config is None:
        return
    config = config.model_copy(update={"drop_invalid": drop_invalid or config.drop_invalid})
    load = lambda: load_identity(home.identity, unlock)  # noqa: E731
    identity, finding = attempt("keys", load, "identity.key is private and readable")
    yield finding
    yield from look_at_keys(home)
    study, finding = attempt("study", lambda: home.load_study(config), "the study file is complete")
    yield finding
    yield look_at_disk(home)
    yield look_at_confinement(home, config)
    yield from look_at_coordinator(home, config)
    if study is not None and identity is not None:
        yield from _study(home, config, study, identity)


def _study(home: Home, config: SiteConfig, study: Study, identity: Ed25519PrivateKey) -> Iterator[Finding]:
    _, finding = attempt("log", lambda: check_log(home.audit_log, identity), "")
    yield from [] if finding.is_ok else [finding]
    _, finding = attempt("roster", lambda: check_roster(home, config, study, identity), "lists this site with this key")
    yield finding
    for site in study.cohort.sites:
        yield Finding("roster", True, f"{site.id}: identity {fingerprint(site.public_key)}   (compare site to site)")
    unknown = list(_unknown_code(home, config, study, identity))
    if unknown:
        yield from unknown
        return
    pinned, findings = _allowed(home, config, study)
    yield from findings
    if pinned is None:
        return
    look = lambda: _approved(home, config, pinned, identity)  # noqa: E731
    _, finding = attempt("approval", look, "these terms and plugins are approved")
    yield finding
    _, finding = attempt("model", lambda: check_records_apart(pinned), "no record acts on another's contribution")
    yield finding
    yield _own_noise(pinned)
    yield from _budget(home, config, pinned, identity)
    if study.site_column is not None:
        _, finding = attempt("rows by site", lambda: check_consent(home, config, study), _BY_SITE)
        yield finding
    yield from _data(home, config, pinned, identity)
    took_s, finding = attempt("timing", lambda: measured(pinned), "")
    yield from [finding] if took_s is None else look_at_timing(pinned, took_s)


def _unknown_code(home: Home, config: SiteConfig, study: Study, identity: Ed25519PrivateKey) -> Iterator[Finding]:
    """Yield why no plugin may be loaded here, which runs its code, and what shows without; nothing where one may."""
    try:
        with naming(str(study_path(home, config))), contextlib.closing(Ledger(home.ledger, identity)) as ledger:
            demand_known_code(home, config, study, public_text(identity), ledger)
    except PluginError as error:
        yield Finding("plan", False, str(error))
    except PrivacyError as error:
        yield Finding("budget", False, str(error))
    except NotApproved as error:
        yield Finding("approval", False, f"{error}; before that no plugin is loaded, and no more looked at")
        broken = list(broken_rules(study, config.policy, installed_plugins(study) if config.policy.plugins else None))
        yield from _rules(home, broken) if broken else []


def _allowed(home: Home, config: SiteConfig, study: Study) -> tuple[Pinned | None, list[Finding]]:
    """Return what the study pins, with a finding for every rule of the site that it breaks.

    A plugin that the site's rules do not allow is not loaded, and what needs it is left out.
    """
    policy = config.policy
    if policy == SitePolicy():
        pinned, finding = attempt("plan", lambda: _pinned(home, config, study), "the promise can be met")
        return pinned, [finding]
    found, finding = attempt("plan", lambda: None if policy.plugins is None else installed_plugins(study), "")
    if not finding.is_ok:
        return None, [finding]
    if any(each.rule == "policy.plugins" for each in broken_rules(study, policy, found)):
        return None, _rules(home, broken_rules(study, policy, found))
    pinned, finding = attempt("plan", lambda: _pinned(home, config, study), "the promise can be met")
    plan = pinned.policy.plan if pinned is not None else None
    return pinned, [finding, *_rules(home, broken_rules(study, policy, found, plan))]


def _rules(home: Home, broken: Iterable[Broken]) -> list[Finding]:
    findings = [Finding("rules", False, f"{home.config}: {each.rule}: {each.what}") for each in broken]
    return findings or [Finding("rules", True, "the study breaks none of this site's rules")]


def _data(home: Home, config: SiteConfig, pinned: Pinned, identity: Ed25519PrivateKey) -> Iterator[Finding]:
    """Read the data as the agent will, and tell this site's operator, nobody else, what was left out and why."""
    study, keep = pinned.policy.study, config.policy.keep

    def look() -> Table:
        path, drop = data_path(home, config), config.drop_invalid
        table = read_table(path, study, pinned.domain, config.site, keep=keep, drop_invalid=drop)
        group_units(table, pinned.model.private())
        return table

    table, finding = attempt("data", look, "the records fit the schema")
    yield finding
    if table is None:
        return
    if (refused := _admission(home, config, study, identity, table)) is not None:
        yield refused
    if keep is not None:
        detail = f"{table.left_out:,} row(s) without an accepted value in column {keep.column!r} are left out"
        yield Finding("consent", True, detail)
    if table.dropped:
        yield Finding("data", True, drops(table))
    if study.constraints:
        yield from _constraints(table.records, study)


def _admission(
    home: Home, config: SiteConfig, study: Study, identity: Ed25519PrivateKey, table: Table
) -> Finding | None:
    """Return what is wrong where another home's ledger keeps the budget of these records."""

    def look() -> None:
        with contextlib.closing(Ledger(home.ledger, identity)) as ledger:
            Admission(home, config, study, identity, ledger).check(table)

    _, finding = attempt("budget", look, "")
    return None if finding.is_ok else finding


def _approved(home: Home, config: SiteConfig, pinned: Pinned, identity: Ed25519PrivateKey) -> None:
    rule = rule_of(home, config, subject_of(config.site, pinned), public_text(identity))
    with contextlib.closing(Ledger(home.ledger, identity)) as ledger:
        remembered_unix_s = ledger.blocked_unix_s(rule.study)
    _, objection = rule.look(remembered_unix_s, time.time())
    if objection:
        raise ConfigError(objection, where=str(home.decisions))


def _pinned(home: Home, config: SiteConfig, study: Study) -> Pinned:
    with naming(str(study_path(home, config))):
        return pin(study)


def _constraints(records: Records, study: Study) -> Iterator[Finding]:
    """Tell this site's operator, and nobody else, how many of its records break each constraint of the terms.

    None of it stops a study: the model sees the columns that nothing derives, and those of any record.
    """
    counts = Completion(study.released.columns, study.constraints).broken(records)
    for number, (each, count) in enumerate(zip(study.constraints, counts, strict=True), 1):
        detail = f"constraint {number} ({each.kind}): {count:,} of {len(records):,} rows break it"
        more = "; they are trained on all the same, by the columns that nothing derives" if count else ""
        yield Finding("constraints", True, detail + more)


def _own_noise(pinned: Pinned) -> Finding:
    """Tell what hides this site's units if every other site works with the coordinator."""
    study, kinds = pinned.policy.study, pinned.policy.plan.kinds
    least = min(kinds, key=lambda kind: own_noise(study, kind))
    detail = f"this site alone adds noise of {own_noise(study, least):.3g} clip norms or more (sum {least.sum.name!r})"
    return Finding("plan", True, detail)


def _budget(home: Home, config: SiteConfig, pinned: Pinned, identity: Ed25519PrivateKey) -> Iterator[Finding]:
    """Look whether the whole study fits under what is left of each of the site's limits."""

    def look() -> list[Standing]:
        with contextlib.closing(Ledger(home.ledger, identity)) as ledger:
            standings = Gate(pinned.policy, config.ceiling, ledger, config.policy).standings()
            interrupted = len(ledger.unsettled())
        if interrupted:
            raise ConfigError(
                f"the agent died inside {interrupted} step(s); look at its log, then run `synthfed client clear`",
                where=str(home.ledger),
            )
        return standings

    standings, finding = attempt("budget", look, "")
    for at in standings or ():
        yield Finding("budget", at.is_ok, at.told if at.is_ok else f"{home.config}: {at.told}")
    if standings is None:
        yield finding
