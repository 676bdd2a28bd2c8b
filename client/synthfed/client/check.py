"""The preflight of a site: everything that could stop a study, looked at before it starts.

Never charges the ledger or sends a record; the timing of a step is measured on made-up rows.
"""

import contextlib
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Final, TypeVar

from synthfed.plugins.api import Table
from synthfed.plugins.pinning import Pinned, naming, pin
from synthfed.protocols.completion import Completion
from synthfed.protocols.errors import ConfigError, SynthfedError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.schema import Records
from synthfed.protocols.signed import public_text
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Family, Kind, answer_time_s, own_noise

from .books.audit_log import check_log
from .config import Home, SiteConfig, data_path, private_paths, study_path
from .consent.standing import rule_of, subject_of
from .data import drops, group_units, read_table
from .gate import Gate, Standing
from .local_steps import seconds_per_round
from .policy import SitePolicy
from .rules import Broken, broken_rules, installed_plugins
from .site import check_consent, check_records_apart, check_roster
from .supervise import connect, unreachable
from .vault import Ledger, load_identity

_Result = TypeVar("_Result")

_LEAST_FREE_BYTES: Final = 500 * 2**20
_CLOCK_TOLERANCE_S: Final = 300.0
_HEADROOM: Final = 2.0  # other sites or programs may share this machine's cores
_LEAST_TIME_S: Final = 0.05  # an answer also takes draws, masks and a write to disk
_TRIALS: Final = 3
_PROBE_S: Final = 30.0
_BY_SITE: Final = "the release tells this site's rows by its name, and so its size, rates and gaps, as site.toml allows"

# In processes of their own, for each changes its process for good.
_LEAVE_NETWORK: Final = """\
import sys
from synthfed.client.namespaces import leave_network
sys.exit(not leave_network())
"""
_HIDE_FILES: Final = """\
import os, sys
from pathlib import Path
from synthfed.client.namespaces import hide_files
home, node, *data = map(Path, sys.argv[1:])
os.chdir("/")
sys.exit(not hide_files(home, node, data))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the preflight: what was looked at, whether it is well, and what was seen or must be done."""

    topic: str
    is_ok: bool
    detail: str


def preflight(home: Home, *, drop_invalid: bool = False) -> Iterator[Finding]:
    """Yield one finding after another; a topic that needs an earlier one to be well is left out.

    With ``drop_invalid`` the data are read as if the settings said so.
    """
    config, finding = _try("settings", home.load, "site.toml is complete")
    yield finding
    if config is None:
        return
    config = config.model_copy(update={"drop_invalid": drop_invalid or config.drop_invalid})
    yield from _keys(home)
    study, finding = _try("study", lambda: home.load_study(config), "the study file is complete")
    yield finding
    yield _disk(home)
    yield _confinement(home, config)
    yield from _coordinator(home, config)
    if study is not None:
        yield from _study(home, config, study)


def _study(home: Home, config: SiteConfig, study: Study) -> Iterator[Finding]:
    identity, _ = _try("keys", lambda: load_identity(home.identity), "")
    if identity is not None:
        _, finding = _try("log", lambda: check_log(home.audit_log, identity), "")
        yield from [] if finding.is_ok else [finding]
        _, finding = _try(
            "roster", lambda: check_roster(home, config, study, identity), "lists this site with this key"
        )
        yield finding
        for site in study.cohort.sites:
            yield Finding(
                "roster", True, f"{site.id}: identity {fingerprint(site.public_key)}   (compare site to site)"
            )
    pinned, findings = _allowed(home, config, study)
    yield from findings
    if pinned is None:
        return
    _, finding = _try("approval", lambda: _approved(home, config, pinned), "these terms and plugins are approved")
    yield finding
    _, finding = _try("model", lambda: check_records_apart(pinned), "no record acts on another's contribution")
    yield finding
    yield _own_noise(pinned)
    yield from _budget(home, config, pinned)
    if study.site_column is not None:
        _, finding = _try("rows by site", lambda: check_consent(home, config, study), _BY_SITE)
        yield finding
    yield from _data(home, config, pinned)
    took_s, finding = _try("timing", lambda: _measured(pinned), "")
    yield from [finding] if took_s is None else _timing(pinned, took_s)


def _allowed(home: Home, config: SiteConfig, study: Study) -> tuple[Pinned | None, list[Finding]]:
    """Return what the study pins, with a finding for every rule of the site that it breaks.

    A plugin that the site's rules do not allow is not loaded, and what needs it is left out.
    """
    policy = config.policy
    if policy == SitePolicy():
        pinned, finding = _try("plan", lambda: _pinned(home, config, study), "the promise can be met")
        return pinned, [finding]
    found, finding = _try("plan", lambda: None if policy.plugins is None else installed_plugins(study), "")
    if not finding.is_ok:
        return None, [finding]
    if any(each.rule == "policy.plugins" for each in broken_rules(study, policy, found)):
        return None, _rules(home, broken_rules(study, policy, found))
    pinned, finding = _try("plan", lambda: _pinned(home, config, study), "the promise can be met")
    plan = pinned.policy.plan if pinned is not None else None
    return pinned, [finding, *_rules(home, broken_rules(study, policy, found, plan))]


def _rules(home: Home, broken: Iterable[Broken]) -> list[Finding]:
    findings = [Finding("rules", False, f"{home.config}: {each.rule}: {each.what}") for each in broken]
    return findings or [Finding("rules", True, "the study breaks none of this site's rules")]


def _data(home: Home, config: SiteConfig, pinned: Pinned) -> Iterator[Finding]:
    """Read the data as the agent will, and tell this site's operator, nobody else, what was left out and why."""
    study, keep = pinned.policy.study, config.policy.keep

    def look() -> Table:
        path, drop = data_path(home, config), config.drop_invalid
        table = read_table(path, study, pinned.domain, config.site, keep=keep, drop_invalid=drop)
        group_units(table, pinned.model.private())
        return table

    table, finding = _try("data", look, "the records fit the schema")
    yield finding
    if table is None:
        return
    if keep is not None:
        detail = f"{table.left_out:,} row(s) without an accepted value in column {keep.column!r} are left out"
        yield Finding("consent", True, detail)
    if table.dropped:
        yield Finding("data", True, drops(table))
    if study.constraints:
        yield from _constraints(table.records, study)


def _approved(home: Home, config: SiteConfig, pinned: Pinned) -> None:
    identity = load_identity(home.identity)
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


def _try(topic: str, look: Callable[[], _Result], well: str) -> tuple[_Result | None, Finding]:
    try:
        return look(), Finding(topic, True, well)
    except SynthfedError as error:
        return None, Finding(topic, False, str(error))


def _keys(home: Home) -> Iterator[Finding]:
    _, finding = _try("keys", lambda: load_identity(home.identity), "identity.key is private and readable")
    yield finding
    if not home.node_key.exists() or home.node_key.stat().st_mode & 0o077:
        yield Finding(
            "keys", False, f"{home.node_key}: is missing or readable by others; restore it or run `chmod 600`"
        )
    _, finding = _try("socket", lambda: home.socket, "its path is short enough")
    if not finding.is_ok:
        yield finding
    if home.path.stat().st_mode & 0o077:
        yield Finding("keys", False, f"{home.path}: can be entered by others; run `chmod 700` on it")


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.path).free
    detail = f"{free / 2**30:.1f} GiB free"
    return Finding("disk", free >= _LEAST_FREE_BYTES, detail + ("" if free >= _LEAST_FREE_BYTES else "; make room"))


def _confinement(home: Home, config: SiteConfig) -> Finding:
    """Look whether the kernel can take the network from the agent and this home from the node."""
    private, finding = _try("confinement", lambda: private_paths(home, config), "")
    if private is None:
        return finding
    files = [home.path.absolute(), home.node.absolute(), *private]
    problems = []
    if not _succeeds(_LEAVE_NETWORK):
        problems.append("this kernel leaves the agent its network: close it from outside, as a container can")
    if not _succeeds(_HIDE_FILES, *map(str, files)):
        problems.append(
            "this kernel cannot hide this home from the node: run `client node` as another user or on another "
            "machine, or accept it with --allow-unconfined"
        )
    well = "the agent can give up its network, and the node can lose sight of this home"
    return Finding("confinement", not problems, "; ".join(problems) or well)


def _succeeds(python: str, *arguments: str) -> bool:
    command = [sys.executable, "-c", python, *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=_PROBE_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _budget(home: Home, config: SiteConfig, pinned: Pinned) -> Iterator[Finding]:
    """Look whether the whole study fits under what is left of each of the site's limits."""

    def look() -> list[Standing]:
        with contextlib.closing(Ledger(home.ledger, load_identity(home.identity))) as ledger:
            standings = Gate(pinned.policy, config.ceiling, ledger, config.policy).standings()
            interrupted = len(ledger.unsettled())
        if interrupted:
            raise ConfigError(
                f"the agent died inside {interrupted} step(s); look at its log, then run `synthfed client clear`",
                where=str(home.ledger),
            )
        return standings

    standings, finding = _try("budget", look, "")
    for at in standings or ():
        yield Finding("budget", at.is_ok, at.told if at.is_ok else f"{home.config}: {at.told}")
    if standings is None:
        yield finding


def _measured(pinned: Pinned) -> dict[str, list[float]]:
    """Return how long rounds of every kind take on made-up rows, in seconds, the fastest first."""
    took_s = {}
    for kind in pinned.policy.plan.kinds:
        seconds_per_round(pinned, kind)  # the first one warms up
        took_s[kind.sum.name] = sorted(seconds_per_round(pinned, kind) for _ in range(_TRIALS))
    return took_s


def _timing(pinned: Pinned, took_s: Mapping[str, list[float]]) -> Iterator[Finding]:
    """Hold every kind of round against its fixed answer time, and say which times would do here."""
    fields: dict[Family, str] = {"gradient": "answer_time_s", "statistic": "statistic_time_s"}
    enough_s: dict[str, float] = {}
    for kind in pinned.policy.plan.kinds:
        field, trials_s = fields[kind.sum.family], took_s[kind.sum.name]
        middle_s, allowed_s = trials_s[_TRIALS // 2], answer_time_s(pinned.policy.study, kind.sum.family)
        enough_s[field] = max(enough_s.get(field, _LEAST_TIME_S), trials_s[-1] * _HEADROOM)
        detail = f"{_told(kind)} takes {middle_s * 1000:.0f} ms of its {allowed_s * 1000:.0f} ms"
        is_ok = middle_s * _HEADROOM <= allowed_s
        yield Finding("timing", is_ok, detail if is_ok else f"{detail}; agree on a longer {field} in [privacy]")
    times = " and ".join(f"{field} = {_rounded_up(value)}" for field, value in sorted(enough_s.items()))
    yield Finding("timing", True, f"{times} would do on this machine; the slowest site decides")


def _told(kind: Kind) -> str:
    many = kind.sum.steps
    return f"a step of {kind.sum.name!r}" if many == 1 else f"a round of {kind.sum.name!r} with its {many} steps"


def _rounded_up(value: float) -> float:
    """Return the next larger number of two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")


def _coordinator(home: Home, config: SiteConfig) -> Iterator[Finding]:
    """Look whether the coordinator answers under the pinned authority, and whether the clocks agree."""
    well = f"{config.coordinator.address} answers under the pinned authority"
    date, finding = _try("coordinator", lambda: _date(home, config), well)
    yield finding
    if date is None:
        return
    with contextlib.suppress(ValueError):  # no date, or none that can be read
        apart_s = abs(time.time() - parsedate_to_datetime(date).timestamp())
        detail = f"{apart_s:.0f} s from the coordinator's"
        is_ok = apart_s <= _CLOCK_TOLERANCE_S
        yield Finding("clock", is_ok, detail if is_ok else detail + "; set this machine's time")


def _date(home: Home, config: SiteConfig) -> str:
    """Return what the coordinator's health service says the date is; nothing where it does not say."""
    with contextlib.closing(connect(home, config)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().getheader("Date", "")
        except (OSError, HTTPException) as error:
            raise unreachable(home, config, error) from None
