"""Code columns of health records: a category that ends in ``*`` stands for every code below it.

Never forms a group from the codes that patients have: which groups there are, the schema says.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from synthfed.protocols.schema import Categorical

from .draft import FEW
from .parts import Strings

ANY: Final = "*"
"""The group of every code that is in no other."""

# Chapters of the International Classification of Diseases: the tenth revision (WHO 2019, with the
# wider ends of its clinical modification, NCHS 2024), and the clinical modification of the ninth
# (NCHS 2011), whose E and V codes are chapters by their first letter.
ICD10: Final = (
    "A00-B99", "C00-D49", "D50-D89", "E00-E90", "F00-F99", "G00-G99", "H00-H59", "H60-H95", "I00-I99", "J00-J99",
    "K00-K95", "L00-L99", "M00-M99", "N00-N99", "O00-O99", "P00-P96", "Q00-Q99", "R00-R99", "S00-T98", "U00-U99",
    "V00-Y99", "Z00-Z99",
)  # fmt: skip
ICD9: Final = (
    "001-139", "140-239", "240-279", "280-289", "290-319", "320-389", "390-459", "460-519", "520-579", "580-629",
    "630-679", "680-709", "710-739", "740-759", "760-779", "780-799", "800-999", "E", "V",
)  # fmt: skip

_STEM: Final = 3  # characters of an ICD category, such as I10 or 250
_FREQUENT: Final = 0.01  # of the rows: a category that so many have is drafted as a group of its own
_CODE9: Final = re.compile(r"(\d{1,3}|V\d{2}|E\d{3})(\.\d{1,2})?")
_CODE10: Final = re.compile(r"[A-Z]\d[0-9A-Z](\.?[0-9A-Z]{1,4})?")
_NAMED: Final = re.compile(r"(diag|dx|icd)", re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9A-Za-z]+)-([0-9A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups that a column's categories define, the narrowest first.

    Attributes:
        listed: the categories that stand for themselves.
        prefixes: beginnings of codes, the longest first.
        ranges: pairs of first and last beginning, of one length each, in the order of the schema.
        has_rest: whether there is a group of all other codes.
    """

    listed: frozenset[str]
    prefixes: tuple[str, ...]
    ranges: tuple[tuple[str, str], ...]
    has_rest: bool

    def of(self, code: str) -> str:
        """Return the category of a code; the code itself where no category takes it."""
        if code in self.listed or not code:
            return code
        whole = _padded(code)
        if prefix := next((each for each in self.prefixes if whole.startswith(each)), ""):
            return prefix + ANY
        for first, last in self.ranges:
            if first <= whole[: len(first)] <= last:
                return f"{first}-{last}{ANY}"
        return ANY if self.has_rest else code


def groups_of(column: Categorical) -> Groups | None:
    """Return the groups of a column; None if it lists plain categories only.

    A category ``I10*`` takes every code that begins with I10, ``I00-I99*`` every code whose first
    characters lie between, ``*`` all others; the narrowest wins: a code that is listed itself, the
    longest beginning, then the ranges. A number of fewer than three digits counts with zeros before it.

    >>> groups = groups_of(Categorical(name="diagnosis", values=("E11.9", "E11*", "E00-E90*", "*")))
    >>> [groups.of(code) for code in ("E11.9", "E11.2", "E78.0", "I10", "")]
    ['E11.9', 'E11*', 'E00-E90*', '*', '']
    """
    bodies = [value.removesuffix(ANY) for value in column.values if value.endswith(ANY)]
    if not bodies:
        return None
    ranges = [match.groups() for body in bodies if (match := _RANGE.fullmatch(body))]
    prefixes = [body for body in bodies if body and not _RANGE.fullmatch(body)]
    return Groups(
        listed=frozenset(value for value in column.values if not value.endswith(ANY)),
        prefixes=tuple(sorted(prefixes, key=len, reverse=True)),
        ranges=tuple((first, last) for first, last in ranges),
        has_rest="" in bodies,
    )


def problem_of(column: Categorical) -> str:
    """Return what is wrong with a column's groups, empty if nothing: ends of unequal length or in the wrong order."""
    groups = groups_of(column)
    wrong = (
        [f"{low}-{high}{ANY}" for low, high in groups.ranges if len(low) != len(high) or low > high] if groups else []
    )
    return f"has the range {wrong[0]!r}, whose ends must be of one length and in order" if wrong else ""


def draft_codes(name: str, cells: Strings) -> Categorical | None:
    """Return a code column of frequent categories, chapters and the rest from public cells; None if these are none.

    Codes of diseases are known by their form and, where they look like mere numbers, by the
    column's name (``diag...``, ``dx...``, ``icd...``). Every site may lack a code: the column may be missing.
    """
    known = [cell for cell in cells if cell]
    forms = {form: all(map(form.fullmatch, known)) for form in (_CODE9, _CODE10)}
    if not any(forms.values()) or len(set(known)) <= FEW:
        return None
    if all(cell.replace(".", "", 1).isdecimal() for cell in known) and not _NAMED.match(name):
        return None
    chapters: Sequence[str] = ICD9 if forms[_CODE9] else ICD10
    stems = Counter(_padded(cell)[:_STEM] for cell in known)
    frequent = sorted(stem for stem, count in stems.items() if count >= _FREQUENT * len(cells))
    values = [*(f"{stem}{ANY}" for stem in frequent), *(f"{chapter}{ANY}" for chapter in chapters), ANY]
    return Categorical(name=name, values=tuple(values), missing=True)


def _padded(code: str) -> str:
    """Return a code with the leading zeros of its number, which tables often drop: 038.9 stands there as 38.9."""
    stem, dot, rest = code.partition(".")
    return (stem.zfill(_STEM) if stem.isdecimal() else stem) + dot + rest
