"""Time zones as arrays, so that compiled code can tell the local date of a nanosecond.

Owns the tables and the one kernel over them; capture makes them from the zones of the books. Agrees with `base.clock.zone_date` for
every time from 1970 to the end of an int64. Zone names are read with the standard library; no clock is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
from numba import njit

from pks.base.clock import NS_PER_SECOND, SECONDS_PER_DAY, TIME_NS_MAX, zone_date

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIXED = re.compile(r"(?:UTC|GMT|Z)(?:([+-])(\d{1,2})(?::?(\d\d))?)?", re.ASCII)
_DAY_LAST = TIME_NS_MAX // NS_PER_SECOND // SECONDS_PER_DAY


class ZoneTables(NamedTuple):
    """Offsets of many zones, end to end; zone z has the entries starts[z] .. stops[z] - 1.

    starts, stops: int64[zones]; utc_ns: int64[entries], ascending in a zone, its first one the least int64; offset_s: int64[entries],
    seconds east of UTC from that moment on.
    """

    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    utc_ns: npt.NDArray[np.int64]
    offset_s: npt.NDArray[np.int64]


def zone_tables(zones: Sequence[str]) -> ZoneTables:
    """The tables of `zones`; a zone's id is its place. Raises Refused: UNKNOWN_ZONE."""
    starts: list[int] = []
    stops: list[int] = []
    moments: list[int] = []
    offsets: list[int] = []
    for zone in zones:
        starts.append(len(moments))
        for moment_ns, offset_s in _transitions(zone):
            moments.append(moment_ns)
            offsets.append(offset_s)
        stops.append(len(moments))
    return ZoneTables(*(np.array(values, dtype=np.int64) for values in (starts, stops, moments, offsets)))


@njit(cache=True)
def local_date(
    time_ns: int,
    zone_id: int,
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
    utc_ns: npt.NDArray[np.int64],
    offset_s: npt.NDArray[np.int64],
) -> int:
    """Days since 1970-01-01 on which `time_ns` falls in zone `zone_id`; arrays as in ZoneTables, 0 <= zone_id < zones."""
    low, high = starts[zone_id], stops[zone_id]
    while high - low > 1:
        middle = (low + high) >> 1
        if utc_ns[middle] <= time_ns:
            low = middle
        else:
            high = middle
    return (time_ns // 1_000_000_000 + offset_s[low]) // 86_400  # type: ignore[no-any-return]


def _transitions(zone: str) -> list[tuple[int, int]]:
    zone_date(0, zone)  # raises for a name that is no zone
    first = int(np.iinfo(np.int64).min)
    fixed = _FIXED.fullmatch(zone)
    if fixed is not None:
        sign, hours, minutes = fixed.groups()
        seconds = int(hours or 0) * 3600 + int(minutes or 0) * 60
        return [(first, -seconds if sign == "-" else seconds)]
    rules = ZoneInfo(zone)
    offset = _offset_at(rules, 0)
    found = [(first, offset)]
    for day in range(1, _DAY_LAST + 1):
        later = _offset_at(rules, day * SECONDS_PER_DAY)
        if later != offset:
            found.append((_change(rules, (day - 1) * SECONDS_PER_DAY, offset, later) * NS_PER_SECOND, later))
            offset = later
    return found


def _change(rules: tzinfo, start: int, before: int, after: int) -> int:
    """The first second of the day from `start` at which `after` holds. No zone has changed twice in one day since 1970."""
    low, high = start, start + SECONDS_PER_DAY
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_at(rules, middle) == before:
            low = middle
        else:
            high = middle
    assert _offset_at(rules, high) == after, "one change a day"
    return high


def _offset_at(rules: tzinfo, seconds: int) -> int:
    offset: Any = (_EPOCH + timedelta(seconds=seconds)).astimezone(rules).utcoffset()
    assert offset is not None, "a zone's time is aware"
    return int(offset.total_seconds())
