"""When a site is open: spans of the week in the site's own time zone.

Never looks at a clock itself: the time is an argument.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES: Final = 24 * 60
_WEEK_MINUTES: Final = 7 * _DAY_MINUTES
_DAY: Final = f"({'|'.join(_DAYS)})"
_SPAN: Final = re.compile(rf"{_DAY}(?:-{_DAY})? +([0-9]{{2}}):([0-9]{{2}})-([0-9]{{2}}):([0-9]{{2}})")
_OFFSET: Final = re.compile(r"([+-])([0-9]{2}):([0-9]{2})")


@dataclass(frozen=True, slots=True)
class Hours:
    """Opening hours.

    Attributes:
        spans: first minute and the one after the last, from Monday 00:00; an end may lie in the next week.
        zone: whose clocks they are by.
    """

    spans: tuple[tuple[int, int], ...]
    zone: tzinfo

    def is_open(self, now_unix_s: float) -> bool:
        """Return whether a time lies in one of the spans, in seconds since 1970."""
        now = datetime.fromtimestamp(now_unix_s, self.zone)
        minute = now.weekday() * _DAY_MINUTES + now.hour * 60 + now.minute
        return any(start <= at < end for start, end in self.spans for at in (minute, minute + _WEEK_MINUTES))


def parse_hours(spans: Sequence[str], zone: str) -> Hours:
    """Return the hours that texts such as ``mon-fri 08:00-18:00`` state.

    A span that ends before it begins ends on the next day; ``24:00`` is the end of a day.

    Raises:
        ValueError: naming the text that is wrong.

    >>> parse_hours(["fri 22:00-06:00"], "UTC").spans
    ((7080, 7560),)
    """
    return Hours(tuple(each for text in spans for each in _parse_span(text)), _parse_zone(zone))


def _parse_span(text: str) -> list[tuple[int, int]]:
    found = _SPAN.fullmatch(text.strip().lower())
    if not found:
        raise ValueError(f'{text!r} is not of the form "mon-fri 08:00-18:00"')
    first, last, *clock = found.groups()
    hour, minute, end_hour, end_minute = map(int, clock)
    start, end = hour * 60 + minute, end_hour * 60 + end_minute
    if minute > 59 or end_minute > 59 or start >= _DAY_MINUTES or end > _DAY_MINUTES:
        raise ValueError(f"{text!r} names a time that no day has; use 00:00 to 24:00")
    if start == end:
        raise ValueError(f'{text!r} begins when it ends; for a whole day write "{first} 00:00-24:00"')
    length = end - start if end > start else end - start + _DAY_MINUTES
    begins, many = _DAYS.index(first), (_DAYS.index(last or first) - _DAYS.index(first)) % 7 + 1
    starts = [(begins + day) % 7 * _DAY_MINUTES + start for day in range(many)]
    return [(each, each + length) for each in starts]


def _parse_zone(zone: str) -> tzinfo:
    fixed = _OFFSET.fullmatch(zone)
    if fixed:
        sign, hours, minutes = fixed.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        if int(minutes) > 59 or offset > timedelta(hours=14):
            raise ValueError(f"{zone!r} is no offset that clocks have; use one up to 14:00")
        return timezone(offset if sign == "+" else -offset)
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f'{zone!r} is not a time zone that this machine knows; use one such as "Europe/Berlin", or "+01:00"'
        ) from None
