"""Time: clocks that can be replaced, and times and dates as integers and as text.

Owns every reading of the machine's clocks in Python, the RFC 3339 and ISO 8601 forms, and dates in a zone. Anyone may call it;
engine code takes times as values and never a clock. No float holds a time here. Times are int nanoseconds since
1970-01-01T00:00:00Z without leap seconds (`_ns`); dates are int days since 1970-01-01 (`_date`).
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from pks.base.errors import Code, Refused

NS_PER_SECOND = 1_000_000_000
NS_PER_MS = 1_000_000
SECONDS_PER_DAY = 86_400
NS_PER_DAY = SECONDS_PER_DAY * NS_PER_SECOND

TIME_NS_MIN, TIME_NS_MAX = -(1 << 63), (1 << 63) - 1
"""What an int64 of nanoseconds can hold: from 1677-09-21 to 2262-04-11."""

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))?", re.ASCII)
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FIXED_ZONE = re.compile(r"(?:UTC|GMT)([+-])(\d{1,2})(?::?(\d\d))?", re.ASCII)
_MILLISECONDS = re.compile(r"-?\d{1,19}", re.ASCII)


class Clock(Protocol):
    """Where a worker's times come from."""

    def wall_ns(self) -> int:
        """UTC; may step in either direction when the machine's clock is set."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC: one scale for all processes of the host since its start; never steps back."""


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class ManualClock:
    """A clock that moves only when told, for tests and replays."""

    def __init__(self, wall_ns: int, monotonic_ns: int = 0) -> None:
        self._wall_ns, self._monotonic_ns = wall_ns, monotonic_ns

    def wall_ns(self) -> int:
        return self._wall_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance(self, duration_ns: int) -> None:
        """Let `duration_ns` >= 0 pass on both scales."""
        assert duration_ns >= 0, "time passes forward; use set_wall for a step of the wall clock"
        self._wall_ns += duration_ns
        self._monotonic_ns += duration_ns

    def set_wall(self, wall_ns: int) -> None:
        """Step the wall clock, backward too; the monotonic scale does not move."""
        self._wall_ns = wall_ns


class StrictlyRecorded:
    """Recorded times of one writer: the wall clock's, but never before the last one given out (design section 2).

    After a start, `last_ns` is the recorded time of the journal's last event.
    """

    def __init__(self, clock: Clock, last_ns: int = TIME_NS_MIN) -> None:
        self._clock, self.last_ns = clock, last_ns

    def next_ns(self) -> int:
        """A recorded time for the next event: the last one again while the wall clock is behind it."""
        self.last_ns = max(self.last_ns, self._clock.wall_ns())
        return self.last_ns

    @property
    def behind_ns(self) -> int:
        """How far the wall clock is behind the last recorded time, >= 0: what a backward step has left to catch up."""
        return max(0, self.last_ns - self._clock.wall_ns())


def parse_time(text: str, field: str = "trade_time", assume_utc: bool = False) -> int:
    """Nanoseconds UTC of an RFC 3339 time with 0 to 9 fractional digits and "Z" or an offset.

    A blank may stand for the "T" (RFC 3339 section 5.6). assume_utc: take a time without a zone as UTC, for columns whose header
    says so. Raises Refused: BAD_TIME, OVER_PRECISE (a tenth digit that is not zero), and TIME_TOO_OLD or TIME_IN_FUTURE beyond int64.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise Refused(Code.BAD_TIME, field, text, "not of the form 2025-03-14T10:05:11.123456789Z")
    day, hour, minute, second, fraction, zulu, sign, offset_hour, offset_minute = match.groups()
    if zulu is None and sign is None and not assume_utc:
        raise Refused(Code.BAD_TIME, field, text, "has no zone: end it with Z or an offset like +03:00")
    if hour > "23" or minute > "59" or second > "59":
        reason = "a leap second has no place in UTC nanoseconds: use the second before it" if second == "60" else "no such time of day"
        raise Refused(Code.BAD_TIME, field, text, reason)
    days = _days_of_text(day)
    if days is None:
        raise Refused(Code.BAD_TIME, field, text, f"there is no day {day}")
    seconds = days * SECONDS_PER_DAY + int(hour) * 3600 + int(minute) * 60 + int(second)
    if sign is not None:
        if offset_hour > "23" or offset_minute > "59":
            raise Refused(Code.BAD_TIME, field, text, "no such offset")
        offset = int(offset_hour) * 3600 + int(offset_minute) * 60
        seconds += offset if sign == "-" else -offset
    time_ns = seconds * NS_PER_SECOND
    if fraction is not None:
        if len(fraction) > 9 and fraction[9:].strip("0"):
            raise Refused(Code.OVER_PRECISE, field, text, "finer than a nanosecond")
        time_ns += int(fraction[:9].ljust(9, "0"))
    return _in_range(time_ns, field, text)


def time_from_ms(milliseconds: int | str, field: str = "trade_time") -> int:
    """Nanoseconds UTC of an integer count of milliseconds since 1970, as venues send it. Raises Refused as `parse_time`."""
    if isinstance(milliseconds, str):
        if _MILLISECONDS.fullmatch(milliseconds) is None:
            raise Refused(Code.BAD_TIME, field, milliseconds, "not a whole number of milliseconds since 1970")
        return _in_range(int(milliseconds) * NS_PER_MS, field, milliseconds)
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int):
        raise Refused(Code.BAD_TIME, field, milliseconds, "not a whole number of milliseconds since 1970")
    return _in_range(milliseconds * NS_PER_MS, field, milliseconds)


def format_time(time_ns: int, digits: int | None = None) -> str:
    """RFC 3339 in UTC, with `digits` (0 to 9) fractional digits, the rest cut off; None shows all that are not trailing zeros."""
    assert digits is None or 0 <= digits <= 9, "a nanosecond has nine digits"
    days, in_day_ns = divmod(time_ns, NS_PER_DAY)
    seconds, fraction_ns = divmod(in_day_ns, NS_PER_SECOND)
    minutes, second = divmod(seconds, 60)
    fraction = f"{fraction_ns:09}"
    fraction = fraction.rstrip("0") if digits is None else fraction[:digits]
    return f"{format_date(days)}T{minutes // 60:02}:{minutes % 60:02}:{second:02}{'.' if fraction else ''}{fraction}Z"


def parse_date(text: str, field: str = "business_date") -> int:
    """Days since 1970-01-01 of an ISO date YYYY-MM-DD. Raises Refused: BAD_DATE."""
    if _ISO_DATE.fullmatch(text) is None:
        raise Refused(Code.BAD_DATE, field, text, "not of the form 2025-03-14")
    days = _days_of_text(text)
    if days is None:
        raise Refused(Code.BAD_DATE, field, text, "there is no such day")
    return days


def format_date(days: int) -> str:
    """ISO form of a date given as days since 1970-01-01; years 1 to 9999."""
    return date.fromordinal(days + _EPOCH_ORDINAL).isoformat()


def zone_date(time_ns: int, zone: str) -> int:
    """The date, in days since 1970-01-01, on which `time_ns` falls in `zone`: "UTC", "UTC+3", "UTC-05:30" or an IANA name.

    Raises Refused: UNKNOWN_ZONE.
    """
    offset = _zone(zone)
    if isinstance(offset, int):
        return (time_ns // NS_PER_SECOND + offset) // SECONDS_PER_DAY
    # Whole seconds since 1970 are exact as a timedelta; `fromtimestamp` would go through a float.
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time_ns // NS_PER_SECOND)
    return moment.astimezone(offset).toordinal() - _EPOCH_ORDINAL


def zone_day_start(days: int, zone: str) -> int:
    """The first nanosecond of a date in `zone`; also right where the clocks change at midnight.

    Raises Refused: UNKNOWN_ZONE, and OUT_OF_RANGE for a date whose times do not fit int64.
    """
    if not TIME_NS_MIN // NS_PER_DAY + 3 < days < TIME_NS_MAX // NS_PER_DAY - 3:
        raise Refused(Code.OUT_OF_RANGE, "date", days, "times of that date do not fit 64 bits of nanoseconds")
    # The date is earlier two days before and later two days after, in every zone, so halving ends at a border between them.
    low, high = (days - 2) * SECONDS_PER_DAY, (days + 2) * SECONDS_PER_DAY
    while low < high:
        middle = (low + high) // 2
        if zone_date(middle * NS_PER_SECOND, zone) < days:
            low = middle + 1
        else:
            high = middle
    return low * NS_PER_SECOND


def zone_day_end(days: int, zone: str) -> int:
    """The last nanosecond of a date in `zone`, which is an opening lot's trade time (design section 4). Raises as `zone_day_start`."""
    return zone_day_start(days + 1, zone) - 1


def _in_range(time_ns: int, field: str, value: object) -> int:
    if time_ns < TIME_NS_MIN:
        raise Refused(Code.TIME_TOO_OLD, field, value)
    if time_ns > TIME_NS_MAX:
        raise Refused(Code.TIME_IN_FUTURE, field, value)
    return time_ns


# A day's rows name a handful of dates; a file of 10 million rows over many years still fits.
@lru_cache(maxsize=4096)
def _days_of_text(text: str) -> int | None:
    try:
        return date.fromisoformat(text).toordinal() - _EPOCH_ORDINAL
    except ValueError:
        return None  # the caller has the field's name and the whole text for the refusal


@lru_cache(maxsize=1024)
def _zone(zone: str) -> int | tzinfo:
    """The zone's offset in seconds east of UTC where it is fixed, else its rules."""
    if zone in ("UTC", "GMT", "Z"):
        return 0
    match = _FIXED_ZONE.fullmatch(zone)
    if match is not None:
        sign, hours, minutes = match.groups()
        if int(hours) > 14 or int(minutes or 0) > 59:
            raise Refused(Code.UNKNOWN_ZONE, "timezone", zone, "no zone is more than 14 hours from UTC")
        seconds = int(hours) * 3600 + int(minutes or 0) * 60
        return -seconds if sign == "-" else seconds
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        # ZoneInfo gives KeyError for an unknown name, ValueError for one that leaves its folder, OSError for a folder's name.
        raise Refused(Code.UNKNOWN_ZONE, "timezone", zone) from error
