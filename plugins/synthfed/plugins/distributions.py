"""What installed distributions declare: their entry points and the versions of synthfed they were made for.

Never imports what is declared, and never lets one distribution's broken metadata hide the others'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Final

CORE: Final = "synthfed"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Point:
    """An entry point and where it comes from.

    Attributes:
        name: as declared.
        target: what it points at, ``package.module:attribute``.
        distribution: the package that declares it, ``unknown`` if its metadata does not say.
        version: that package's version, likewise.
        requires: what its metadata says that it requires, one requirement an entry.
    """

    name: str
    target: str
    distribution: str
    version: str
    requires: tuple[str, ...] = ()


def points(group: str) -> tuple[Point, ...]:
    """Return the entry points of a group; of two distributions of one name the first on the path counts."""
    # A name is read once: each reading parses the whole metadata.
    declaring = [(each, _field(each, "Name")) for each in metadata.distributions() if _of(group, each)]
    named = dict.fromkeys(name for _, name in declaring if name != UNKNOWN)
    first = [metadata.distribution(name) for name in named]
    nameless = [each for each, name in declaring if name == UNKNOWN]
    return tuple(point for each in (*first, *nameless) for point in _points(each, group))


def broken() -> tuple[str, ...]:
    """Return the names of distributions whose entry points cannot be read."""
    return tuple(sorted(_field(each, "Name") for each in metadata.distributions() if _entries(each) is None))


def unfit(point: Point) -> str:
    """Return why a plugin must not be loaded beside the installed synthfed, in one sentence; empty if it may."""
    if point.distribution == CORE:
        return ""
    if point.distribution == UNKNOWN:
        return "comes from a distribution whose metadata is broken; reinstall it"
    origin = f"{point.distribution} {point.version}"
    ranges = list(_ranges(point.requires))
    if not ranges:
        return (
            f"does not say which versions of synthfed it was made for; its author must put a range, such as "
            f'"{CORE}{fitting_range()}", among the requirements of {origin}'
        )
    try:
        version = core_version()
    except metadata.PackageNotFoundError:
        return "cannot be told to fit, because synthfed itself is not installed; install it"
    if not all(_holds(each, version) for each in ranges):
        wanted = ",".join(ranges)
        return f"was made for synthfed {wanted}, and {version} is installed; install another version of {origin}"
    return ""


def core_version() -> str:
    """Return the installed version of synthfed."""
    return metadata.version(CORE)


def fitting_range() -> str:
    """Return the range of versions that an author should ask for today: from this one to the next that may break."""
    from packaging.version import Version

    release = Version(core_version()).release
    major, minor = release[0], release[1] if len(release) > 1 else 0
    return f">={major}.{minor},<{major + 1}" if major else f">={major}.{minor},<{major}.{minor + 1}"


def _entries(distribution: metadata.Distribution) -> list[metadata.EntryPoint] | None:
    try:
        return list(distribution.entry_points)
    except Exception:  # noqa: BLE001  (the edge to files that anybody may have damaged)
        return None


def _of(group: str, distribution: metadata.Distribution) -> list[metadata.EntryPoint]:
    return [entry for entry in _entries(distribution) or [] if entry.group == group]


def _field(distribution: metadata.Distribution, name: str) -> str:
    try:
        return distribution.metadata[name] or UNKNOWN
    except Exception:  # noqa: BLE001  (as above)
        return UNKNOWN


def _points(distribution: metadata.Distribution, group: str) -> list[Point]:
    name, version = _field(distribution, "Name"), _field(distribution, "Version")
    requires = tuple(distribution.requires or ()) if name != UNKNOWN else ()
    return [Point(entry.name, entry.value, name, version, requires) for entry in _of(group, distribution)]


def _ranges(requires: tuple[str, ...]) -> Iterator[str]:
    """Yield the version ranges under which synthfed itself is required in this environment."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name.lower() == CORE and applies and str(requirement.specifier):
            yield str(requirement.specifier)


def _holds(wanted: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)
