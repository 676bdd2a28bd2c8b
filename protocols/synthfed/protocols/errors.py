"""The errors of synthfed, named by who must act on them, and a validator's findings in plain words.

Never carries a record, a value from a record, a secret or a vector in its message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # the root command catches these errors and must not load pydantic for it
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class SynthfedError(Exception):
    """Something a person must act on; the message is one sentence that says what to do."""


class ConfigError(SynthfedError):
    """A file, option or environment is wrong; the operator must mend it."""

    def __init__(self, message: str, *, where: str = "") -> None:
        """Store ``message``, prefixed by ``where`` (file and field) when it is known."""
        super().__init__(f"{where}: {message}" if where else message)


class StudyError(ConfigError):
    """A study's terms cannot be run; whoever knows the study's file puts its name in front."""


class DataError(SynthfedError):
    """A site's table does not fit the schema; names columns and numbers of rows, never a value."""


class LocalProtocolError(SynthfedError):
    """This program broke its own protocol: a bug to report."""


class RemoteProtocolError(SynthfedError):
    """A peer sent something that the protocol does not allow at this point."""

    def __init__(self, message: str, *, peer: str = "peer") -> None:
        """Store ``message``, prefixed by the name of the peer that broke the protocol."""
        super().__init__(f"{peer}: {message}")
        self.peer = peer


class PrivacyError(SynthfedError):
    """Going on would break a privacy promise; nobody catches this and goes on."""


class BudgetExceeded(PrivacyError):
    """A charge would pass a cap of the study or a ceiling of the site."""


class UnsupportedMechanism(PrivacyError):
    """A query that the accountant cannot bound; unknown means refuse."""


class PluginError(SynthfedError):
    """A plugin is missing or misbehaves; names the plugin and its distribution."""

    def __init__(self, message: str, *, plugin: str, distribution: str = "") -> None:
        """Store ``message`` with the plugin's name and, where there is one, the distribution it came from."""
        origin = f" (distribution {distribution})" if distribution else ""
        super().__init__(f"plugin {plugin!r}{origin}: {message}")
        self.plugin = plugin
        self.distribution = distribution


class TransportError(SynthfedError):
    """A connection failed; trying again later may succeed."""


class QuorumLost(SynthfedError):
    """Fewer sites than the study's quorum are left; the study pauses at its last checkpoint."""


_LONGEST_SHOWN: Final = 24
_LONGEST_NAME: Final = 64
_NAMED: Final = {"columns": ("column", "name"), "sites": ("site", "id"), "constraints": ("constraint", "")}
"""Lists whose entries have a word: what an entry is, and the field of its name; without one it is counted."""

_ABSENT: Final = ("missing", "union_tag_not_found")
_WORDS: Final = {
    **dict.fromkeys(_ABSENT, "is missing; add it"),
    "extra_forbidden": "is not a known field; remove it or mend its spelling",
    "greater_than": "must be greater than {gt}{shown}",
    "greater_than_equal": "must be at least {ge}{shown}",
    "less_than": "must be less than {lt}{shown}",
    "less_than_equal": "must be at most {le}{shown}",
    "finite_number": "must be a finite number{shown}",
    "float_type": "must be a number{shown}",
    **dict.fromkeys(("int_type", "int_from_float"), "must be a whole number{shown}"),
    "bool_type": "must be true or false{shown}",
    "string_type": "must be text in quotes{shown}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "does not have the form that is expected here",
    "literal_error": "must be {expected}{shown}",
    "union_tag_invalid": "must be one of {expected_tags}{shown}",
    "too_short": "must list at least {min_length} (lists {actual_length})",
    "too_long": "must list at most {max_length} (lists {actual_length})",
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list in brackets"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a table of fields"),
    "json_invalid": "is not valid JSON ({error})",
}
"""What is allowed, by the type of the validator's finding; the limits stand in its context."""


def describe(error: ValidationError, document: object = None) -> str:
    """Return a validator's first finding as ``field: what is allowed``, and how many more there are.

    Args:
        error: what the validator raised.
        document: what it was given, nested dicts and lists; columns and sites are then named, not counted.
    """
    # An unknown field first: it is mostly the misspelt twin of one that is then missing.
    findings = sorted(error.errors(include_url=False), key=lambda finding: finding["type"] != "extra_forbidden")
    # A list counts as too short without its wrong entries; that is not a finding of its own.
    places = [finding["loc"] for finding in findings if finding["type"] != "too_short"]
    findings = [
        finding
        for finding in findings
        if finding["type"] != "too_short" or all(place[: len(finding["loc"])] != finding["loc"] for place in places)
    ]
    first, more = findings[0], len(findings) - 1
    place = _printable(_place(first, document))
    return (f"{place}: " if place else "") + _words(first) + (f" (and {more} more)" if more else "")


def _printable(place: str) -> str:
    """Return a place in which nothing steers a terminal: who sends a file may name its unknown fields at will."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in place)


def _words(finding: ErrorDetails) -> str:
    words = _WORDS.get(finding["type"])
    if words is None:
        return finding["msg"].removeprefix("Value error, ")
    limits = finding.get("ctx", {}).items()
    context = {name: int(each) if isinstance(each, float) and each.is_integer() else each for name, each in limits}
    return words.format(**context, shown=_shown(context.get("tag", finding["input"])))


def _place(finding: ErrorDetails, document: Any) -> str:
    """Return where a finding is: dotted fields, with the entries of lists by name or number."""
    discriminator = finding.get("ctx", {}).get("discriminator")
    location = (*finding["loc"], *([] if discriminator is None else [discriminator.strip("'")]))
    place, fields = "", list[str]()
    for depth, part in enumerate(location, 1):
        if isinstance(part, int):
            document = document[part] if isinstance(document, list) else None
            place, fields = f"{place}{_entry(fields, part, document)}: ", []
            continue
        is_absent = finding["type"] in _ABSENT and depth == len(location)
        if isinstance(document, dict) and part not in document and not is_absent:
            continue  # not a field but the tag of a union
        fields.append(part)
        document = document.get(part) if isinstance(document, dict) else None
    return (place + ".".join(fields)).removesuffix(": ")


def _entry(fields: list[str], index: int, entry: object) -> str:
    what, field = _NAMED.get(fields[-1], ("", "")) if fields else ("", "")
    name = entry.get(field) if isinstance(entry, dict) else None
    if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME:
        return f"{what} {name!r}"
    if what:
        return f"{what} {index + 1}"
    return f"entry {index + 1}" + (f" of {'.'.join(fields)}" if fields else "")


def _shown(value: object) -> str:
    """Return a wrong value in brackets where it is a short one."""
    if isinstance(value, bool):
        return f" (is {str(value).lower()})"
    if isinstance(value, float | str) or (isinstance(value, int) and value.bit_length() <= 64):
        text = repr(value)
        return f" (is {text})" if len(text) <= _LONGEST_SHOWN else ""
    return ""
