"""A strategy that reads positions while fills stream: in Python by the stream of changes, or in a compiled loop of its own.

    python examples/strategy.py --book ALPHA --seconds 10
    python examples/strategy.py --book ALPHA --instrument SBER.MOEX --compiled --seconds 10

It keeps each position within --limit units and prints what it would send. Reads one running system of this host (--instance X, where
several share it) and writes nothing; it needs numpy and numba alone. Exit code 3: the system is not running, or went away.
"""

from __future__ import annotations

import argparse
import sys
import time
from decimal import Decimal

import numpy as np
from numba import njit

import pks
from pks.client import Host, SegmentMissing, SegmentNotReady, StaleHost, UnknownName
from pks.client.kernels import clock_ns, pause, position_read_live, position_version
from pks.layouts.slots import POSITION_SLOT, POSITION_WORDS

QTY = POSITION_SLOT.fields["qty_raw"][1] // 8  # which word of a copied slot is the quantity
SEQUENCE = POSITION_SLOT.fields["last_sequence"][1] // 8
SLICE_NS = 50_000_000  # a compiled loop comes back so often, for Ctrl-C


def follow(host: Host, book: str, limit: Decimal, seconds: float) -> int:
    """React to every change of the book; how many there were."""
    changes = 0
    end = float("inf")
    for position in host.updates(book=book, timeout=seconds, initial=True):
        end = min(end, time.monotonic() + seconds)  # from the first one on
        changes += 1
        excess = abs(position.quantity) - limit
        order = f"{'SELL' if position.quantity > 0 else 'BUY'} {excess:f}" if excess > 0 else "hold"
        print(
            f"{position.instrument} {position.quantity:f} at {position.average_price} event {position.last_sequence}: {order}", flush=True
        )
        if time.monotonic() >= end:
            break
    return changes


@njit
def react(table, row, limit_raw, until_ns, target, room, state):
    """Watch one position until `until_ns`; 0, or CLOSED or STALE.

    state: int64[4], kept from call to call: last version, changes met, changes over the limit, last event.
    """
    header, slots, _, _ = table
    while True:
        now_ns = clock_ns(room)
        if now_ns >= until_ns:
            return 0
        if position_version(slots, row) == state[0]:
            pause()
            continue
        version = position_read_live(header, slots, row, target, now_ns)
        if version < -1:  # CLOSED or STALE; UNSTABLE is tried again
            return version
        if version > 0:
            state[0] = version
            state[1] += 1
            state[2] += abs(target[QTY]) > limit_raw
            state[3] = target[SEQUENCE]


def compiled(host: Host, book: str, instrument: str, limit: Decimal, seconds: float) -> int:
    """The same for one instrument without Python in the loop; how many changes were met."""
    position = host.positions[book, instrument]
    limit_raw = int(limit.scaleb(int(position.record["qty_scale"])))
    table, row = host.positions.arrays, host.positions.row(book, instrument)
    target, room, state = np.zeros(POSITION_WORDS, np.int64), np.zeros(2, np.int64), np.zeros(4, np.int64)
    react(table, row, limit_raw, 0, target, room, state)  # compiles, and returns at once
    end_ns = time.monotonic_ns() + int(seconds * 1e9)
    while (now_ns := time.monotonic_ns()) < end_ns:
        if react(table, row, limit_raw, min(now_ns + SLICE_NS, end_ns), target, room, state) != 0:
            host.check_live()
    print(
        f"{instrument} {host.positions[book, instrument].quantity:f}: {state[1]} changes met, {state[2]} over the limit, event {state[3]}",
        flush=True,
    )
    return int(state[1])


def main() -> int:
    """Attach, follow, and say how it ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instance", help="name of the system")
    parser.add_argument("--book", required=True)
    parser.add_argument("--instrument", help="for --compiled")
    parser.add_argument("--limit", type=Decimal, default=Decimal(1000), help="units that a position may have")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--compiled", action="store_true", help="a compiled loop over one instrument")
    given = parser.parse_args()
    if given.compiled and not given.instrument:
        parser.error("--compiled needs --instrument")
    try:
        with pks.attach(given.instance) as host:
            if given.compiled:
                changes = compiled(host, given.book, given.instrument, given.limit, given.seconds)
            else:
                changes = follow(host, given.book, given.limit, given.seconds)
    except (SegmentMissing, SegmentNotReady, StaleHost) as error:
        print(f"strategy: {error}", file=sys.stderr)
        return 3
    except UnknownName as error:
        print(f"strategy: {error}", file=sys.stderr)
        return 1
    print(f"{changes} changes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
