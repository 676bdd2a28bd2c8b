"""Opening hours: what their texts mean, minute by minute, in zones with summer time, and what is no such text."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthfed.client.hours import parse_hours

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "+05:45", "-03:30")


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("spans", "time", "is_open"),
    [
        (["mon-fri 08:00-18:00"], "2026-11-23T07:59:59", False),  # a Monday
        (["mon-fri 08:00-18:00"], "2026-11-23T08:00:00", True),
        (["mon-fri 08:00-18:00"], "2026-11-27T17:59:59", True),
        (["mon-fri 08:00-18:00"], "2026-11-27T18:00:00", False),
        (["mon-fri 08:00-18:00"], "2026-11-28T12:00:00", False),
        (["mon-fri 08:00-18:00", "sat 09:00-12:00"], "2026-11-28T11:00:00", True),
        (["fri-mon 20:00-24:00"], "2026-11-29T23:59:59", True),
        (["fri-mon 20:00-24:00"], "2026-11-30T00:00:00", False),
        (["fri-mon 20:00-24:00"], "2026-12-01T21:00:00", False),
        (["sun 22:00-06:00"], "2026-11-29T23:00:00", True),
        (["sun 22:00-06:00"], "2026-11-30T05:59:59", True),  # the week ends inside the span
        (["sun 22:00-06:00"], "2026-11-30T06:00:00", False),
        (["sun 22:00-06:00"], "2026-11-29T05:00:00", False),
        (["MON-SUN  00:00-24:00 "], "2026-11-29T05:00:00", True),
    ],
)
def test_a_span_holds_from_its_first_minute_to_before_its_last(spans: list[str], time: str, is_open: bool) -> None:
    assert parse_hours(spans, "UTC").is_open(at(time)) == is_open


def test_hours_are_those_of_the_sites_own_clocks_in_summer_and_winter() -> None:
    hours = parse_hours(["mon-fri 08:00-18:00"], "Europe/Berlin")
    for day in ("2026-07-20", "2026-11-23"):
        assert hours.is_open(at(f"{day}T08:00:00", "Europe/Berlin"))
        assert not hours.is_open(at(f"{day}T07:59:00", "Europe/Berlin"))
    assert parse_hours(["mon 08:00-09:00"], "+05:45").is_open(at("2026-11-23T02:15:00"))
    assert not parse_hours(["mon 08:00-09:00"], "-05:45").is_open(at("2026-11-23T02:15:00"))


minutes = st.integers(0, 24 * 60 - 1)


@given(st.sampled_from(DAYS), st.sampled_from(DAYS), minutes, minutes, st.sampled_from(ZONES), st.integers(0, 2**31))
def test_a_site_is_open_exactly_where_a_look_at_calendar_and_clock_says_so(
    first: str, last: str, start: int, end: int, zone: str, now: int
) -> None:
    if start == end:
        return
    text = f"{first}-{last} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    hours = parse_hours([text], zone)
    days = [DAYS.index(first)]
    while days[-1] != DAYS.index(last):
        days.append((days[-1] + 1) % 7)
    local = datetime.fromtimestamp(now, UTC).astimezone(hours.zone)
    minute, yesterday = local.hour * 60 + local.minute, (local.date() - timedelta(days=1)).weekday()
    if start < end:
        expected = local.weekday() in days and start <= minute < end
    else:
        expected = (local.weekday() in days and minute >= start) or (yesterday in days and minute < end)
    assert hours.is_open(now) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("monday 08:00-18:00", "is not of the form"),
        ("mon-fri 8:00-18:00", "is not of the form"),
        ("mon-fri", "is not of the form"),
        ("", "is not of the form"),
        ("mon 08:00-18:00 and tue", "is not of the form"),
        ("mon 08:60-18:00", "names a time that no day has"),
        ("mon 24:00-06:00", "names a time that no day has"),
        ("mon 08:00-24:01", "names a time that no day has"),
        ("mon-fri 08:00-08:00", 'for a whole day write "mon 00:00-24:00"'),
    ],
)
def test_a_text_that_is_no_span_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_hours([text], "UTC")


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../etc/passwd", "/etc/localtime", "", "+25:00", "+01:60", "1h"])
def test_a_zone_that_this_machine_does_not_know_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match=r"time zone that this machine knows|offset that clocks have"):
        parse_hours(["mon 08:00-18:00"], zone)
