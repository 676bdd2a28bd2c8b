"""What a plugin says of itself: its docstring, its options with defaults, its sums for a study made up for the purpose.

Never reads a record: the study's records are never drawn.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from synthfed.protocols.errors import ConfigError, PluginError
from synthfed.protocols.sums import Sum

from ..registry import GROUPS, Group, Plugin, find, installed
from ..testing import cases

KINDS: Mapping[str, Group] = {group.removeprefix("synthfed.").removesuffix("s"): group for group in GROUPS}
"""The group of entry points by what its plugins are called: model, domain, audit."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a model: its name, its default as TOML would have it, what it does."""

    name: str
    default: str
    description: str


def kind_of(plugin: Plugin) -> str:
    """Return what a plugin is: ``model``, ``domain`` or ``audit``."""
    return next(kind for kind, group in KINDS.items() if group == plugin.group)


def look_up(name: str, kind: str | None = None) -> Plugin:
    """Return the plugin of that name, of any kind unless one is given.

    Raises:
        ConfigError: there is no such kind, or plugins of several kinds have the name.
        PluginError: no distribution declares it, or more than one does.
    """
    if kind is not None:
        if kind not in KINDS:
            raise ConfigError(f"{kind!r} is no kind of plugin; choose one of {', '.join(KINDS)}", where="--kind")
        return find(KINDS[kind], name)
    groups = [group for group in GROUPS if any(plugin.name == name for plugin in installed(group))]
    if len(groups) > 1:
        found = ", ".join(each for each, group in KINDS.items() if group in groups)
        raise ConfigError(f"{name!r} is the name of plugins of several kinds ({found}); say which", where="--kind")
    if not groups:
        names = ", ".join(sorted({plugin.name for group in GROUPS for plugin in installed(group)}))
        raise PluginError(f"is not installed; mend the name (installed: {names})", plugin=name)
    return find(groups[0], name)


def described(options: type[BaseModel]) -> list[Option]:
    """Return a model's options with what the docstrings of their classes say of them."""
    told: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        told |= _attributes(vars(kind).get("__doc__") or "")
    return [Option(name, _default(field), told.get(name, "")) for name, field in options.model_fields.items()]


def sums_of(plugin: Plugin, options: Mapping[str, Any]) -> tuple[str, tuple[Sum, ...]]:
    """Return the first kind of made-up data that a model takes, and the sums it declares for it.

    Raises:
        ConfigError: it takes none with these options; tells why.
        PluginError: it failed.
    """
    refusals = []
    for case in cases():
        try:
            model = plugin.make(case.study(options))
            with plugin.blamed("cannot declare its sums"):
                return case.name, model.sums()
        except ConfigError as error:
            refusals.append(str(error))
    raise ConfigError(f"takes none of the kit's kinds of data: {'; '.join(dict.fromkeys(refusals))}", where=plugin.name)


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return "(none; a study must set it)" if value is PydanticUndefined else _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _attributes(docstring: str) -> dict[str, str]:
    r"""Return the entries of a docstring's section ``Attributes``, by name.

    >>> _attributes("Things.\n\nAttributes:\n    rate: of learning,\n        above 0.\n    bins: cells.\n")
    {'rate': 'of learning, above 0.', 'bins': 'cells.'}
    """
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    entries: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        entry = re.match(r"    (\w+): (.*)", line)
        if entry:
            name = entry[1]
            entries[name] = entry[2].strip()
        elif line.startswith("     ") and name:
            entries[name] += f" {line.strip()}"
        elif line.strip():
            break
    return entries
