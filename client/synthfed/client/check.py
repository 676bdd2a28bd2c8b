"""The preflight of a site: everything that could stop a study, looked at before it starts.

Never charges the ledger or sends a record; the timing of a step is measured on made-up rows.
"""

import contextlib
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Final, TypeVar

from synthfed.plugins.pinning import Pinned, naming, pin
from synthfed.protocols.completion import Completion
from synthfed.protocols.errors import ConfigError, SynthfedError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.schema import Records
from synthfed.protocols.signed import public_text
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Family, Kind, answer_time_s, own_noise

from .config import Home, SiteConfig, data_path, study_path
from .consent.standing import rule_of, subject_of
from .data import load_units, read_table
from .gate import Gate
from .local_steps import seconds_per_round
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


def preflight(home: Home) -> Iterator[Finding]:
    """Yield one finding after another; a topic that needs an earlier one to be well is left out."""
    config, finding = _try("settings", home.load, "site.toml is complete")
    yield finding
    if config is None:
        return
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
        _, finding = _try(
            "roster", lambda: check_roster(home, config, study, identity), "lists this site with this key"
        )
        yield finding
        for site in study.cohort.sites:
            yield Finding(
                "roster", True, f"{site.id}: identity {fingerprint(site.public_key)}   (compare site to site)"
            )
    pinned, finding = _try("plan", lambda: _pinned(home, config, study), "the promise can be met")
    yield finding
    if pinned is None:
        return
    _, finding = _try("approval", lambda: _approved(home, config, pinned), "these terms and plugins are approved")
    yield finding
    _, finding = _try("model", lambda: check_records_apart(pinned), "no record acts on another's contribution")
    yield finding
    yield _own_noise(pinned)
    yield _ceiling(home, config, pinned)
    path = data_path(home, config)
    if study.site_column is not None:
        _, finding = _try("rows by site", lambda: check_consent(home, config, study), _BY_SITE)
        yield finding
    _, finding = _try(
        "data",
        lambda: load_units(path, study, pinned.domain, pinned.model.private(), config.site),
        "the records fit the schema",
    )
    yield finding
    if finding.is_ok and study.constraints:
        yield from _constraints(read_table(path, study, pinned.domain, config.site).records, study)
    took_s, finding = _try("timing", lambda: _measured(pinned), "")
    yield from [finding] if took_s is None else _timing(pinned, took_s)


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
    files = [home.path.absolute(), home.node.absolute(), data_path(home, config)]
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


def _ceiling(home: Home, config: SiteConfig, pinned: Pinned) -> Finding:
    """Look whether the whole study fits under what is left of the site's ceiling."""

    def look() -> str:
        ledger = Ledger(home.ledger, load_identity(home.identity))
        try:
            gate = Gate(pinned.policy, config.ceiling, ledger)
            spent, whole = gate.spent(), gate.spent_after_study()
            interrupted = len(ledger.unsettled())
        finally:
            ledger.close()
        if interrupted:
            raise ConfigError(
                f"the agent died inside {interrupted} step(s); look at its log, then run `synthfed client clear`",
                where=str(home.ledger),
            )
        if whole > config.ceiling.epsilon:
            raise ConfigError(
                f"the study would bring epsilon from {spent:.3g} to {whole:.3g}, above the ceiling of "
                f"{config.ceiling.epsilon:.3g}; it would end early: raise [ceiling] or ask for a smaller study",
                where=str(home.config),
            )
        return f"epsilon {spent:.3g} spent, {whole:.3g} after the study, ceiling {config.ceiling.epsilon:.3g}"

    text, finding = _try("budget", look, "")
    return finding if text is None else Finding("budget", True, text)


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
