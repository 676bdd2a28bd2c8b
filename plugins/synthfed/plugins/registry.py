"""What plugins are installed, by entry point: listing, finding, loading and hashing them.

Never imports a plugin to list, find or hash it: only `Plugin.load` runs a plugin's code. A plugin says
in its distribution's metadata which versions of synthfed it was made for, and is loaded for no other.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, get_args

from synthfed.protocols.errors import PluginError, SynthfedError
from synthfed.protocols.ids import digest

from .distributions import Point, points, unfit

Group = Literal["synthfed.models", "synthfed.domains", "synthfed.audits"]
"""The entry-point groups of the plugin kinds."""

GROUPS: tuple[Group, ...] = get_args(Group)

TWICE: Final = "is declared more than once; uninstall all but one of the distributions that do, or mend the one"
"""What is wrong with a name that has several entry points."""

FOREIGN: Final = (Exception, SystemExit)
"""What foreign code may raise at its edge: anything, and a plugin that exits must not end the program."""
_UNCHECKED: Final = (0b01).to_bytes(4, "little")  # flags of byte code: made for a source's hash, which nobody compares


@dataclass(frozen=True, slots=True)
class Plugin:
    """One declared plugin, not yet imported.

    Attributes:
        name: the entry point's name, as a study's terms give it.
        group: the entry-point group, the kind of plugin.
        distribution: the installed package that declares it, ``unknown`` if its metadata is broken.
        version: that package's version.
        target: where the class is, ``package.module:Class``.
        unfit: why it must not be loaded beside this synthfed, empty where it may.
    """

    name: str
    group: Group
    distribution: str
    version: str
    target: str
    unfit: str = ""

    def load(self) -> Any:
        """Import the plugin and return its class.

        Raises:
            PluginError: it was made for another synthfed, the import failed, whatever the reason, or what is there
                is no class with the methods of its group's contract.
        """
        self._check_fit()
        point = metadata.EntryPoint(self.name, self.target, self.group)
        if not point.pattern.fullmatch(self.target):
            raise self._broken(f"points at {self.target!r}, which is not of the form package.module:Class")
        try:
            found = point.load()
        except FOREIGN as error:
            raise self._broken(f"cannot be loaded ({type(error).__name__}: {error})") from error
        self._check_kind(found)
        return found

    def make(self, *arguments: object) -> Any:
        """Return an instance of the plugin's class.

        Raises:
            PluginError: the import failed or the class raised anything but an error of ours.
        """
        kind = self.load()
        with self.blamed("cannot be used here"):
            return kind(*arguments)

    @contextmanager
    def blamed(self, what: str) -> Iterator[None]:
        """Turn whatever the plugin's code raises inside, but an error of ours, into one that names the plugin.

        The text of the plugin's own error is told, so no record may be near.
        """
        try:
            yield
        except SynthfedError:
            raise
        except FOREIGN as error:
            raise self._broken(f"{what} ({type(error).__name__}: {error})") from error

    @property
    def hash(self) -> bytes:
        """The digest of distribution, version, entry point and every file of its outermost package, 32 bytes.

        Of a package in a namespace, such as synthfed's own, only the part below the namespace counts. What the
        package imports from elsewhere is not covered. The parent packages are imported to find the file, the
        module itself is not.

        Raises:
            PluginError: it was made for another synthfed, or the module has no file that can be read.
        """
        self._check_fit()
        module = self.target.partition(":")[0].strip()
        try:
            spec = importlib.util.find_spec(module)
            sources = _sources(module, Path(spec.origin)) if spec and spec.origin else []
        except FOREIGN as error:  # a parent package is foreign code too
            raise self._broken(f"cannot be located ({type(error).__name__}: {error})") from error
        if not sources:
            raise self._broken(f"cannot be located (no file for module {module!r})")
        return digest("plugin", *(each.encode() for each in (self.distribution, self.version, self.target)), *sources)

    def _check_fit(self) -> None:
        if self.unfit:
            raise PluginError(self.unfit, plugin=self.name, distribution=self.distribution)

    def _check_kind(self, found: Any) -> None:
        """Refuse what is no class, or lacks a method of the contract: it would fail in the middle of a study."""
        if not isinstance(found, type):
            raise self._broken(f"points at a thing of type {type(found).__name__}, where a class must be")
        lacking = [name for name in _methods(self.group) if not callable(getattr(found, name, None))]
        if lacking:
            raise self._broken(f"lacks what the contract of {self.group} asks for: {', '.join(lacking)}")

    def _broken(self, what: str) -> PluginError:
        message = f"{what}; mend or reinstall {self.distribution} {self.version}"
        return PluginError(message, plugin=self.name, distribution=self.distribution)


def _methods(group: Group) -> list[str]:
    """Return the names of the methods that a group's contract asks of a class."""
    from . import api  # numpy comes with it, which a listing does without

    contracts: dict[Group, type] = {
        "synthfed.models": api.Model,
        "synthfed.domains": api.Domain,
        "synthfed.audits": api.Audit,
    }
    return [name for name in vars(contracts[group]) if not name.startswith("_")]


def _sources(module: str, file: Path) -> list[bytes]:
    """Return names and digests of all files of a module's outermost package, or of a lone module itself.

    All of them, because also a compiled module, a file of weights or byte code without a source decides what runs.
    """
    if "." not in module and file.name != "__init__.py":
        return [file.name.encode(), file.read_bytes()]
    root, depth = file.parent, module.count(".") + (file.name == "__init__.py")
    for _ in range(depth - 1):
        if not (root.parent / "__init__.py").is_file():
            break  # above it is a namespace, which other distributions may share
        root = root.parent
    files = [each for each in sorted(root.rglob("*")) if _is_run(each)]
    return [part for each in files for part in (each.relative_to(root).as_posix().encode(), _digest_of(each))]


def _is_run(path: Path) -> bool:
    """Return whether a path in a package is a file that may decide what runs; caches follow from their sources."""
    if path.is_symlink() and path.is_dir():
        raise OSError(f"{path.name!r} is a link to a folder, whose files no hash would cover")
    return path.is_file() and (path.parent.name != "__pycache__" or _is_unchecked(path))


def _is_unchecked(cache: Path) -> bool:
    """Return whether byte code is run without a look at its source (PEP 552)."""
    with cache.open("rb") as file:
        return bytes(file.read(8)[4:]) == _UNCHECKED


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def installed(group: Group) -> tuple[Plugin, ...]:
    """Return every declared plugin of a group in the order of names; a name declared twice is there twice."""
    plugins = (_plugin(group, point) for point in points(group))
    return tuple(sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution)))


def find(group: Group, name: str) -> Plugin:
    """Return the one plugin of that name.

    Raises:
        PluginError: no distribution declares it, or more than one entry point does.
    """
    plugins = installed(group)
    matches = [plugin for plugin in plugins if plugin.name == name]
    if not matches:
        names = ", ".join(sorted({plugin.name for plugin in plugins})) or "none"
        raise PluginError(
            f"is not installed; mend the name or install the distribution that declares it in {group} "
            f"(installed: {names})",
            plugin=name,
        )
    if len(matches) > 1:
        distributions = ", ".join(dict.fromkeys(f"{plugin.distribution} {plugin.version}" for plugin in matches))
        raise PluginError(TWICE, plugin=name, distribution=distributions)
    return matches[0]


def _plugin(group: Group, point: Point) -> Plugin:
    return Plugin(point.name, group, point.distribution, point.version, point.target, unfit(point))
