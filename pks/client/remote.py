"""Positions from afar: `pks.connect` follows a system on NATS or at its gateway, from a snapshot on, over restarts of either side.

The surface is that of `attach` as far as it makes sense: `positions[book, instrument]`, iteration, `updates`. A thread of its own keeps
the connection; readers only look at what it has put down. Which way positions come is `bus`'s and `gateway`'s affair, whose libraries are
imported when `connect` is called. What was read from a system that is silent is not given out: StaleHost, as on the host itself.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pks.base.errors import PksError, Retryable
from pks.client.errors import NoPosition
from pks.proto.codec import position_words
from pks.segments.errors import StaleHost

SNAPSHOT_SECONDS = 30.0
STALE_SECONDS = 5.0
"""Without a heartbeat for so long, positions are not given out; the system sends one a second."""

PAUSE_SECONDS = 0.2
"""Before the next attempt at a server that is gone."""

PENDING_MAX = 1 << 20
"""Positions that an `Updates` holds at the most: one a position, since a later change replaces an earlier one."""

BUS_SCHEMES, GATEWAY_SCHEME = ("nats", "tls"), "grpc"


class NotReached(Retryable):
    """The server did not answer, or no system has told its positions there."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url, self.reason = url, reason


class RemotePosition:
    """One position as it was last told. The figures of a `Position`; nothing of it changes."""

    __slots__ = ("_message", "origin")

    def __init__(self, message: Any, origin: str) -> None:
        self._message, self.origin = message, origin

    @property
    def book(self) -> str:
        return str(self._message.book)

    @property
    def instrument(self) -> str:
        return str(self._message.instrument)

    @property
    def currency(self) -> str:
        """Of cost and P&L."""
        return str(self._message.currency)

    @property
    def quantity(self) -> Decimal:
        """Signed; long is above zero."""
        return Decimal(self._message.quantity)

    @property
    def is_flat(self) -> bool:
        return not self.quantity

    @property
    def average_price(self) -> Decimal | None:
        """Of the open lots; None when flat."""
        return _decimal(self._message.average_price)

    @property
    def cost(self) -> Decimal:
        """Of the open lots, signed as the quantity, with multiplier and quote factor."""
        return Decimal(self._message.cost)

    @property
    def realised_gross(self) -> Decimal:
        """Realised P&L since the opening lots, fees apart."""
        return Decimal(self._message.realised_gross)

    @property
    def realised_net(self) -> Decimal:
        """realised_gross less the fees in its currency; equal to it in a book that has fees in cost."""
        return Decimal(self._message.realised_net)

    @property
    def fees(self) -> dict[str, Decimal]:
        """Cumulative by currency; > 0 costs."""
        return {code: Decimal(fee) for code, fee in self._message.fees.items()}

    @property
    def clearing_cost(self) -> Decimal:
        """Futures: cost since the last clearing."""
        return Decimal(self._message.clearing_cost)

    @property
    def variation(self) -> Decimal:
        """Futures: variation margin, cumulative."""
        return Decimal(self._message.variation)

    @property
    def last_price(self) -> Decimal | None:
        """Of the last trade; None before one."""
        return _decimal(self._message.last_price)

    @property
    def open_lots(self) -> int:
        return int(self._message.open_lots)

    @property
    def trades_count(self) -> int:
        return int(self._message.trades_count)

    @property
    def fee_unknown(self) -> bool:
        """True while the fee of some trade is not known."""
        return bool(self._message.fee_unknown)

    @property
    def forced(self) -> bool:
        """True when some event was booked although the book's policy would now refuse it."""
        return bool(self._message.forced)

    @property
    def is_inverse(self) -> bool:
        return bool(self._message.inverse)

    @property
    def last_trade_time_ns(self) -> int:
        """UTC, the venue's clock; 0 before a trade."""
        return int(self._message.last_trade_time_ns)

    @property
    def recorded_ns(self) -> int:
        """When the last event was taken, UTC."""
        return int(self._message.recorded_ns)

    @property
    def last_sequence(self) -> int:
        """The event that this reflects; it is durable."""
        return int(self._message.last_sequence)

    @property
    def version(self) -> int:
        """How often the slot had been written in that run of the system."""
        return int(self._message.version)

    def as_dict(self) -> dict[str, Any]:
        """As `pks positions --json`."""
        return position_words(self._message)

    def __repr__(self) -> str:
        at = "flat" if self.is_flat else f"{self._message.quantity} at {self._message.average_price}"
        net = f"{self._message.realised_net} {self.currency}"
        return f"<Position {self.book} {self.instrument}: {at}, realised {net}, event {self.last_sequence}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePosition) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash((self.book, self.instrument, self.last_sequence))


class RemotePositions:
    """All positions that were told. `positions["ALPHA", "SBER.MOEX"]` (instruments by id), iteration, `len`, `in`."""

    def __init__(self, host: RemoteHost) -> None:
        self._host = host

    def __getitem__(self, key: tuple[str, str]) -> RemotePosition:
        """Raises NoPosition (a KeyError), StaleHost."""
        self._host.check_live()
        try:
            return self._host.known[key]
        except KeyError:
            raise NoPosition(*key) from None

    def get(self, book: str, instrument: str) -> RemotePosition | None:
        """The position, or None where nothing was ever booked."""
        self._host.check_live()
        return self._host.known.get((book, instrument))

    def __contains__(self, key: object) -> bool:
        return key in self._host.known

    def __len__(self) -> int:
        """Positions that ever were, flat ones too."""
        self._host.check_live()
        return len(self._host.known)

    def __iter__(self) -> Iterator[RemotePosition]:
        """Every position, flat ones too, by book and instrument."""
        return iter(self.find(flat=True))

    def find(
        self, book: str | Iterable[str] | None = None, instrument: str | Iterable[str] | None = None, *, flat: bool = False
    ) -> list[RemotePosition]:
        """Positions of one or several books and instruments (None: of all). flat: also those with no quantity. Raises StaleHost."""
        self._host.check_live()
        books, instruments = _several(book), _several(instrument)
        found = sorted(self._host.known.copy().items())
        return [
            position
            for (named, traded), position in found
            if (books is None or named in books) and (instruments is None or traded in instruments) and (flat or not position.is_flat)
        ]

    def to_dicts(self, books: Iterable[str] | None = None, *, flat: bool = True) -> list[dict[str, Any]]:
        """As `pks positions --json`."""
        return [position.as_dict() for position in self.find(books, flat=flat)]


class RemoteUpdates:
    """Changed positions, each once at its latest, however often it changed. `stop`, from any thread, ends the iteration."""

    def __init__(self, host: RemoteHost, book: str | None, timeout: float | None, initial: bool) -> None:
        self._host, self._book, self._timeout, self._stopped = host, book, timeout, False
        self._waiting: dict[tuple[str, str], None] = {}
        self._changed = threading.Condition()
        with host.lock:
            host.listeners.append(self)
            if initial:
                self._waiting.update(dict.fromkeys(sorted(key for key in host.known if book in (None, key[0]))))

    def note(self, key: tuple[str, str]) -> None:
        """A position changed; called by the connection's thread."""
        if self._book in (None, key[0]) and len(self._waiting) < PENDING_MAX:
            with self._changed:
                self._waiting[key] = None
                self._changed.notify()

    def __iter__(self) -> Iterator[RemotePosition]:
        return self

    def __next__(self) -> RemotePosition:
        """The next changed position. StopIteration after `stop`, or when nothing came for the time-out. Raises StaleHost."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            key = self._next_key(deadline)
            self._host.check_live()
            if (position := self._host.known.get(key)) is not None:  # None: it is not ours to see any more
                return position

    def _next_key(self, deadline: float | None) -> tuple[str, str]:
        with self._changed:
            while not self._waiting:
                left = STALE_SECONDS if deadline is None else deadline - time.monotonic()
                if self._stopped or left <= 0:
                    self._leave()
                    raise StopIteration
                self._changed.wait(min(left, 0.5))
                if not self._waiting and deadline is None:
                    self._host.check_live()
            key = next(iter(self._waiting))
            del self._waiting[key]
        return key

    def stop(self) -> None:
        """End the iteration."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _leave(self) -> None:
        with self._host.lock:
            if self in self._host.listeners:
                self._host.listeners.remove(self)


class RemoteHost(ABC):
    """A system, followed from afar. A context manager; `close` ends its thread.

    For those who bring positions: `put` and `forget` change `known`, `beat` says how far the system is, `whole` is set when the first
    snapshot has come; `_follow` runs in the thread until `closed`, and may not raise.
    """

    def __init__(self, shown: str) -> None:
        """shown: the address, as it may stand in a text."""
        self.shown = shown
        self.known: dict[tuple[str, str], RemotePosition] = {}
        self.listeners: list[RemoteUpdates] = []
        self.lock = threading.Lock()
        self.connections_count = 0
        self.last_error = ""
        self.whole, self.closed = threading.Event(), threading.Event()
        self._durable, self._told, self._beat_at = 0, 0, 0.0
        self._thread = threading.Thread(target=self._follow, name="pks remote", daemon=True)

    @abstractmethod
    def _follow(self) -> None: ...

    @property
    def positions(self) -> RemotePositions:
        """One by name, many by book."""
        return RemotePositions(self)

    def updates(self, book: str | None = None, timeout: float | None = None, initial: bool = False) -> RemoteUpdates:
        """A stream of changed positions (of one book), conflated. timeout: seconds without a change after which it ends, None: never.

        initial: begin with every position as it is now.
        """
        return RemoteUpdates(self, book, timeout, initial)

    @property
    def durable_sequence(self) -> int:
        """Last event that the system said to be durable and judged. Raises StaleHost."""
        self.check_live()
        return self._durable

    @property
    def told_sequence(self) -> int:
        """Positions reflect every event up to this one, as far as the system has said. Raises StaleHost."""
        self.check_live()
        return self._told

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the system's last sign of life."""
        return time.monotonic() - self._beat_at

    def check_live(self) -> None:
        """Raise StaleHost when the system is silent, or this host was closed."""
        age = self.heartbeat_age
        if self.closed.is_set() or age > STALE_SECONDS:
            reason = "let go of by this program" if self.closed.is_set() else f"silent ({self.last_error or 'no heartbeat'})"
            raise StaleHost(self.shown, reason, int(age * 1e9))

    def wait(self, seconds: float) -> None:
        """Until the snapshot is whole and the system has shown that it lives. Raises NotReached."""
        deadline = time.monotonic() + seconds
        while not (self.whole.wait(0.02) and self._beat_at):
            if hopeless := self._hopeless():
                self.close()
                raise hopeless
            if time.monotonic() >= deadline:
                reason = self.last_error or "no system tells positions there"
                self.close()
                raise NotReached(self.shown, reason)

    def _hopeless(self) -> PksError | None:
        """Why waiting for the snapshot is no use."""
        return None

    def put(self, position: RemotePosition) -> None:
        """A position as it is now; what is told again, unchanged, is no news."""
        key = (position.book, position.instrument)
        with self.lock:
            known = self.known.get(key)
            self.known[key] = position
            listeners = list(self.listeners) if known != position else []
        for listener in listeners:
            listener.note(key)

    def beat(self, durable: int, told: int) -> None:
        """The system lives, and is so far."""
        self._durable, self._told, self._beat_at = durable, told, time.monotonic()

    def close(self) -> None:
        """Let go of the connection."""
        self.closed.set()
        for listener in list(self.listeners):
            listener.stop()
        self._thread.join(SNAPSHOT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shown}: {len(self.known)} positions>"


Token = str | Callable[[], str]
"""An access token, or what gives a fresh one whenever one is needed."""


def connect(
    url: str,
    token: Token = "",
    *,
    nkey: str | Path = "",
    ca: str | Path = "",
    origin: str = "",
    timeout: float = SNAPSHOT_SECONDS,
) -> Any:
    """Follow a system's positions: a `GatewayHost` at its gateway ("host:8443", "grpc://host:8443"), a `BusHost` on NATS ("nats://", "tls://").

    token: at a gateway, an access token, or a function that gives a fresh one; a token lives for minutes only. nkey: on NATS, the file with
    the seed of the user that you are (`algo` of the embedded server may read). ca: the file of certificates by which the server's is judged
    (`pks status --json` names the gateway's). origin: on NATS, which system, where several tell positions on one server (12 hex digits,
    header Pks-Origin of its messages).

    Returns when all positions are there. Raises NotReached when they are not within `timeout` seconds, NotAllowed where the gateway does
    not take the token, AmbiguousOrigin where there are several systems on NATS and none was named.
    """
    scheme, separator, place = url.rpartition("://")
    if separator and scheme in BUS_SCHEMES:
        from pks.client.bus import BusHost

        if token:
            raise ValueError(f"{scheme}:// takes an nkey, not a token")
        followed: RemoteHost = BusHost(url, str(nkey), str(ca), origin)
    elif not separator or scheme == GATEWAY_SCHEME:
        from pks.client.gateway import GatewayHost

        if nkey or origin:
            raise ValueError("a gateway takes a token, neither an nkey nor an origin")
        followed = GatewayHost(place or url, token, str(ca))
    else:
        raise ValueError(f"{scheme}:// is not a way to a system: host:port or grpc:// for a gateway, nats:// or tls:// for NATS")
    followed.wait(timeout)
    return followed


def _decimal(text: str) -> Decimal | None:
    return Decimal(text) if text else None


def _several(names: str | Iterable[str] | None) -> set[str] | None:
    return None if names is None else {names} if isinstance(names, str) else set(names)
