"""pks.v1.PositionsSimulatorService: what each call answers, and to whom.

Owns the calls' checks (role, book, instrument), the life of a stream and what it is told. Reads slots through `Live` and the feed; books,
asks about the past and judges tokens through the Protocols below, which other modules of the gateway fulfil. Who may not see a book gets
the very answer that one without existence gets, whatever else is wrong with the call. The server around it is `grpc_server`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from json import JSONDecodeError, JSONDecoder
from typing import Any, NoReturn, Protocol
from urllib.parse import unquote

import grpc
from google.protobuf.json_format import ParseDict

from pks.base.errors import Code, PksError, Retryable
from pks.bff.access import Permission
from pks.bff.commands import key_of_command
from pks.bff.grpc_feed import Feed, Watcher
from pks.bff.grpc_messages import STATES, Key, Told, fresh, fresh_of, heartbeat_message, patch_message, snapshot_message
from pks.bff.grpc_status import end, not_authenticated
from pks.bff.live import Live, State
from pks.bff.problems import Problem, not_found, problem_of, refused
from pks.client.bulk import Outcome
from pks.client.errors import NoPosition, UnknownName
from pks.client.host import Host
from pks.edges.files.forms import Options, object_row, unique_object
from pks.edges.files.rows import FIELDS, RowError, TradeRow
from pks.layouts.codes import Subject
from pks.proto.pks.v1 import positions_service_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["PositionsSimulatorService"]

READ = Permission.READ

SLOW_SECONDS = 10.0
"""A client that takes no message for so long is behind for good: what changes is conflated meanwhile, then the stream ends."""

HEARTBEAT_SECONDS = 1.0
JUDGE_SECONDS = 0.5
"""How often who streams is judged again: a grant or token that is gone works for a second at the most."""

PATCHES_A_MESSAGE = 250
HISTORY_EVENTS, HISTORY_EVENTS_MAX = 100, 1000
WHAT_IF_TRADES_MAX = 1000
BOOKS_ASKED_MAX = 10_000


class Principal(Protocol):
    """Who calls. expires_at: unix seconds, when the token ends."""

    @property
    def books(self) -> frozenset[str] | None: ...

    @property
    def expires_at(self) -> float: ...

    def may(self, permission: Any) -> bool: ...

    def sees(self, book: str) -> bool: ...


class Access(Protocol):
    """`access.Access`. Raises a Retryable where nobody can say, another PksError where the token is not good (any more)."""

    async def judge(self, token: str) -> Any: ...

    async def again(self, principal: Any) -> Any: ...

    def changes(self) -> asyncio.Event: ...


class Booking(Protocol):
    """`commands.Commands`: judges what the caller may book, answers when it is durable. Raises Problem, Retryable."""

    async def book(self, rows: Sequence[TradeRow | RowError], principal: Any, key: str = "", address: str = "") -> list[Outcome]: ...


class Past(Protocol):
    """What the journal knows (`grpc_past`). Answers are in the words of the messages that carry them. Raises Problem, Retryable."""

    async def history(self, book: str, instrument: str, *, after: int, limit: int, known_at: int | None) -> Mapping[str, Any]: ...

    async def what_if(
        self, rows: Sequence[Mapping[str, Any]], marks: Mapping[str, str], books: frozenset[str] | None
    ) -> Mapping[str, Any]: ...


caller: contextvars.ContextVar[Any] = contextvars.ContextVar("caller")
"""The principal of the call that this task serves; set by the interceptor, in the same task."""

Call = Callable[[Any, Any], Awaitable[Any]]


def answering(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A call whose errors become statuses. What nobody foresaw is told to the service's `failed`, not to the caller."""

    async def answered(self: Service, request: Any, context: Any) -> Any:
        try:
            return await call(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            problem = problem_of(error)
            if problem.status == 500:
                self.failed(error)
            await end(context, problem)

    return answered


class Asked:
    """Which positions a stream is about: named books (None: all that the caller may see), and one instrument or all."""

    def __init__(self, books: frozenset[str] | None, instrument: str | None) -> None:
        self.books, self.instrument = books, instrument

    def check(self, principal: Principal, host: Host) -> None:
        """Raise Problem unless the caller may see all of it."""
        check_reader(principal)
        for book in sorted(self.books or ()):
            check_book(principal, host, book, "books")

    def is_for(self, principal: Principal) -> Callable[[Key], bool]:
        """Which keys the stream is told of."""
        books, instrument, sees = self.books, self.instrument, principal.sees
        return lambda key: (instrument is None or key[1] == instrument) and (books is None or key[0] in books) and sees(key[0])

    def rows_of(self, principal: Principal) -> frozenset[str] | None:
        """Books to look through."""
        return self.books if self.books is not None else principal.books


class Stream:
    """One running stream: its caller as of now, its watcher, and its writes."""

    def __init__(self, context: Any, principal: Any, asked: Asked, watcher: Watcher) -> None:
        self.context, self.principal, self.asked, self.watcher = context, principal, asked, watcher
        self.ended: Problem | None = None
        self.told_state: State | None = None
        self.next_beat = 0.0

    def judged(self, principal: Any) -> None:
        """The caller as it is now."""
        if principal.books != self.principal.books:
            self.watcher.renew()
        self.principal = principal
        self.watcher.wants = self.asked.is_for(principal)

    def end(self, problem: Problem) -> None:
        """End it at its next step, which is soon."""
        self.ended = problem
        self.watcher.woken.set()

    async def write(self, message: bytes) -> None:
        """Send one message. Raises Problem for a client that takes none."""
        self.check()
        try:
            async with asyncio.timeout(SLOW_SECONDS):
                await self.context.write(message)
        except TimeoutError:
            text = f"nothing was read for {SLOW_SECONDS:.0f} s: connect again for a snapshot"
            raise Problem(429, "SLOW_CONSUMER", text) from None

    def check(self) -> None:
        """Raise what ended the stream."""
        if self.ended is not None:
            raise self.ended
        if time.time() >= self.principal.expires_at:
            raise not_authenticated()

    def beats(self, state: State) -> bool:
        """Whether state and sequences are to be said although nothing changed."""
        now = time.monotonic()
        if state is self.told_state and now < self.next_beat:
            return False
        self.next_beat, self.told_state = now + HEARTBEAT_SECONDS, state
        return True


class Service:
    """The calls, for `pks.proto.service.handlers`."""

    def __init__(
        self, live: Live, access: Access, booking: Booking, past: Past, streams_max: int, failed: Callable[[BaseException], None]
    ) -> None:
        self._live, self._access, self._booking, self._past = live, access, booking, past
        self.failed, self._streams_max = failed, streams_max
        self.feed = Feed(live, failed)
        self.streams: set[Stream] = set()
        self._judging: asyncio.Task[None] | None = None

    @property
    def calls(self) -> dict[str, Call]:
        """By the names of the .proto file."""
        return {method.name: getattr(self, method.name) for method in SERVICE.methods}

    async def stop(self) -> None:
        """End what runs for streams."""
        if self._judging is not None:
            self._judging.cancel()
            await asyncio.gather(self._judging, return_exceptions=True)
        await self.feed.stop()

    # --- one answer

    @answering
    async def GetPosition(self, request: Any, context: Any) -> bytes:
        principal, host = self._reader(), self._live.host
        check_book(principal, host, request.book)
        freshness = self._live.freshness()  # before the slot is read, which then reflects all of it
        try:
            view = host.positions[request.book, instrument_of(host, request.instrument)]
        except NoPosition:
            raise not_found("position", f"{request.book}/{request.instrument}") from None
        return Told(view).whole + fresh_of(freshness)

    @answering
    async def GetPositionHistory(self, request: Any, context: Any) -> bytes:
        principal, host = self._reader(), self._live.host
        check_book(principal, host, request.book)
        instrument = instrument_of(host, request.instrument)
        if not 0 <= request.limit <= HISTORY_EVENTS_MAX:
            text = f"a page has at most {HISTORY_EVENTS_MAX} events"
            raise refused(Code.OUT_OF_RANGE, "limit", request.limit, text)
        found = await self._past.history(
            request.book, instrument, after=request.after, limit=request.limit or HISTORY_EVENTS, known_at=request.known_at or None
        )
        return self._of_the_past(pb.PositionHistory, found)

    @answering
    async def BookTrade(self, request: Any, context: Any) -> bytes:
        row, key = row_of(request), key_of_command(None, request.idempotency_key)
        (outcome,) = await self._booking.book([row], caller.get(), key, address_of(context.peer()))
        if outcome.status == "REFUSED":
            code = Code.__members__.get(outcome.code)
            if code is None:
                raise Problem(422, outcome.code, outcome.reason, outcome.field, outcome.value)
            raise refused(code, outcome.field, outcome.value, outcome.reason)
        freshness = self._live.freshness()
        answer = pb.BookTradeResponse(state=STATES[freshness.state], durable_sequence=freshness.durable, **outcome._asdict())
        return bytes(answer.SerializeToString())

    @answering
    async def WhatIf(self, request: Any, context: Any) -> bytes:
        principal = self._reader()
        if len(request.trades) > WHAT_IF_TRADES_MAX:
            raise refused(Code.GROUP_TOO_LARGE, "trades", len(request.trades), f"at most {WHAT_IF_TRADES_MAX} trades")
        rows = [words_of(trade) for trade in request.trades]
        found = await self._past.what_if(rows, dict(request.marks), principal.books)
        return self._of_the_past(pb.WhatIfResponse, found)

    def _of_the_past(self, kind: Any, words: Mapping[str, Any]) -> bytes:
        """An answer about the past: what it reflects it says itself."""
        freshness = self._live.freshness()
        message = ParseDict(words, kind(), ignore_unknown_fields=True)
        message.state, message.durable_sequence = STATES[freshness.state], freshness.durable
        return bytes(message.SerializeToString())

    def _reader(self) -> Any:
        principal = caller.get()
        check_reader(principal)
        return principal

    # --- streams

    @answering
    async def StreamPositions(self, request: Any, context: Any) -> None:
        async with self._stream(request, context) as stream:
            watcher, feed = stream.watcher, self.feed
            while True:
                stream.check()
                if watcher.needs_snapshot:
                    async for part in self._snapshot(stream, flat=request.flat):
                        freshness = fresh_of(feed.freshness)
                        for told in part:
                            await stream.write(told.whole + freshness)
                for told, _ in watcher.take(PATCHES_A_MESSAGE):
                    await stream.write(told.whole + fresh_of(feed.freshness))
                if stream.beats(feed.freshness.state) and request.heartbeats:
                    await stream.write(fresh_of(feed.freshness))
                if not watcher.pending:
                    await self._rest(stream)

    @answering
    async def WatchInstrumentUpdates(self, request: Any, context: Any) -> None:
        async with self._stream(request, context) as stream:
            watcher, feed = stream.watcher, self.feed
            sequence = 0  # what was told reflects every event up to this one
            while True:
                stream.check()
                if watcher.needs_snapshot:
                    sequence = await self._tell_snapshot(stream, sequence)
                changes = watcher.take(PATCHES_A_MESSAGE)
                freshness = feed.freshness
                if not watcher.pending and not watcher.needs_snapshot:
                    sequence = freshness.applied
                said = fresh(freshness.state, sequence, freshness.durable)
                if changes:
                    await stream.write(patch_message(changes, said))
                if stream.beats(freshness.state):
                    await stream.write(heartbeat_message(said))
                if not watcher.pending:
                    await self._rest(stream)

    async def _tell_snapshot(self, stream: Stream, sequence: int) -> int:
        """All positions in messages, the first and the last said to be it; the sequence that they reflect."""
        first, held, applied = True, None, self.feed.freshness.applied
        async for part in self._snapshot(stream, flat=True):
            if held is not None:
                await stream.write(snapshot_message(held, self._said(sequence), first=first, last=False))
                first = False
            sequence = applied
            held = [told.whole for told in part]
        if stream.watcher.needs_snapshot:
            return sequence  # it did not come to its end, and begins anew
        await stream.write(snapshot_message(held or (), self._said(applied), first=first, last=True))
        return applied

    def _said(self, sequence: int) -> bytes:
        freshness = self.feed.freshness
        return fresh(freshness.state, sequence, freshness.durable)

    async def _snapshot(self, stream: Stream, flat: bool) -> AsyncIterator[list[Told]]:
        """The parts of a snapshot; none while the core gives no figures: the stream goes on, says so, and has it later."""
        watcher, asked = stream.watcher, stream.asked
        try:
            async for part in watcher.snapshot(asked.rows_of(stream.principal), asked.instrument, flat):
                yield part
        except Retryable:
            watcher.renew()
            watcher.woken.clear()  # the feed wakes it when there is a core again

    async def _rest(self, stream: Stream) -> None:
        seconds = min(stream.next_beat - time.monotonic(), stream.principal.expires_at - time.time())
        await stream.watcher.wait(max(seconds, 0.001))

    @asynccontextmanager
    async def _stream(self, request: Any, context: Any) -> AsyncIterator[Stream]:
        """A stream as long as it runs."""
        principal, host = caller.get(), self.feed.host
        if len(self.streams) >= self._streams_max:
            raise Problem(429, "TOO_MANY_STREAMS", f"{self._streams_max} streams run already")
        if len(request.books) > BOOKS_ASKED_MAX:
            raise refused(Code.OUT_OF_RANGE, "books", len(request.books), f"at most {BOOKS_ASKED_MAX} books")
        named = frozenset([*request.books, *([request.book] if request.book else ())])
        asked = Asked(named or None, None)
        asked.check(principal, host)
        if request.instrument:
            asked.instrument = instrument_of(host, request.instrument)
        watcher = self.feed.join(asked.is_for(principal))
        stream = Stream(context, principal, asked, watcher)
        self.streams.add(stream)
        if self._judging is None or self._judging.done():
            self._judging = asyncio.get_running_loop().create_task(self._judge())
        try:
            yield stream
        finally:
            self.streams.discard(stream)
            self.feed.leave(watcher)

    async def _judge(self) -> None:
        """Judge the callers of all streams again and again, as long as there are any."""
        changed = self._access.changes()
        while self.streams:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(JUDGE_SECONDS):
                    await changed.wait()
            changed.clear()
            await asyncio.gather(*map(self._judge_one, list(self.streams)))

    async def _judge_one(self, stream: Stream) -> None:
        try:
            principal = await self._access.again(stream.principal)
            if principal != stream.principal:
                stream.judged(principal)
                try:
                    stream.asked.check(principal, self._live.host)
                except Retryable:
                    return  # no core, so nothing is told; checked again when there is one
        except (Problem, Retryable) as error:
            stream.end(problem_of(error))
        except PksError:
            stream.end(not_authenticated())
        except Exception as error:  # nobody foresaw it: who cannot be judged is told nothing
            self.failed(error)
            stream.end(problem_of(error))


def check_reader(principal: Principal) -> None:
    """Raise Problem unless the caller may read."""
    if not principal.may(READ):
        raise Problem(403, "FORBIDDEN", f"this asks for the permission {READ.name}, which none of your roles has")


def check_book(principal: Principal, host: Host, book: str, field: str = "book") -> None:
    """Raise Problem unless the book exists and the caller may see it."""
    if not book:
        raise refused(Code.MISSING_FIELD, field)
    if not principal.sees(book):
        raise not_found(field, book)
    try:  # behind the question whether he may see it: how long a search takes tells him nothing then
        host.names.book_id(book)
    except UnknownName:
        raise not_found(field, book) from None


def instrument_of(host: Host, name: str) -> str:
    """The id of an instrument by any of its names. Raises Problem."""
    if not name:
        raise refused(Code.MISSING_FIELD, "instrument")
    names = host.names
    try:
        return names.code_of(Subject.INSTRUMENT, names.instrument_id(name))
    except UnknownName:
        raise not_found("instrument", name) from None


def address_of(peer: str) -> str:
    """The host of a peer as grpc names it: ipv4:127.0.0.1:40000, ipv6:%5B::1%5D:40000."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def words_of(request: Any) -> dict[str, Any]:
    """A message as an object of the trade input. Raises Problem."""
    words: dict[str, Any] = {name: value for name in FIELDS if (value := getattr(request, name))}
    if request.instrument_terms:
        if request.instrument:
            raise refused(Code.BAD_ROW, "instrument_terms", None, "the instrument is given by its name and by its terms")
        words["instrument"] = _terms(request.instrument_terms)
    return words


def row_of(request: Any) -> TradeRow:
    """The row of the trade input that a message is. Raises Problem."""
    row = object_row(words_of(request), 1, 1, Options())
    if isinstance(row, RowError):
        raise refused(row.code, row.field, row.value, row.reason)
    return row


_TERMS = JSONDecoder(object_pairs_hook=unique_object, parse_float=str, parse_int=str, parse_constant=str)


def _terms(text: str) -> dict[str, Any]:
    def wrong(reason: str) -> NoReturn:
        raise refused(Code.BAD_ROW, "instrument_terms", text, reason)

    try:
        terms = _TERMS.decode(text)
    except (JSONDecodeError, RecursionError):
        wrong("not JSON")
    if not isinstance(terms, dict):
        wrong("not a JSON object")
    return terms


assert set(FIELDS) <= set(pb.BookTradeRequest.DESCRIPTOR.fields_by_name.keys()), "a request has every word of the trade input"
assert JUDGE_SECONDS < HEARTBEAT_SECONDS < SLOW_SECONDS, "a stream is judged more often than it beats, and beats while it is slow"
