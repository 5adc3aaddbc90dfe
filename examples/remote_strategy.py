"""A strategy on another machine: follows one book's positions on NATS, over restarts of the server and of PKS.

    python examples/remote_strategy.py --url nats://127.0.0.1:4222 --nkey DATA/servers/nats/users/algo.nk --book ALPHA --seconds 10

It keeps each position within --limit units and prints what it would send. Exit code 3: nothing was reached, or the system fell silent.
"""

from __future__ import annotations

import argparse
import sys
import time
from decimal import Decimal

import pks
from pks.client.remote import NotReached
from pks.segments.errors import StaleHost


def follow(host: pks.client.remote.RemoteHost, book: str, limit: Decimal, seconds: float) -> int:
    """React to every change of the book; how many there were."""
    changes = 0
    end = time.monotonic() + seconds
    for position in host.updates(book=book, timeout=seconds, initial=True):
        changes += 1
        excess = abs(position.quantity) - limit
        order = f"{'SELL' if position.quantity > 0 else 'BUY'} {excess:f}" if excess > 0 else "hold"
        print(
            f"{position.instrument} {position.quantity:f} at {position.average_price} event {position.last_sequence}: {order}", flush=True
        )
        if time.monotonic() >= end:
            break
    return changes


def main() -> int:
    """Connect, follow, and say how it ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="nats://127.0.0.1:4222")
    parser.add_argument("--nkey", default="", help="file with the seed of the user that this program is")
    parser.add_argument("--origin", default="", help="which system, where several tell positions on one server")
    parser.add_argument("--book", required=True)
    parser.add_argument("--limit", type=Decimal, default=Decimal(1000), help="units that a position may have")
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    try:
        with pks.connect(given.url, nkey=given.nkey, origin=given.origin) as host:
            changes = follow(host, given.book, given.limit, given.seconds)
    except (NotReached, StaleHost) as error:
        print(f"strategy: {error}", file=sys.stderr)
        return 3
    print(f"{changes} changes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
