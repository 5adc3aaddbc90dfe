"""What changes, for all streams at once: one task reads the host's updates, and each stream has the keys that it is still to be told.

Owns the conflating reader of the updates rings and the state of each client: latest wins, so what waits for a client is one entry a
position. A stream that joins takes its snapshot through `Watcher.snapshot` while changes are noted already, so there is no gap. While
nobody has joined, nothing is read. When the host went away and came back, every stream begins anew. May not write to a socket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice

from pks.base.errors import Retryable
from pks.bff.grpc_messages import Key, Told
from pks.bff.live import Freshness, Live, NotLive, State
from pks.client.errors import UnknownName
from pks.client.host import Host
from pks.client.updates import Updates
from pks.engine.positions.view import PositionView

LOOK_SECONDS, REST_SECONDS = 0.002, 0.01
"""Between two looks at the rings: while something changes, and when nothing did for RESTS_AFTER_SECONDS."""

RESTS_AFTER_SECONDS = 5.0

NAMES_SECONDS = 1.0
"""How soon a change of reference data is shown by positions that no event changed."""

AWAY_SECONDS = 0.05
"""Between two looks for a host that is gone."""

SNAPSHOT_POSITIONS = 128
"""Positions read and encoded at a time: a few milliseconds, after which others have their turn."""


Wanted = Callable[[Key], bool]
"""Which positions a stream is told of; another one may take its place while it runs."""


class Watcher:
    """One stream's part: what it wants, what it is still to be told, and whether it needs a snapshot first."""

    def __init__(self, feed: Feed, wants: Wanted) -> None:
        self.wants, self._feed = wants, feed
        self.needs_snapshot = True
        self.pending: dict[Key, Told | None] = {}
        """By key: the version that the client has, None where it has none."""
        self._read: dict[Key, Told] = {}
        """What the client has of its snapshot and no change has followed; the feed's latest versions are not repeated here."""
        self.woken = asyncio.Event()

    def note(self, now: Told, before: Told | None) -> None:
        """A position changed."""
        if self.needs_snapshot or not self.wants(now.key):
            return
        has = self._read.pop(now.key, before)
        if has is not None and not now.is_news_to(has):
            self._read[now.key] = has  # the snapshot read it after it changed
        elif now.key not in self.pending:
            self.pending[now.key] = has
            self.woken.set()

    def renew(self) -> None:
        """Begin anew with a snapshot."""
        self.needs_snapshot = True
        self.pending.clear()
        self._read.clear()
        self.woken.set()

    async def snapshot(self, books: Iterable[str] | None, instrument: str | None, flat: bool) -> AsyncIterator[list[Told]]:
        """All positions of these that are wanted, in parts. What changes meanwhile is pending afterwards. Raises NotLive, StaleHost."""
        positions = self._feed.host.positions
        attachments = self._feed.attachments
        self.pending.clear()
        self._read.clear()
        self.needs_snapshot = False
        rows = positions.rows(None if books is None else [book for book in books if book in positions.books], instrument)
        for at in range(0, len(rows), SNAPSHOT_POSITIONS):
            if self._feed.attachments != attachments:
                raise NotLive("it was started again")
            views = positions.views(positions.snapshot(rows[at : at + SNAPSHOT_POSITIONS]), flat=flat)
            yield [self._taken(view) for view in views if self.wants((view.book, view.instrument))]

    def _taken(self, view: PositionView) -> Told:
        told = self._feed.told(view)
        self.pending.pop(told.key, None)  # the slot is read after that change
        if self._feed.latest.get(told.key) is not told:
            self._read[told.key] = told
        return told

    def take(self, most: int) -> list[tuple[Told, Told | None]]:
        """Up to so many of what is to be told, each with what the client knows of it; they are not pending any more."""
        latest, taken = self._feed.latest, []
        for key in list(islice(self.pending, most)):
            taken.append((latest[key], self.pending.pop(key)))
        return taken

    async def wait(self, seconds: float) -> None:
        """Until there is something to tell, or for so long."""
        if not self.woken.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self.woken.wait()
            except TimeoutError:
                return
        self.woken.clear()


class Feed:
    """The reader; `join` and `leave` for each stream. `freshness` is as of the last look."""

    def __init__(self, live: Live, failed: Callable[[BaseException], None], now: Callable[[], float] = time.monotonic) -> None:
        """failed: told of what nobody foresaw; the feed goes on."""
        self._live, self._failed, self._now = live, failed, now
        self.latest: dict[Key, Told] = {}
        """Positions that changed since the reading began, as clients were told or are to be."""
        self._read: dict[Key, Told] = {}
        """Positions that snapshots read and that have not changed since: encoded once for all that join."""
        self.watchers: set[Watcher] = set()
        self.freshness = Freshness(State.STALE, 0, 0)
        self.attachments = 0
        self._updates: Updates | None = None
        self._task: asyncio.Task[None] | None = None
        self._worked_at = now()
        self._named_at, self._names_change = now(), -1

    @property
    def host(self) -> Host:
        """A host that lives, whose changes are noted. Raises NotLive."""
        host = self._live.host
        if self._updates is None or self._live.attachments != self.attachments:
            self._begin(host)
        return host

    def join(self, wants: Wanted) -> Watcher:
        """A new stream; it begins with a snapshot. What changes is noted from now on."""
        watcher = Watcher(self, wants)
        self.watchers.add(watcher)
        if self._task is None or self._task.done():
            self._look()  # what the stream says first is of now
            self._task = asyncio.get_running_loop().create_task(self._run())
        return watcher

    def told(self, view: PositionView) -> Told:
        """A position that a snapshot read."""
        key = (view.book, view.instrument)
        for kept in (self.latest.get(key), self._read.get(key)):
            if kept is not None and kept.view == view:
                return kept
        self._read[key] = made = Told(view)
        return made

    def leave(self, watcher: Watcher) -> None:
        """The stream has ended."""
        self.watchers.discard(watcher)

    async def stop(self) -> None:
        """Read no more."""
        self.watchers.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self.watchers:
            try:
                await asyncio.sleep(self._look())
            except Exception as error:  # one that nobody foresaw: streams are told stale, and the reader begins anew
                self._failed(error)
                self._lost()
                await asyncio.sleep(AWAY_SECONDS)
        self._updates = None  # who joins next begins anew; what was encoded is given back
        self.latest.clear()
        self._read.clear()

    def _look(self) -> float:
        """Note what has changed; seconds to the next look."""
        try:
            host = self.host
            freshness = self._live.freshness()  # before the rings are read: what they hold then reflects all of it
            assert self._updates is not None, "made with the host"
            changed = self._renamed(host) + self._updates.poll()  # what changed too comes last, as it is now
        except (Retryable, UnknownName):  # the host is gone, or a slot did not hold still: what was noted may have a gap
            self._lost()
            return AWAY_SECONDS
        self._say(freshness)
        for view in changed:
            self._note(view)
        now = self._now()
        if changed:
            self._worked_at = now
        return LOOK_SECONDS if now - self._worked_at < RESTS_AFTER_SECONDS else REST_SECONDS

    def _note(self, view: PositionView) -> None:
        key = (view.book, view.instrument)
        read = self._read.pop(key, None)
        now = read if read is not None and read.view == view else Told(view)
        before = self.latest.get(key)
        self.latest[key] = now
        for watcher in self.watchers:
            watcher.note(now, before)

    def _renamed(self, host: Host) -> list[PositionView]:
        """Positions whose reference data changed what they show, though no event of theirs did."""
        if self._now() - self._named_at < NAMES_SECONDS:
            return []
        self._named_at = self._now()
        names = host.names
        names.refresh()
        if names.change == self._names_change:
            return []
        self._names_change = names.change
        renamed = []
        for told in (*self.latest.values(), *self._read.values()):
            record = told.view.record
            terms = names.terms(int(record["book_id"]), int(record["instrument_id"]))
            if terms != told.view.terms:
                renamed.append(PositionView.from_record(record, terms))
        return renamed

    def _say(self, freshness: Freshness) -> None:
        if freshness.state is not self.freshness.state:
            for watcher in self.watchers:
                watcher.woken.set()
        self.freshness = freshness

    def _begin(self, host: Host) -> None:
        self._updates = host.updates()
        self._names_change = host.names.change
        self.attachments = self._live.attachments
        self.latest.clear()
        self._read.clear()
        for watcher in self.watchers:
            watcher.renew()

    def _lost(self) -> None:
        self._updates = None
        stale = self.freshness._replace(state=State.STALE)
        if stale != self.freshness:
            self.freshness = stale
            for watcher in self.watchers:
                watcher.woken.set()


assert LOOK_SECONDS <= REST_SECONDS <= 0.01, "a window is at most 10 ms"
