"""Compiled local dates agree with the standard library for every zone and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pks.base.clock import NS_PER_DAY, NS_PER_SECOND, zone_date
from pks.base.errors import Code, Refused
from pks.base.zones import local_date, zone_tables

ZONES = (
    "UTC", "UTC+3", "UTC-05:30", "Europe/Moscow", "America/New_York", "Asia/Kolkata", "Africa/Casablanca", "Pacific/Apia",
    "Australia/Lord_Howe",
)  # fmt: skip
TABLES = zone_tables(ZONES)
local_date(0, 0, *TABLES)


@given(zone_id=st.integers(0, len(ZONES) - 1), time_ns=st.integers(0, 2**63 - 1))
@example(zone_id=7, time_ns=1_325_239_200 * NS_PER_SECOND)  # Samoa left out 2011-12-30
@example(zone_id=7, time_ns=1_325_239_200 * NS_PER_SECOND - 1)
def test_any_time(zone_id: int, time_ns: int) -> None:
    assert local_date(time_ns, zone_id, *TABLES) == zone_date(time_ns, ZONES[zone_id])


@given(zone_id=st.integers(3, len(ZONES) - 1), entry=st.integers(0, 10**6), shift_ns=st.integers(-NS_PER_DAY, NS_PER_DAY))
def test_around_a_change_of_clocks(zone_id: int, entry: int, shift_ns: int) -> None:
    count = int(TABLES.stops[zone_id] - TABLES.starts[zone_id])
    change_ns = int(TABLES.utc_ns[TABLES.starts[zone_id] + entry % count])
    time_ns = min(max(change_ns + shift_ns, 0), 2**63 - 1)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time_ns // NS_PER_SECOND)
    expected = moment.astimezone(ZoneInfo(ZONES[zone_id])).toordinal() - datetime(1970, 1, 1).toordinal()
    assert local_date(time_ns, zone_id, *TABLES) == expected


def test_unknown_zone() -> None:
    with pytest.raises(Refused) as refused:
        zone_tables(["UTC", "Mars/Olympus"])
    assert refused.value.code is Code.UNKNOWN_ZONE
