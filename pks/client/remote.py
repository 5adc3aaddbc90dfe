"""Positions from afar: `pks.connect` follows them on NATS, from a snapshot on, over restarts of the server and of the system.

The surface is that of `attach` as far as it makes sense: `positions[book, instrument]`, iteration, `updates`. A thread of its own keeps
the connection; readers only look at what it has put down. Needs the client library of NATS, which is imported when `connect` is called.
What was read from a system that is silent is not given out: StaleHost, as on the host itself.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from pks.base.errors import PksError, Retryable
from pks.client.errors import NoPosition
from pks.proto.codec import position_words
from pks.segments.errors import StaleHost
from pks.servers.endpoints import Endpoint

SNAPSHOT_SECONDS = 30.0
STALE_SECONDS = 5.0
"""Without a heartbeat for so long, positions are not given out; the system sends one a second."""

FETCH_MESSAGES, FETCH_SECONDS = 500, 0.5
PAUSE_SECONDS = 0.2
"""Before the next attempt at a server that is gone."""

PENDING_MAX = 1 << 20
"""Positions that an `Updates` holds at the most: one a position, since a later change replaces an earlier one."""

OWN_INBOXES = ("algo", "booker")
"""Users of the embedded server that have an inbox of their own."""


class NotReached(Retryable):
    """The server did not answer, or no system has told its positions there."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url, self.reason = url, reason


class AmbiguousOrigin(PksError):
    """Several systems tell positions on this server."""

    def __init__(self, origins: list[str]) -> None:
        super().__init__(f"several systems tell positions there: give origin=, one of {', '.join(origins)}")
        self.origins = origins


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
        self._host.check_live()
        return self._host.known[key]

    def stop(self) -> None:
        """End the iteration."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _leave(self) -> None:
        with self._host.lock:
            if self in self._host.listeners:
                self._host.listeners.remove(self)


class RemoteHost:
    """A system, followed on NATS. A context manager; `close` ends its thread."""

    def __init__(self, url: str, nkey: str, ca: str, origin: str) -> None:
        self.url, self.origin = url, origin
        self.known: dict[tuple[str, str], RemotePosition] = {}
        self.listeners: list[RemoteUpdates] = []
        self.lock = threading.Lock()
        self.connections_count = 0
        self.last_error = ""
        self._endpoint = Endpoint("nats", "external", url, url, nkey, ca)
        self._inbox = f"_INBOX_{stem}" if (stem := Path(nkey).stem) in OWN_INBOXES else "_INBOX"
        self._durable, self._told, self._beat_at = 0, 0, 0.0
        self._named = bool(origin)
        self._others: set[str] = set()
        self._whole = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._live, name="pks remote", daemon=True)
        self._thread.start()

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
        """Raise StaleHost when the system is silent, or this host was closed; AmbiguousOrigin where another one speaks too."""
        if self._others and not self._named:
            raise AmbiguousOrigin(sorted({self.origin, *self._others}))
        age = self.heartbeat_age
        if self._closed.is_set() or age > STALE_SECONDS:
            reason = "let go of by this program" if self._closed.is_set() else f"silent ({self.last_error or 'no heartbeat'})"
            raise StaleHost(f"nats {self.origin}", reason, int(age * 1e9))

    def wait(self, seconds: float) -> None:
        """Until the snapshot is whole and the system has shown that it lives. Raises NotReached."""
        deadline = time.monotonic() + seconds
        while not (self._whole.wait(0.02) and self._beat_at):
            if time.monotonic() >= deadline:
                reason = self.last_error or "no system tells positions there"
                self.close()
                raise NotReached(self._endpoint.shown, reason)

    def close(self) -> None:
        """Let go of the connection."""
        self._closed.set()
        for listener in list(self.listeners):
            listener.stop()
        self._thread.join(SNAPSHOT_SECONDS)

    def __enter__(self) -> RemoteHost:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RemoteHost {self._endpoint.shown} {self.origin or '(any)'}: {len(self.known)} positions>"

    # the connection's thread

    def _live(self) -> None:
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        """Connect, follow, and again, until closed."""
        from pks.edges.nats.connection import open_connection

        while not self._closed.is_set():
            connection = None
            try:
                connection = await open_connection(self._endpoint, "pks remote", self._inbox)
                self.connections_count += 1
                await self._read(connection)
            except Exception as error:  # a server may fail in any way that its library knows; it is said, and tried again
                self.last_error = f"{type(error).__name__}: {error}"
            finally:
                if connection is not None:
                    await connection.close()
            if not self._closed.is_set():
                await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self, connection: Any) -> None:
        from nats.errors import TimeoutError as NothingCame
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        from pks.edges.nats.streams import POSITION_HEARTBEAT, POSITION_LATEST, POSITIONS_LATEST

        await connection.client.subscribe(POSITION_HEARTBEAT, cb=self._take_beat)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60.0,
            mem_storage=True,
        )
        while not self.origin and not self._closed.is_set():  # the one that lives; positions of dead ones may still lie there
            connection.check()
            await asyncio.sleep(0.02)
        subject = f"{POSITION_LATEST}.{self.origin}.>"
        reader = await connection.stream.pull_subscribe(subject, stream=POSITIONS_LATEST.name, config=config)
        if not (await reader.consumer_info()).num_pending:
            self._whole.set()
        while not self._closed.is_set():
            connection.check()
            try:
                messages = await reader.fetch(FETCH_MESSAGES, timeout=FETCH_SECONDS)
            except (TimeoutError, NothingCame):
                continue
            for message in messages:
                self._take(message)
            if messages and not messages[-1].metadata.num_pending:
                self._whole.set()
                self.last_error = ""

    def _take(self, message: Any) -> None:
        """One position; what is told again, unchanged, is no news."""
        from pks.proto.pks.v1 import position_pb2

        told = position_pb2.PositionUpdated.FromString(message.data)
        key = (told.book, told.instrument)
        position = RemotePosition(told, message.headers["Pks-Origin"])
        with self.lock:
            known = self.known.get(key)
            self.known[key] = position
            listeners = list(self.listeners) if known != position else []
        for listener in listeners:
            listener.note(key)

    async def _take_beat(self, message: Any) -> None:
        from pks.proto.pks.v1 import position_pb2

        origin = message.headers.get("Pks-Origin", "")
        self.origin = self.origin or origin
        if origin != self.origin:
            self._others.add(origin)
            return
        beat = position_pb2.Heartbeat.FromString(message.data)
        self._durable, self._told, self._beat_at = beat.durable_sequence, beat.told_sequence, time.monotonic()


def connect(url: str, *, nkey: str | Path = "", ca: str | Path = "", origin: str = "", timeout: float = SNAPSHOT_SECONDS) -> RemoteHost:
    """Follow a system's positions on NATS.

    url: nats://host:4222, or tls://. nkey: the file with the seed of the user that you are (`algo` of the embedded server may read).
    ca: certificates by which the server's is judged. origin: which system, where several tell positions on one server (12 hex digits,
    header Pks-Origin of its messages). Returns when all positions are there; raises NotReached when they are not within `timeout`
    seconds, AmbiguousOrigin where there are several systems and none was named.
    """
    host = RemoteHost(url, str(nkey), str(ca), origin)
    host.wait(timeout)
    return host


def _decimal(text: str) -> Decimal | None:
    return Decimal(text) if text else None


def _several(names: str | Iterable[str] | None) -> set[str] | None:
    return None if names is None else {names} if isinstance(names, str) else set(names)


assert FETCH_SECONDS < STALE_SECONDS, "a look takes less than what makes a system silent"
