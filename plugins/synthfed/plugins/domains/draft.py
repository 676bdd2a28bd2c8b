"""Drafting a schema from a public or dummy table, for the study's author to correct.

Never meant for private records: bounds and categories that it proposes are those of the file.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import MAX_CATEGORIES, Categorical, Integer, Real, Scalar

FEW: Final = 12  # so many distinct numbers are still drafted as categories
MAX_DECIMALS: Final = 6
LONG_TAIL: Final = 20.0  # the maximum over the 90 % quantile
SKEW: Final = 3.0


def draft_columns(path: Path, cells: Mapping[str, Sequence[str]], *, exclude: Collection[str]) -> tuple[Scalar, ...]:
    """Return a column for each of the file's columns but those in ``exclude``.

    Few distinct values or texts become categories, whole numbers integers, other numbers reals with
    bounds rounded outward to two significant digits; a long tail gets the log scale.

    Raises:
        ConfigError: naming a column that cannot be learnt (a free text, a key, nothing) or is not there.
    """
    check_dropped(path, cells, exclude)
    kept = {name: column for name, column in cells.items() if name not in exclude}
    if not kept:
        raise ConfigError("has no columns left; drop fewer", where=str(path))
    return tuple(_draft(path, name, column) for name, column in kept.items())


def check_dropped(path: Path, names: Collection[str], exclude: Collection[str]) -> None:
    """Refuse to drop, with a ConfigError, a column that is not among the names."""
    unknown = [name for name in exclude if name not in names]
    if unknown:
        raise ConfigError(f"has no column {unknown[0]!r} to drop; check the spelling", where=str(path))


def _draft(path: Path, name: str, cells: Sequence[str]) -> Scalar:
    known = [cell for cell in cells if cell != ""]
    missing = len(known) < len(cells)
    distinct = set(known)
    if not known:
        raise ConfigError(f"column {name!r} is empty; drop it with `--drop {name}`", where=str(path))
    numbers = _numbers(distinct)
    if numbers is not None and len(distinct) <= FEW:
        return Categorical(name=name, values=tuple(sorted(distinct, key=float)), missing=missing)
    if numbers is not None:
        return _draft_number(name, np.array(known, dtype=np.float64), distinct, missing=missing)
    if len(distinct) > MAX_CATEGORIES or (len(distinct) > FEW and len(distinct) > len(known) / 2):
        raise ConfigError(
            f"column {name!r} holds too many different texts to learn ({len(distinct)} in {len(known)} rows); "
            f"drop it with `--drop {name}`",
            where=str(path),
        )
    return Categorical(name=name, values=tuple(sorted(distinct)), missing=missing)


def _draft_number(name: str, values: npt.NDArray[np.float64], texts: Collection[str], *, missing: bool) -> Scalar:
    low, high = outward(float(values.min()), -1), outward(float(values.max()), 1)
    scale: Literal["linear", "log"] = "log" if is_long_tailed(values) else "linear"
    if np.all(values == np.rint(values)):
        return Integer(name=name, lower=math.floor(low), upper=math.ceil(high), scale=scale, missing=missing)
    decimals = min(MAX_DECIMALS, max(len(text.partition(".")[2]) for text in texts))
    return Real(name=name, lower=low, upper=high, scale=scale, decimals=decimals, missing=missing)


def _numbers(texts: Collection[str]) -> list[float] | None:
    """Return the texts as finite numbers, or None if one is not."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def outward(value: float, direction: Literal[-1, 1]) -> float:
    """Return the next number with two significant digits below (-1) or above (1) the value.

    >>> outward(39182.0, 1), outward(-0.123, -1), outward(0.0, 1)
    (40000.0, -0.13, 0.0)
    """
    if value == 0.0:
        return 0.0
    places = 1 - math.floor(math.log10(abs(value)))
    steps = round(value * 10.0**places, 9)  # 0.3 * 10 must not count as a little more than 3
    return round((math.floor(steps) if direction < 0 else math.ceil(steps)) / 10.0**places, max(places, 0))


def is_long_tailed(values: npt.NDArray[np.float64]) -> bool:
    """Return whether non-negative values have a maximum or a skewness far beyond that of a bell."""
    if values.min() < 0:
        return False
    spread = float(values.std())
    skewness = float(np.mean(((values - values.mean()) / spread) ** 3))
    return bool(values.max() > LONG_TAIL * np.quantile(values, 0.9) or skewness > SKEW)
