"""The hub: one task that looks at the host for all streaming clients, and tells each what it may see, once and without a gap.

Owns the clients, the channels (topic and visible books: clients of one channel get the same bytes) and the windows. In each window it
takes what changed, encodes it once, and writes one frame to each client of a channel. It never waits for a client: one whose connection
takes nothing more is *behind*; what it lacks is kept as a set of rows, not as frames, and sent whole when it takes something again.
One that takes nothing for BEHIND_SECONDS_MAX is dropped with close code 1013. A client that lost its connection may resume within
RESUME_SECONDS: it gets the frames it missed, and where they are no longer there a clean snapshot.

Words of every message: type, seq (the client's own, from 1, without a gap), state ("live", "stale": the core is away or behind, "snapshot":
part of one), sequence (the event that all figures up to this message reflect), durable (the event that is on disk), data. Knows nothing of
sockets (a `Wire` does) and nothing of tokens (a client has what its principal may see). One event loop uses it.
"""

from __future__ import annotations

import asyncio
import secrets
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pks.base.clock import Clock, format_time
from pks.base.errors import Retryable
from pks.bff.feed import TERMS_SECONDS, OpenSegments, Positions, Trades
from pks.bff.frames import Change, Sight, Trade, blotter_of, head_of, list_of, tail_of
from pks.bff.live import Live, NotLive
from pks.edges.chat.keep import AlertFile
from pks.segments.errors import SegmentMissing, SegmentNotReady, StaleHost, UnstableSlot

NS_PER_SECOND = 1_000_000_000

WINDOW_SECONDS_MIN, WINDOW_SECONDS_MAX = 0.001, 0.01
"""From one look to the next while something changes."""

WINDOW_COSTS = 2.0
"""A window lasts so many times what the last one cost, within its bounds: the loop has time for everything else."""

QUIET_STEPS = ((0.1, 0.001), (1.0, 0.002), (5.0, 0.005), (float("inf"), WINDOW_SECONDS_MAX))
"""Pauses while nothing changes: up to so many seconds after the last change, so long. Each look wakes the process, some 50 us of a core."""

FRESH_SECONDS, FRESH_SECONDS_AT_REST = 0.05, 0.25
"""Between two looks at the host's life and its workers', which cost much more than one at the rings; and two attempts to find one that is
away. At rest: nothing has changed for RESTS_AFTER_SECONDS.
"""

RESTS_AFTER_SECONDS = 1.0

LONG_REST_SECONDS = 0.02
"""A pause of this length and more is ended by whoever comes."""

HEARTBEAT_SECONDS = 10.0
ALERTS_SECONDS = 1.0
BUFFER_BYTES_MAX = 1 << 18
"""What may wait in a connection: beyond it a client is behind."""

BEHIND_SECONDS_MAX = 5.0
"""A client whose connection took nothing for so long is dropped."""

RESUME_SECONDS = 60.0
"""How long a client that lost its connection is remembered, and its channels are kept going."""

HISTORY_FRAMES, HISTORY_BYTES = 4096, 1 << 23
"""What a channel keeps of its frames for clients that resume."""

TRADES_KEPT = 8192
"""Trades that a channel keeps for clients that are behind; who lacks more is dropped."""

CATCH_UP_ITEMS, CATCH_UP_NEW_ITEMS = 800, 200
"""Positions of one message of a snapshot, and how many of them may have to be read and encoded first."""

CATCH_UP_NS_MAX = 5_000_000
"""Of a window, for snapshots and for those who were behind."""

HEAD_POSITIONS, HEAD_TRADES, HEAD_BLOTTER, HEAD_SNAPSHOT = (head_of(kind) for kind in ("positions", "trades", "blotter", "snapshot"))
HEAD_STATE, HEAD_HEARTBEAT, HEAD_ALERTS, HEAD_ERROR = (head_of(kind) for kind in ("state", "heartbeat", "alerts", "error"))
HEAD_WELCOME, HEAD_SUBSCRIBED, HEAD_RESUMED = (head_of(kind) for kind in ("welcome", "subscribed", "resumed"))

CLOSE_OVERLOADED, CLOSE_ELSEWHERE = 1013, 4409
"""Try again later (RFC 6455 registry); and our own: the stream goes on in another connection."""

STATE_STALE, STATE_SNAPSHOT = "stale", "snapshot"

POSITIONS, TRADES, BLOTTER, ALERTS, SNAPSHOT, HEARTBEAT = "positions", "trades", "blotter", "alerts", "snapshot", "heartbeat"
FED_TOPICS = (SNAPSHOT, POSITIONS, TRADES, BLOTTER, ALERTS, HEARTBEAT)
PLANNED_TOPICS = (
    "cash", "ocp", "orders", "curves", "reports", "payment_orders", "settlement", "valuations", "pnl", "marks", "reconciliation",
    "corporate_actions", "collateral",
)  # fmt: skip
"""Names that are fixed and that nothing in this version feeds."""

Books = frozenset[str] | None
"""Names of books; None is all that there are."""

AWAY = (NotLive, StaleHost, SegmentMissing, SegmentNotReady)

_encode = msgspec.json.encode


class TooManyClients(Retryable):
    """The gateway has as many streams as it may have."""

    def __init__(self, clients_max: int) -> None:
        super().__init__(f"the gateway has its {clients_max} streams; try again later")
        self.clients_max = clients_max


class Wire(Protocol):
    """One client's connection. No method waits, and none raises."""

    def write(self, opening: bytes, tail: bytes) -> None:
        """Send one message, of two parts."""

    def waiting_bytes(self) -> int:
        """What was written and is not taken yet."""

    def close(self, code: int, reason: str) -> None:
        """Say why, and end the connection; soon in any case."""


class Channel:
    """All who see the same of one topic. Its frames are encoded once."""

    def __init__(self, topic: str, books: Books) -> None:
        self.topic, self.books = topic, books
        self.head = head_of(topic)
        self.links: set[Link] = set()
        self.kept_until_ns = 0  # while nobody is here
        self.rows: dict[int, None] = {}  # rows that it shows
        self.frames: deque[tuple[int, bytes]] = deque()  # (turn, tail)
        self.frames_bytes = 0
        self.forgotten_turn = 0  # the last whose frame is not kept any more
        self.trades: deque[bytes] = deque(maxlen=TRADES_KEPT)
        self.trades_count = 0  # ever

    @property
    def has_positions(self) -> bool:
        return self.topic in (POSITIONS, BLOTTER)

    @property
    def has_trades(self) -> bool:
        return self.topic in (TRADES, BLOTTER)

    def begin(self, turn: int, rows: Iterable[int]) -> None:
        """Forget all frames; these are the rows it shows now."""
        self.rows = dict.fromkeys(rows)
        self.frames.clear()
        self.frames_bytes, self.forgotten_turn = 0, turn

    def keep(self, turn: int, tail: bytes) -> None:
        """A frame, for those who resume."""
        self.frames.append((turn, tail))
        self.frames_bytes += len(tail)
        while len(self.frames) > HISTORY_FRAMES or self.frames_bytes > HISTORY_BYTES:
            self.forgotten_turn, gone = self.frames.popleft()
            self.frames_bytes -= len(gone)

    def data_of(self, positions: Sequence[bytes], trades: Sequence[bytes]) -> bytes:
        """The data of a message of this topic."""
        if self.topic == BLOTTER:
            return blotter_of(positions, trades)
        return list_of(trades if self.topic == TRADES else positions)


class Link:
    """One client in one channel: whether it has every frame, and what it lacks if not."""

    def __init__(self, channel: Channel, client: Client) -> None:
        self.channel, self.client = channel, client
        self.in_step = False
        self.since_turn = 0  # in step since this turn
        self.snapshot: Sequence[int] | None = None  # rows of a snapshot under way, `at` of them sent
        self.at = 0
        self.owed: dict[int, None] = {}  # rows whose latest words it lacks, apart from the snapshot
        self.trades_at = 0  # of the channel's trades it has so many
        self.closes = False  # a snapshot that ends the subscription

    def begin(self, rows: Sequence[int]) -> None:
        """A clean snapshot is owed. rows: shared by all that begin in the same turn."""
        self.in_step, self.snapshot, self.at = False, rows, 0
        self.owed.clear()
        self.trades_at = self.channel.trades_count

    def fall_behind(self) -> None:
        """From now on frames are not sent but owed."""
        self.in_step = False


@dataclass(eq=False)
class Client:
    """One stream. It outlives its connection for a while, so that it may be resumed."""

    owner: str  # whose it is: only he may resume it
    wire: Wire | None
    stream: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    seq: int = 0
    links: dict[str, Link] = field(default_factory=dict)  # by topic
    wants_alerts: bool = False
    alerts_seen: int = -1
    wanted: Books = None  # the books it asked for
    books: Books = None  # those of them that it sees
    codes: array[int] = field(default_factory=lambda: array("q", bytes(8 * HISTORY_FRAMES)))  # by seq: 2 x turn, + 1 for what is no frame
    full_since_ns: int = 0  # since when its connection has taken nothing
    heartbeat_ns: int = 0
    left_ns: int = 0

    def send(self, head: bytes, tail: bytes, code: int) -> None:
        """The next message."""
        assert self.wire is not None, "connected"
        self.seq += 1
        self.codes[self.seq % HISTORY_FRAMES] = code
        self.wire.write(b"%b%d" % (head, self.seq), tail)


@dataclass
class Figures:
    """What the hub has done, for metrics."""

    frames: int = 0
    bytes: int = 0
    dropped: int = 0
    conflated: int = 0
    resumed: int = 0
    snapshots: int = 0
    turns: int = 0


class Hub:
    """All streams of one gateway."""

    def __init__(
        self,
        live: Live,
        clock: Clock,
        segments: OpenSegments,
        *,
        clients_max: int = 1000,
        alerts: Path | None = None,
        say: Callable[[str, dict[str, Any]], None] = lambda text, facts: None,
    ) -> None:
        """segments: the system's, with its paths, asked for at each attachment. alerts: the folder of the run. say: a line for the log."""
        self._live, self._clock, self._open_segments, self._say = live, clock, segments, say
        self.clients_max = clients_max
        self._alert_file = None if alerts is None else AlertFile(alerts)
        self._alerts: tuple[int, bytes] = (0, b"[]")  # (change count, the list)
        self._alerts_stamp: tuple[int, int] = (0, 0)
        self.clients: set[Client] = set()
        self._known: dict[str, Client] = {}  # by stream: those above and those who may come again
        self._channels: dict[tuple[str, Books], Channel] = {}
        self._positions: Positions | None = None
        self._trades: Trades | None = None
        self._attachment = 0
        self.sight = Sight(STATE_STALE, 0, 0)
        self._reason = "the core was not found yet"
        self._turn = 1
        self._behind: set[Link] = set()
        self._shared: dict[tuple[int, Channel], Sequence[int]] = {}
        self._looked_ns = self._alerts_ns = self._swept_ns = self._terms_ns = self._worked_ns = 0
        self._someone = asyncio.Event()
        self.figures = Figures()

    # clients

    def join(self, owner: str, wire: Wire) -> Client:
        """A new stream; it sees nothing until it subscribes. Raises TooManyClients."""
        if len(self.clients) >= self.clients_max:
            raise TooManyClients(self.clients_max)
        client = Client(owner, wire, heartbeat_ns=self._clock.monotonic_ns())
        self.clients.add(client)
        self._known[client.stream] = client
        self._someone.set()
        return client

    def welcome(self, client: Client, facts: dict[str, Any]) -> None:
        """The first message of a connection: the stream's name, by which it may be resumed."""
        self.tell(client, HEAD_WELCOME, {"stream": client.stream, **facts})

    def leave(self, client: Client, wire: Wire) -> None:
        """The connection has ended. The stream may be resumed for a while."""
        if client.wire is not wire:
            return  # it goes on in another one
        client.wire, client.left_ns = None, self._clock.monotonic_ns()
        self.clients.discard(client)
        for link in client.links.values():
            self._part(link)
        if not client.links:
            self._known.pop(client.stream, None)

    def _part(self, link: Link) -> None:
        if link not in link.channel.links:
            return
        link.channel.links.remove(link)
        self._behind.discard(link)
        if not link.channel.links:
            link.channel.kept_until_ns = self._clock.monotonic_ns() + int(RESUME_SECONDS * NS_PER_SECOND)

    def subscribe(self, client: Client, topics: Iterable[str], wanted: Books, books: Books) -> None:
        """See these topics too. wanted: the books that were asked for, of which `books` may be seen; they hold for all its topics."""
        client.wanted = wanted
        self._someone.set()
        if books != client.books:
            self.show(client, books)
        for topic in topics:
            assert topic in FED_TOPICS, f"{topic} is fed"
            if topic == ALERTS:
                client.wants_alerts, client.alerts_seen = True, -1
                self._alerts_ns = 0
            elif topic != HEARTBEAT and topic not in client.links:
                self._link(client, topic)

    def show(self, client: Client, books: Books) -> None:
        """The client sees these books from now on: a clean snapshot of each topic follows."""
        client.books = books
        for topic, link in list(client.links.items()):
            self._part(link)
            self._link(client, topic)

    def unsubscribe(self, client: Client, topics: Iterable[str]) -> None:
        """See these topics no longer."""
        for topic in topics:
            if topic == ALERTS:
                client.wants_alerts = False
            link = client.links.pop(topic, None)
            if link is not None:
                self._part(link)

    def _link(self, client: Client, topic: str) -> None:
        once = topic == SNAPSHOT
        channel = self._channel(POSITIONS if once else topic, client.books)
        link = client.links[topic] = Link(channel, client)
        link.closes = once
        channel.links.add(link)
        self._begin(link)

    def _channel(self, topic: str, books: Books) -> Channel:
        channel = self._channels.get((topic, books))
        if channel is None:
            channel = self._channels[topic, books] = Channel(topic, books)
            self._begin_channel(channel)
        return channel

    def _begin_channel(self, channel: Channel) -> None:
        try:
            channel.begin(self._turn, self._rows_of(channel, self._positions))
        except (StaleHost, UnstableSlot) as error:
            channel.begin(self._turn, ())
            self._lose(str(error))

    @staticmethod
    def _rows_of(channel: Channel, positions: Positions | None) -> Sequence[int]:
        return positions.rows_of(channel.books) if channel.has_positions and positions is not None else ()

    def _begin(self, link: Link) -> None:
        """A snapshot is owed, now or when the core is found."""
        key = (self._turn, link.channel)
        if key not in self._shared:
            self._shared[key] = list(link.channel.rows)
        link.begin(self._shared[key])
        self._behind.add(link)

    def tell(self, client: Client, head: bytes, data: Any) -> None:
        """A message that is no frame of a topic."""
        if client.wire is not None:
            client.send(head, self._tail(_encode(data)), 2 * self._turn + 1)

    def refuse(self, client: Client, code: str, reason: str, field_name: str = "", value: str = "") -> None:
        """A message that says what was wrong with the client's own."""
        self.tell(client, HEAD_ERROR, {"code": code, "field": field_name or None, "value": value or None, "reason": reason})

    def is_book(self, book: str) -> bool:
        """Whether there is such a book. Raises NotLive."""
        names = self._live.host.names
        try:
            names.book_id(book)
        except KeyError:
            return False
        except (StaleHost, UnstableSlot) as error:
            raise NotLive(str(error)) from error
        return True

    def drop(self, client: Client, code: int, reason: str, *, forget: bool = True) -> None:
        """End a client's connection. forget: it cannot be resumed."""
        wire = client.wire
        if wire is not None:
            self.leave(client, wire)
            wire.close(code, reason)
        if forget:
            self._forget(client)

    def _forget(self, client: Client) -> None:
        self._known.pop(client.stream, None)
        for link in client.links.values():
            self._part(link)
        client.links.clear()

    def close(self, code: int = 1001, reason: str = "the gateway ends") -> None:
        """End every connection."""
        for client in list(self.clients):
            self.drop(client, code, reason)
        self._let_go()

    # resuming

    def resume(self, fresh: Client, stream: str, seq: int, see: Callable[[Books], Books]) -> Client | None:
        """Let the stream go on, behind its message `seq`, in the connection of `fresh`, which is no stream of its own any more.

        see: what its owner may see of the books that the stream was subscribed with. None when nobody knows the stream: all is as it was.
        """
        client = self._known.get(stream)
        if client is None or client is fresh or client.owner != fresh.owner or not 0 <= seq <= client.seq:
            return None
        books = see(client.wanted)
        turn = self._resumable(client, seq) if books == client.books else None
        if client.wire is not None:
            self.drop(client, CLOSE_ELSEWHERE, "the stream goes on in another connection", forget=False)
        self._take_over(fresh, client)
        if turn is None:  # what was sent behind `seq` is void: numbers go on behind what the client has
            client.seq = seq
            self.tell(client, HEAD_RESUMED, {"stream": client.stream, "resumed": False, "missed": 0})
            self.show(client, books)
            return client
        client.seq = seq
        missed = sorted(
            ((at, place, link, tail) for place, link in enumerate(client.links.values()) for at, tail in link.channel.frames if at > turn),
            key=lambda one: one[:2],
        )
        client.send(HEAD_RESUMED, self._tail(_encode({"stream": client.stream, "resumed": True, "missed": len(missed)})), 2 * turn + 1)
        for at, _, link, tail in missed:
            client.send(link.channel.head, tail, 2 * at)
        for link in client.links.values():
            link.channel.links.add(link)
            link.trades_at = link.channel.trades_count
        client.alerts_seen = -1
        self.figures.resumed += 1
        return client

    def _take_over(self, fresh: Client, client: Client) -> None:
        client.wire, fresh.wire = fresh.wire, None
        client.full_since_ns, client.heartbeat_ns = 0, self._clock.monotonic_ns()
        self.clients.discard(fresh)
        self._forget(fresh)
        self.clients.add(client)
        self._known[client.stream] = client
        self._someone.set()

    def _resumable(self, client: Client, seq: int) -> int | None:
        """The turn up to which a client has everything that has message `seq` and none behind it; None: it needs a snapshot."""
        if client.seq - seq >= HISTORY_FRAMES or seq < 1:
            return None
        turn = client.codes[seq % HISTORY_FRAMES] >> 1
        if any(client.codes[later % HISTORY_FRAMES] == 2 * turn for later in range(seq + 1, client.seq + 1)):
            return None  # it has one topic's frame of that turn and lacks another's
        for link in client.links.values():
            channel = link.channel
            if not link.in_step or link.closes or link.since_turn > turn or channel.forgotten_turn > turn:
                return None
            if self._channels.get((channel.topic, channel.books)) is not channel:
                return None
        return turn

    # the loop

    async def run(self) -> None:
        """Look and tell for as long as somebody listens; waits while nobody does."""
        while True:
            if not self.clients and not self._channels:
                self._someone.clear()
                self._let_go()
                await self._someone.wait()
            start_ns = self._clock.monotonic_ns()
            worked = self.turn()
            now_ns = self._clock.monotonic_ns()
            await self._rest(self._pause(worked, start_ns, now_ns))

    async def _rest(self, seconds: float) -> None:
        """Sleep; a long sleep ends when somebody comes or asks for more, so that nobody's first sight waits for it."""
        if seconds < LONG_REST_SECONDS:
            await asyncio.sleep(seconds)
            return
        self._someone.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._someone.wait()
        except TimeoutError:
            return  # nobody came

    def _pause(self, worked: bool, start_ns: int, now_ns: int) -> float:
        cost = (now_ns - start_ns) / NS_PER_SECOND
        if worked:
            return max(WINDOW_SECONDS_MIN, min(WINDOW_SECONDS_MAX, WINDOW_COSTS * cost) - cost)
        if not self.clients:
            return FRESH_SECONDS_AT_REST  # only for those who may come back
        quiet = (now_ns - self._worked_ns) / NS_PER_SECOND
        return next(pause for upto, pause in QUIET_STEPS if quiet < upto)

    def turn(self) -> bool:
        """Look once and tell everyone; whether there was something. Does not wait."""
        now_ns = self._clock.monotonic_ns()
        self._turn += 1
        self.figures.turns += 1
        self._shared.clear()
        self._tend(now_ns)
        try:
            worked = self._look(now_ns)
        except UnstableSlot:
            worked = True  # its writer is in the middle of it: in the next window
        except AWAY as error:
            self._lose(str(error))
            worked = False
        worked = self._catch_up(now_ns) or worked
        if worked:
            self._worked_ns = now_ns
        return worked

    def _look(self, now_ns: int) -> bool:
        rests = self._positions is not None and now_ns - self._worked_ns >= RESTS_AFTER_SECONDS * NS_PER_SECOND
        is_due = now_ns - self._looked_ns >= (FRESH_SECONDS_AT_REST if rests else FRESH_SECONDS) * NS_PER_SECOND
        if self._positions is None:
            if not is_due:
                return False
            self._looked_ns = now_ns
            self._attach()
        positions = self._positions
        assert positions is not None, "attached, or NotLive was raised"
        has_trades = self._trades.has_new if self._trades is not None else self._wants_trades()
        if not is_due and not has_trades and positions.updates.is_quiet:
            return False
        self._looked_ns = now_ns
        freshness = self._live.freshness()
        if self._live.attachments != self._attachment:
            raise NotLive("the core was started anew")
        changes = positions.look() if not positions.updates.is_quiet else []
        if now_ns - self._terms_ns >= TERMS_SECONDS * NS_PER_SECOND:
            self._terms_ns = now_ns
            changes += positions.rename()
        trades = self._look_for_trades()
        reflected = self.sight.sequence if positions.updates.waiting_count else max(self.sight.sequence, freshness.applied)
        former, self.sight = self.sight, Sight(freshness.state.value, reflected, freshness.durable)
        if former.state != self.sight.state:
            self._reason = "" if freshness.state.value == "live" else "a worker that makes the figures is away or far behind"
            self._tell_state()
        if changes or trades:
            self._tell(changes, trades)
        return bool(changes or trades)

    def _wants_trades(self) -> bool:
        return any(channel.has_trades for channel in self._channels.values())

    def _look_for_trades(self) -> list[Trade]:
        if not self._wants_trades():
            if self._trades is not None:
                self._trades.close()
                self._trades = None
            return []
        if self._trades is None:
            self._trades = Trades(self._live.host, self._open_segments())
        found = self._trades.look()
        if found is None:  # overrun: everyone begins anew, which says from which event on
            for channel in self._channels.values():
                if channel.has_trades:
                    channel.begin(self._turn, channel.rows)
                    for link in channel.links:
                        self._begin(link)
            return []
        return found

    def _attach(self) -> None:
        host = self._live.host
        freshness = self._live.freshness()
        positions = Positions(host)
        rows = [(channel, self._rows_of(channel, positions)) for channel in self._channels.values()]
        self._positions, self._attachment = positions, self._live.attachments
        self.sight, self._reason = Sight(freshness.state.value, freshness.applied, freshness.durable), ""
        for channel, shown in rows:
            channel.begin(self._turn, shown)
        for client in self._known.values():
            for link in client.links.values():
                self._begin(link)
                if client.wire is None:
                    self._behind.discard(link)
        self._tell_state()

    def _lose(self, reason: str) -> None:
        """The host is away: everyone is told once, and has a snapshot when it is back."""
        was_there = self._positions is not None
        self._let_go()
        if was_there or self.sight.state != STATE_STALE or not self._reason:
            self.sight, self._reason = self.sight._replace(state=STATE_STALE), reason
            self._say("the streams have no core to show", {"reason": reason})
            self._tell_state()
            self._turn += 1
            for channel in self._channels.values():
                channel.begin(self._turn, ())

    def _let_go(self) -> None:
        self._positions = None
        if self._trades is not None:
            self._trades.close()
            self._trades = None

    def _tell_state(self) -> None:
        data = {"reason": self._reason}
        for client in self.clients:
            self.tell(client, HEAD_STATE, data)

    def _tail(self, data: bytes, state: str = "", extra: bytes = b"") -> bytes:
        return tail_of(state or self.sight.state, self.sight.sequence, self.sight.durable, data, extra)

    # telling

    def _tell(self, changes: list[Change], trades: list[Trade]) -> None:
        now_ns = self._clock.monotonic_ns()
        for channel in self._channels.values():
            books = channel.books
            seen = changes if books is None else [change for change in changes if change.book in books]
            rows = [change.row for change in seen] if channel.has_positions else []
            items = [change.item for change in seen] if channel.has_positions else []
            booked: list[bytes] = []
            if channel.has_trades:
                booked = [trade.item for trade in trades if books is None or trade.touches(books)]
                channel.trades.extend(booked)
                channel.trades_count += len(booked)
            if not items and not booked:
                continue
            channel.rows.update(dict.fromkeys(rows))
            tail = self._tail(channel.data_of(items, booked))
            channel.keep(self._turn, tail)
            self._tell_channel(channel, rows, tail, now_ns)

    def _tell_channel(self, channel: Channel, rows: list[int], tail: bytes, now_ns: int) -> None:
        head, code, told = channel.head, 2 * self._turn, 0
        for link in channel.links:
            client = link.client
            if link.in_step and client.wire is not None and client.wire.waiting_bytes() <= BUFFER_BYTES_MAX:
                client.send(head, tail, code)
                link.trades_at = channel.trades_count
                told += 1
                continue
            if link.in_step:
                link.fall_behind()
                self._behind.add(link)
                self.figures.conflated += 1
            link.owed.update(dict.fromkeys(rows))
        self.figures.frames += told
        self.figures.bytes += told * len(tail)

    # those who are behind

    def _catch_up(self, now_ns: int) -> bool:
        """Send what is owed to those whose connections take something; whether something was sent."""
        sent = False
        made: dict[tuple[int, int], tuple[bytes, int]] = {}
        room = [CATCH_UP_NEW_ITEMS]
        for link in list(self._behind):
            client = link.client
            if client.wire is None:
                self._behind.discard(link)
                continue
            if client.wire.waiting_bytes() > BUFFER_BYTES_MAX:
                self._is_full(client, now_ns)
                continue
            client.full_since_ns = 0
            if self._positions is None:
                continue
            try:
                sent |= self._send_owed(link, made, room)
            except UnstableSlot:
                sent = True
            except StaleHost as error:
                self._lose(str(error))
                return sent
            if self._clock.monotonic_ns() - now_ns > CATCH_UP_NS_MAX:
                break
        return sent

    def _is_full(self, client: Client, now_ns: int) -> None:
        if not client.full_since_ns:
            client.full_since_ns = now_ns
        elif now_ns - client.full_since_ns > BEHIND_SECONDS_MAX * NS_PER_SECOND:
            self._drop_slow(client, f"took nothing for {BEHIND_SECONDS_MAX:g} s")

    def _drop_slow(self, client: Client, what: str) -> None:
        self.figures.dropped += 1
        self._say("a client was dropped: it is too slow", {"owner": client.owner, "why": what})
        self.drop(client, CLOSE_OVERLOADED, f"too slow: {what}")

    def _send_owed(self, link: Link, made: dict[tuple[int, int], tuple[bytes, int]], room: list[int]) -> bool:
        channel, client = link.channel, link.client
        if link.snapshot is not None:
            return self._send_snapshot(link, link.snapshot, made, room)
        missing = channel.trades_count - link.trades_at
        if missing > len(channel.trades):
            self._drop_slow(client, f"lacks more than the last {TRADES_KEPT} trades")
            return False
        rows = self._readable(list(link.owed)[:CATCH_UP_ITEMS], room)
        booked = list(channel.trades)[len(channel.trades) - missing :][:CATCH_UP_ITEMS] if channel.has_trades and missing else []
        if link.owed and not rows:
            return True  # too much was read in this window
        for row in rows:
            del link.owed[row]
        link.trades_at += len(booked)
        if rows or booked:
            tail = self._tail(channel.data_of([self._whole(row) for row in rows], booked))
            client.send(channel.head, tail, 2 * self._turn)
        if not link.owed and (not channel.has_trades or link.trades_at == channel.trades_count):
            link.in_step, link.since_turn = True, self._turn
            self._behind.discard(link)
        return True

    def _send_snapshot(self, link: Link, rows: Sequence[int], made: dict[tuple[int, int], tuple[bytes, int]], room: list[int]) -> bool:
        key = (id(rows), link.at)
        if key not in made:
            part = self._readable(rows[link.at : link.at + CATCH_UP_ITEMS], room)
            if not part and link.at < len(rows):
                return True  # too much was read in this window
            is_last = link.at + len(part) >= len(rows)
            extra = b',"topic":"%b","more":%b' % (link.channel.topic.encode(), b"false" if is_last else b"true")
            made[key] = self._tail(list_of([self._whole(row) for row in part]), STATE_SNAPSHOT, extra), link.at + len(part)
        tail, link.at = made[key]
        link.client.send(HEAD_SNAPSHOT, tail, 2 * self._turn)
        if link.at >= len(rows):
            link.snapshot = None
            self.figures.snapshots += 1
            if link.closes:
                self.unsubscribe(link.client, (SNAPSHOT,))
            elif not link.owed and link.trades_at == link.channel.trades_count:
                link.in_step, link.since_turn = True, self._turn
                self._behind.discard(link)
            if self.sight.state == STATE_STALE:
                self.tell(link.client, HEAD_STATE, {"reason": self._reason})
        return True

    def _readable(self, rows: Sequence[int], room: list[int]) -> list[int]:
        """The first of these rows whose words are known; some are read now, as many as a window has room for."""
        assert self._positions is not None, "attached"
        told = self._positions.told
        new = [row for row in rows if row not in told]
        if new:
            taken, beyond = new[: room[0]], new[room[0] :]
            room[0] -= len(taken)
            if taken:
                self._positions.learn(taken)
            if beyond:
                return list(rows[: list(rows).index(beyond[0])])
        return list(rows)

    def _whole(self, row: int) -> bytes:
        assert self._positions is not None, "attached"
        return self._positions.told.whole(row)

    # housekeeping

    def _tend(self, now_ns: int) -> None:
        """Heartbeats, alerts, and whom nobody expects back: a few times a second."""
        if now_ns - self._swept_ns >= NS_PER_SECOND // 4:
            self._swept_ns = now_ns
            self._beat(now_ns)
            self._sweep(now_ns)
        if now_ns - self._alerts_ns >= ALERTS_SECONDS * NS_PER_SECOND:
            self._alerts_ns = now_ns
            self._tell_alerts()

    def _beat(self, now_ns: int) -> None:
        data = {"time": format_time(self._clock.wall_ns())}
        for client in list(self.clients):
            assert client.wire is not None, "connected"
            if now_ns - client.heartbeat_ns < HEARTBEAT_SECONDS * NS_PER_SECOND:
                continue
            if client.wire.waiting_bytes() > BUFFER_BYTES_MAX:
                self._is_full(client, now_ns)
                continue
            client.heartbeat_ns, client.full_since_ns = now_ns, 0
            self.tell(client, HEAD_HEARTBEAT, data)

    def _sweep(self, now_ns: int) -> None:
        gone = [
            client for client in self._known.values() if client.wire is None and now_ns - client.left_ns > RESUME_SECONDS * NS_PER_SECOND
        ]
        for client in gone:
            self._forget(client)
        over = [key for key, channel in self._channels.items() if not channel.links and channel.kept_until_ns < now_ns]
        for key in over:
            del self._channels[key]

    def _tell_alerts(self) -> None:
        if self._alert_file is None or not any(client.wants_alerts for client in self.clients):
            return
        path = self._alert_file.path
        stamp = (stat.st_mtime_ns, stat.st_size) if path.exists() and (stat := path.stat()) else (0, 0)
        if stamp != self._alerts_stamp:
            self._alerts_stamp = stamp
            self._alerts = (self._alerts[0] + 1, _encode(self._alert_file.read(100)))
        change, data = self._alerts
        for client in self.clients:
            if client.wants_alerts and client.alerts_seen != change and client.wire is not None:
                client.alerts_seen = change
                client.send(HEAD_ALERTS, self._tail(data), 2 * self._turn + 1)
