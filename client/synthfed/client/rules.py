"""A study against the site's rules, before its plugins are loaded and before a record is read.

Never lets a study through that breaks one, and names all that it breaks at once.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from synthfed.plugins.pinning import Pinned, pin
from synthfed.plugins.registry import find
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.privacy.plan import Plan
from synthfed.protocols.study import Study
from synthfed.protocols.sums import own_noise

from .policy import PluginPin, SitePolicy


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a study breaks: its field in ``site.toml``, and what is wrong and can be done."""

    rule: str
    what: str


class StudyRefused(ConfigError):
    """A study breaks rules of this site."""

    def __init__(self, study: Study, broken: tuple[Broken, ...], *, where: str) -> None:
        """Name the study and every rule that it breaks."""
        count = "a rule" if len(broken) == 1 else f"{len(broken)} rules"
        said = "; ".join(f"({number}) {each.rule}: {each.what}" for number, each in enumerate(broken, 1))
        super().__init__(f"study {study.name!r} breaks {count} of this site: {said}", where=where)
        self.rules = tuple(each.rule for each in broken)


def pin_allowed(study: Study, policy: SitePolicy, *, where: str) -> Pinned:
    """Return what a study pins, if the site's rules allow it; a plugin that they do not allow is never loaded.

    Args:
        study: the terms.
        policy: the site's rules.
        where: the settings' file, for the error.

    Raises:
        StudyRefused: naming every rule that is broken.
        PluginError, StudyError: as `pin`.
    """
    found = None if policy.plugins is None else installed_plugins(study)
    broken = tuple(broken_rules(study, policy, found))
    if any(each.rule == "policy.plugins" for each in broken):
        raise StudyRefused(study, broken, where=where)
    pinned = pin(study)
    broken = tuple(broken_rules(study, policy, found, pinned.policy.plan))
    if broken:
        raise StudyRefused(study, broken, where=where)
    return pinned


def installed_plugins(study: Study) -> Mapping[str, PluginPin]:
    """Return what a study's model and domain are here, by name; none of them is loaded.

    Raises:
        PluginError: one is missing or cannot be located.
    """
    plugins = (find("synthfed.models", study.model.plugin), find("synthfed.domains", study.domain))
    return {
        f"{each.group.removeprefix('synthfed.').removesuffix('s')} {each.name!r}": PluginPin(
            distribution=each.distribution, version=each.version, hash=each.hash.hex()
        )
        for each in plugins
    }


def broken_rules(
    study: Study, policy: SitePolicy, found: Mapping[str, PluginPin] | None = None, plan: Plan | None = None
) -> Iterator[Broken]:
    """Yield every rule that a study breaks, those of what is given.

    Args:
        study: the terms.
        policy: the site's rules.
        found: the installed plugins that the study asks for, by kind and name.
        plan: what the terms amount to.
    """
    yield from _broken_numbers(study, policy)
    yield from _broken_terms(study, policy)
    for name, plugin in (found or {}).items():
        if policy.plugins is not None and plugin not in policy.plugins:
            yield Broken(
                "policy.plugins",
                f"{name} is of distribution {plugin.distribution!r}, version {plugin.version!r}, hash "
                f"{plugin.hash}, which is not among the pinned ones; look at that code, then pin it, or install what "
                "is pinned",
            )
    if plan is not None and policy.sigma_floor is not None:
        kind = min(plan.kinds, key=lambda each: own_noise(study, each))
        least = own_noise(study, kind)
        if least < policy.sigma_floor:
            yield Broken(
                "policy.sigma_floor",
                f"in a step of sum {kind.sum.name!r} this site alone would add noise of {least:.4g} clip norms, below "
                f"{policy.sigma_floor:g}; ask for a smaller privacy.epsilon, or lower the floor",
            )


def _broken_numbers(study: Study, policy: SitePolicy) -> Iterator[Broken]:
    promised, cohort = study.privacy.epsilon, study.cohort
    if policy.epsilon_per_study is not None and promised > policy.epsilon_per_study:
        yield Broken(
            "policy.epsilon_per_study",
            f"privacy.epsilon = {promised:g} is above {policy.epsilon_per_study:g}; ask for a smaller one, or raise it",
        )
    if policy.least_sites is not None and cohort.quorum < policy.least_sites:
        yield Broken(
            "policy.least_sites",
            f"cohort.quorum = {cohort.quorum} is below {policy.least_sites}; ask for a larger one, or lower it",
        )
    honest = cohort.quorum - cohort.tolerated
    if policy.least_honest is not None and honest < policy.least_honest:
        yield Broken(
            "policy.least_honest",
            f"cohort.quorum - cohort.tolerated = {honest} honest sites is below {policy.least_honest}; ask for a "
            "larger quorum, or lower it",
        )


def _broken_terms(study: Study, policy: SitePolicy) -> Iterator[Broken]:
    mode, purpose = study.privacy.mode, study.purpose
    if policy.modes is not None and mode not in policy.modes:
        allowed = ", ".join(policy.modes)
        yield Broken("policy.modes", f"privacy.mode = {mode!r} is not among {allowed}; ask for another, or allow it")
    if policy.purposes is not None and (purpose is None or _plain(purpose) not in map(_plain, policy.purposes)):
        said = "the terms state no purpose" if purpose is None else f"purpose = {purpose!r} is not among those allowed"
        yield Broken("policy.purposes", f"{said}; agree on terms that state one of them word by word, or allow it")
    denied = {_folded(name) for name in policy.deny_columns}
    for column in study.released.columns:  # those that a constraint derives are among them
        if _folded(column.name) in denied:
            yield Broken(
                "policy.deny_columns", f"column {column.name!r} never leaves this site; ask for a study without it"
            )
    for site in study.cohort.sites:
        if site.key and fingerprint(site.public_key) in policy.revoked_keys:
            yield Broken(
                "policy.revoked_keys",
                f"the roster has key {fingerprint(site.public_key)} of site {site.id!r}, which is revoked here; agree "
                "on terms with that site's new key, or without the site",
            )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _folded(name: str) -> str:
    """Return a name by which no other spelling of a denied column gets through."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()
