"""Times and dates: exact, refused by name when they are not what they must be, and monotone where that is promised."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pks.base.clock import (
    NS_PER_DAY,
    NS_PER_SECOND,
    TIME_NS_MAX,
    TIME_NS_MIN,
    ManualClock,
    StrictlyRecorded,
    SystemClock,
    format_date,
    format_time,
    parse_date,
    parse_time,
    time_from_ms,
    zone_date,
    zone_day_end,
    zone_day_start,
)
from pks.base.errors import Code, Refused

NOON_2025 = 1_741_953_600 * NS_PER_SECOND  # 2025-03-14T12:00:00Z
ZONES = [
    "UTC",
    "UTC+3",
    "UTC-05:30",
    "UTC+14",
    "Europe/Moscow",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Beirut",
]
DAYS = st.integers(date(1900, 1, 1).toordinal() - 719163, date(2200, 1, 1).toordinal() - 719163)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("2025-03-14T12:00:00Z", NOON_2025),
        ("2025-03-14t12:00:00z", NOON_2025),
        ("2025-03-14 12:00:00Z", NOON_2025),
        ("2025-03-14T15:00:00+03:00", NOON_2025),
        ("2025-03-14T06:30:00-05:30", NOON_2025),
        ("2025-03-14T12:00:00-00:00", NOON_2025),
        ("2025-03-14T12:00:00.5Z", NOON_2025 + 500_000_000),
        ("2025-03-14T12:00:00.123456789Z", NOON_2025 + 123_456_789),
        ("2025-03-14T12:00:00.12345678900Z", NOON_2025 + 123_456_789),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * NS_PER_SECOND),
        ("2262-04-11T23:47:16.854775807Z", TIME_NS_MAX),
        ("1677-09-21T00:12:43.145224192Z", TIME_NS_MIN),
    ],
)
def test_parse_time(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("2025-03-14T12:00:00", Code.BAD_TIME),
        ("2025-03-14", Code.BAD_TIME),
        ("", Code.BAD_TIME),
        ("now", Code.BAD_TIME),
        ("2025-03-14T12:00Z", Code.BAD_TIME),
        ("2025-3-14T12:00:00Z", Code.BAD_TIME),
        ("20250314T120000Z", Code.BAD_TIME),
        ("2025-03-14T12:00:00.Z", Code.BAD_TIME),
        ("2025-03-14T12:00:00,5Z", Code.BAD_TIME),
        ("2025-03-14T12:00:00Z ", Code.BAD_TIME),
        ("2025-03-14T12:00:00Z\n", Code.BAD_TIME),
        ("2025-03-14T12:00:00+3", Code.BAD_TIME),
        ("2025-03-14T12:00:00+24:00", Code.BAD_TIME),
        ("2025-03-14T12:00:00+03:60", Code.BAD_TIME),
        ("2025-03-14T24:00:00Z", Code.BAD_TIME),
        ("2025-03-14T12:60:00Z", Code.BAD_TIME),
        ("2025-03-14T23:59:60Z", Code.BAD_TIME),
        ("2025-02-29T12:00:00Z", Code.BAD_TIME),
        ("2025-13-01T12:00:00Z", Code.BAD_TIME),
        ("0000-01-01T12:00:00Z", Code.BAD_TIME),
        ("\u0662\u0660\u0662\u0665-03-14T12:00:00Z", Code.BAD_TIME),  # digits, but not ASCII ones
        ("2025-03-14T12:00:00.1234567891Z", Code.OVER_PRECISE),
        ("1677-09-21T00:12:43.145224191Z", Code.TIME_TOO_OLD),
        ("0001-01-01T00:00:00Z", Code.TIME_TOO_OLD),
        ("2262-04-11T23:47:16.854775808Z", Code.TIME_IN_FUTURE),
        ("9999-12-31T23:59:59Z", Code.TIME_IN_FUTURE),
    ],
)
def test_parse_time_refuses_by_name(text: str, code: Code) -> None:
    with pytest.raises(Refused) as caught:
        parse_time(text, "time")
    assert (caught.value.code, caught.value.field, caught.value.value) == (code, "time", text)


def test_a_time_without_zone_is_utc_only_where_the_header_says_so() -> None:
    assert parse_time("2025-03-14 12:00:00.25", assume_utc=True) == NOON_2025 + 250_000_000
    assert parse_time("2025-03-14T15:00:00+03:00", assume_utc=True) == NOON_2025


@given(st.integers(TIME_NS_MIN, TIME_NS_MAX))
def test_format_and_parse_are_inverse(time_ns: int) -> None:
    assert parse_time(format_time(time_ns)) == time_ns
    assert parse_time(format_time(time_ns, 9)) == time_ns


@given(st.integers(TIME_NS_MIN // 1000, TIME_NS_MAX // 1000))
def test_format_agrees_with_datetime(time_us: int) -> None:
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    assert format_time(time_us * 1000, 6) == expected.strftime("%Y-%m-%dT%H:%M:%S.%fZ").zfill(27)


def test_format_time_cuts_and_never_rounds() -> None:
    assert format_time(NOON_2025 + 999_999_999, 3) == "2025-03-14T12:00:00.999Z"
    assert format_time(NOON_2025 + 1, 0) == "2025-03-14T12:00:00Z"
    assert format_time(NOON_2025 + 120_000_000) == "2025-03-14T12:00:00.12Z"


def test_time_from_ms() -> None:
    assert time_from_ms(1_741_953_600_123) == NOON_2025 + 123_000_000
    assert time_from_ms("1741953600123") == NOON_2025 + 123_000_000
    assert time_from_ms(-1) == -1_000_000


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("1741953600.123", Code.BAD_TIME),
        ("", Code.BAD_TIME),
        ("1e12", Code.BAD_TIME),
        ("1" * 20, Code.BAD_TIME),
        (True, Code.BAD_TIME),
        (1.5, Code.BAD_TIME),
        (10**16, Code.TIME_IN_FUTURE),
        (-(10**16), Code.TIME_TOO_OLD),
    ],
)
def test_time_from_ms_refuses_by_name(value: object, code: Code) -> None:
    with pytest.raises(Refused) as caught:
        time_from_ms(value)  # type: ignore[arg-type]
    assert caught.value.code is code


@given(st.dates())
def test_dates_there_and_back(day: date) -> None:
    days = parse_date(day.isoformat())
    assert days == (day - date(1970, 1, 1)).days
    assert format_date(days) == day.isoformat()


@pytest.mark.parametrize(
    "text", ["", "2025-02-30", "20250314", "2025-3-14", "14/03/2025", "2025-03-14T00:00:00Z", "2025-W11-5", "0000-01-01"]
)
def test_parse_date_refuses_by_name(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_date(text, "settle_date")
    assert (caught.value.code, caught.value.field) == (Code.BAD_DATE, "settle_date")


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2025-03-14T20:59:59.999999999Z", "UTC+3", "2025-03-14"),
        ("2025-03-14T21:00:00Z", "UTC+3", "2025-03-15"),
        ("2025-03-14T21:00:00Z", "Europe/Moscow", "2025-03-15"),
        ("2025-03-14T05:29:59Z", "UTC-05:30", "2025-03-13"),
        ("2025-03-14T05:30:00Z", "UTC-0530", "2025-03-14"),
        ("2025-03-14T23:59:59.999999999Z", "UTC", "2025-03-14"),
        ("1969-12-31T23:59:59.999999999Z", "UTC", "1969-12-31"),
        ("2025-03-09T04:59:59Z", "America/New_York", "2025-03-08"),  # winter time until 2 o'clock that day
        ("2025-03-10T04:00:00Z", "America/New_York", "2025-03-10"),  # summer time after it
    ],
)
def test_zone_date(text: str, zone: str, expected: str) -> None:
    assert format_date(zone_date(parse_time(text), zone)) == expected


@pytest.mark.parametrize("zone", ["Europe/Moscow", "America/New_York", "Australia/Lord_Howe"])
@given(time_ns=st.integers(TIME_NS_MIN, TIME_NS_MAX))
def test_zone_date_agrees_with_zoneinfo(zone: str, time_ns: int) -> None:
    moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time_ns // NS_PER_SECOND)).astimezone(ZoneInfo(zone))
    assert format_date(zone_date(time_ns, zone)) == moment.date().isoformat()


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "Europe", "../etc/passwd", "/etc/localtime", "UTC+15", "UTC+3:99", "+3", "a\0b"])
def test_unknown_zone_is_refused_by_name(zone: str) -> None:
    with pytest.raises(Refused) as caught:
        zone_date(0, zone)
    assert (caught.value.code, caught.value.value) == (Code.UNKNOWN_ZONE, zone)


@pytest.mark.parametrize("zone", ZONES)
@given(days=DAYS)
def test_a_day_in_a_zone_ends_where_the_next_begins(zone: str, days: int) -> None:
    start, end = zone_day_start(days, zone), zone_day_end(days, zone)
    assert zone_date(start - 1, zone) == days - 1
    assert zone_date(start, zone) == days
    assert zone_date(end, zone) == days
    assert zone_date(end + 1, zone) == days + 1
    assert 22 * 3600 * NS_PER_SECOND < end - start < 26 * 3600 * NS_PER_SECOND


def test_a_date_beyond_64_bits_has_no_bounds() -> None:
    for days in (parse_date("9999-12-31"), parse_date("0001-01-01"), parse_date("2262-04-12")):
        with pytest.raises(Refused) as caught:
            zone_day_end(days, "UTC")
        assert caught.value.code is Code.OUT_OF_RANGE


def test_system_clock_is_the_machines() -> None:
    clock = SystemClock()
    before, now, after = time.time_ns(), clock.wall_ns(), time.time_ns()
    assert before - NS_PER_DAY < now < after + NS_PER_DAY
    before, now, after = time.monotonic_ns(), clock.monotonic_ns(), time.monotonic_ns()
    assert before <= now <= after


def test_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(1000, 7)
    assert (clock.wall_ns(), clock.monotonic_ns()) == (1000, 7)
    clock.advance(5)
    clock.set_wall(10)
    assert (clock.wall_ns(), clock.monotonic_ns()) == (10, 12)
    with pytest.raises(AssertionError):
        clock.advance(-1)


def test_recorded_times_hold_while_the_wall_clock_is_behind() -> None:
    clock = ManualClock(1000)
    recorded = StrictlyRecorded(clock, last_ns=900)
    assert recorded.next_ns() == 1000
    clock.set_wall(400)
    assert (recorded.next_ns(), recorded.behind_ns) == (1000, 600)
    clock.set_wall(1000)
    assert (recorded.next_ns(), recorded.behind_ns) == (1000, 0)
    clock.set_wall(1001)
    assert recorded.next_ns() == 1001


@given(st.lists(st.integers(-(10**12), 10**12)), st.integers(-(10**12), 10**12))
def test_recorded_times_never_step_back(steps: list[int], last_ns: int) -> None:
    clock = ManualClock(0)
    recorded, previous = StrictlyRecorded(clock, last_ns), last_ns
    for wall_ns in steps:
        clock.set_wall(wall_ns)
        now = recorded.next_ns()
        assert now == max(previous, wall_ns)
        previous = now
