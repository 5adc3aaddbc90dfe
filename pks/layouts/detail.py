"""Groups of records: an event with the DETAIL records that carry its text, taken apart and put together.

Owns the form of such a group, not what the text says. Anyone who reads or makes events may call it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pks.base.errors import Code, Refused
from pks.base.limits import GROUP_RECORDS_MAX
from pks.layouts.codes import Flag, Kind
from pks.layouts.event import DETAIL, DETAIL_TEXT_BYTES, EVENT


def text_of(group: Any) -> bytes:
    """The text in a group's DETAIL records."""
    details = group[group["kind"] == Kind.DETAIL].view(DETAIL)
    length = int(group[0]["detail_bytes"])
    return bytes(np.ascontiguousarray(details["text"]).tobytes()[:length])


def with_text(record: Any, text: bytes) -> Any:
    """EVENT[1 + n]: the record and the DETAIL records that carry `text`; a group of its own."""
    count = -(-len(text) // DETAIL_TEXT_BYTES)
    if 1 + count > GROUP_RECORDS_MAX:
        raise Refused(Code.GROUP_TOO_LARGE, "detail", len(text))
    group = np.zeros(1 + count, EVENT)
    group[0] = record
    group["group_count"], group["group_index"] = 1 + count, np.arange(1 + count)
    group[0]["detail_bytes"] = len(text)
    if count:
        group["kind"][1:] = Kind.DETAIL
        group[0]["flags"] = int(group[0]["flags"]) | Flag.HAS_DETAIL
        padded = np.zeros(count * DETAIL_TEXT_BYTES, np.uint8)
        padded[: len(text)] = np.frombuffer(text, np.uint8)
        group[1:].view(DETAIL)["text"] = padded.reshape(count, DETAIL_TEXT_BYTES)
    return group


def group_at(records: Any, mask: int, sequence: int) -> Any:
    """EVENT[n]: a copy of the group that begins at `sequence` (record n at records[n & mask])."""
    count = max(1, int(records[sequence & mask]["group_count"]))
    return np.array([records[n & mask] for n in range(sequence, sequence + count)], EVENT)
