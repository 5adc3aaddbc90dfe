"""The amendment by which a correction of moved lots reaches the book that received them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pks.base.ids import key_of
from pks.layouts.codes import Flag, Kind
from pks.layouts.event import EVENT


def reentry_event(transfer: Any, cause: int) -> Any:
    """EVENT[1]: an amendment of a transfer whose lots event `cause` changed; its own key is (transfer, cause)."""
    event = np.zeros(1, EVENT)
    event["kind"], event["group_count"], event["flags"] = Kind.AMEND, 1, Flag.REENTRY
    for name in ("trade_id", "leg", "source_id", "account_id", "price_scale", "qty_scale", "money_scale"):
        event[name] = transfer[name]
    hi, lo = key_of("REENTRY", f"{int(transfer['sequence'])}/{cause}", 0)
    event["second_key_hi"], event["second_key_lo"] = hi & (2**64 - 1), lo & (2**64 - 1)
    return event
