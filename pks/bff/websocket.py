"""`/ws`: who may open a stream, what a client may ask for, and when its connection ends.

Owns the hand-shake, the client's messages and their limits, and the watch over tokens and grants of open streams. What is streamed is the
hub's. A plain ASGI application that is asked before Litestar: a stream needs none of its parsing, a frame goes to the transport without
passing its layers, and a token in the address never reaches its logs and error pages.

A token comes in the address (`?token=`, removed from the scope before anyone else sees it), as the subprotocol `bearer.<token>` (offer
`pks.v1` beside it, which is then the one that is chosen), or as the first message. Messages of a client are JSON objects:

    {"token": T}                             a fresh one, before the old one expires
    {"subscribe": [topics], "books": [names]} more topics; of these books, without `books` of all that the user may see
    {"unsubscribe": [topics]}                no longer these
    {"resume": {"stream": S, "seq": N}}      go on behind message N of stream S; `subscribe` and `books` beside it hold where S is forgotten

A book that the user may not see is answered as one that does not exist. What is wrong with a message is answered by one of type `error`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

import msgspec
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from pks.base.clock import NS_PER_SECOND, format_time
from pks.base.errors import Fatal, PksError, Retryable, shown
from pks.bff.hub import ALERTS, FED_TOPICS, HEAD_SUBSCRIBED, PLANNED_TOPICS, Books, Client, Hub, TooManyClients
from pks.bff.live import NotLive

MESSAGE_BYTES_MAX = 1 << 16
MESSAGES_A_SECOND_MAX = 100
BOOKS_MAX = 1_000
TOKEN_SECONDS = 5.0
"""How long a connection may be open before it says whose it is."""

JUDGE_SECONDS = 0.5
"""Open streams are judged again at each change of users, and at least so often."""

CLOSE_SECONDS = 5.0
"""How long a connection that is closed may take to read what was sent before, and why."""

CLOSE_POLICY, CLOSE_TOO_BIG, CLOSE_AGAIN_LATER = 1008, 1009, 1013
CLOSE_NOT_AUTHENTICATED, CLOSE_FORBIDDEN = 4401, 4403

SUBPROTOCOL, BEARER = "pks.v1", "bearer."
_REASON_BYTES_MAX = 120  # a control frame has 125 bytes, two of them the code

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Principal(Protocol):
    """Whose a stream is, and what he may do."""

    @property
    def name(self) -> str: ...
    @property
    def books(self) -> Books: ...
    @property
    def jti(self) -> str: ...
    @property
    def expires_at(self) -> float: ...
    def may(self, permission: Any) -> bool:
        """Whether his roles allow it."""


class Changes(Protocol):
    """Is set at each change of users and grants, of which it need not say what it was."""

    async def wait(self) -> Any:
        """Until there was a change."""

    def clear(self) -> None:
        """Wait for the next one."""


class Access(Protocol):
    """Judges tokens. Both methods raise Retryable when nobody can say, and another PksError when the token is not, or no longer, good."""

    async def judge(self, token: str) -> Any:
        """Whose token it is, with what he may do now: a Principal."""

    async def again(self, principal: Any) -> Any:
        """The same, of a token that was judged before."""

    def changes(self) -> Changes:
        """A watch of the caller's own."""


class WrongServer(Fatal):
    """The application is not served by what it was made for."""

    def __init__(self, send: object) -> None:
        super().__init__(f'streams need uvicorn with ws="websockets-sansio", not {shown(send)}')


class UvicornWire:
    """A connection of uvicorn's, written to directly: its own `send` waits for a client that does not read, and frames each message anew.

    Uses what uvicorn's protocol has inside: transport, conn, queue, close_sent and close_timer. A test holds them in place.
    """

    def __init__(self, send: Send) -> None:
        protocol = getattr(send, "__self__", None)
        if not isinstance(protocol, WebSocketsSansIOProtocol):
            raise WrongServer(send)
        self._protocol, self._transport = protocol, protocol.transport

    def write(self, opening: bytes, tail: bytes) -> None:
        """One text frame, not compressed, which is allowed whatever was agreed. Source: RFC 6455 section 5.2, RFC 7692 section 6."""
        if self._protocol.close_sent or self._transport.is_closing():
            return  # its handler is about to learn of it
        length = len(opening) + len(tail)
        if length < 126:
            header = bytes((0x81, length))
        elif length < 1 << 16:
            header = b"\x81\x7e" + length.to_bytes(2, "big")
        else:
            header = b"\x81\x7f" + length.to_bytes(8, "big")
        self._transport.writelines((header + opening, tail))

    def waiting_bytes(self) -> int:
        """What the kernel has not taken yet; less than there is in all, since it keeps some megabytes itself."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def close(self, code: int, reason: str) -> None:
        """As uvicorn does it, but without waiting until the client has read everything before."""
        protocol, transport = self._protocol, self._transport
        if protocol.close_sent or transport.is_closing():
            return
        try:
            protocol.conn.send_close(code, reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore"))
        except InvalidState:
            transport.close()  # the client was first
            return
        transport.write(b"".join(protocol.conn.data_to_send()))
        protocol.close_sent = True
        protocol.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if protocol.read_paused:
            protocol.read_paused = False
            transport.resume_reading()
        protocol.close_timer = protocol.loop.call_later(CLOSE_SECONDS, transport.abort)


class Resume(msgspec.Struct, forbid_unknown_fields=True):
    """Where a client goes on."""

    stream: str
    seq: int


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """All that a client may say; at least one of it."""

    token: str | None = None
    resume: Resume | None = None
    unsubscribe: list[str] | None = None
    subscribe: list[str] | None = None
    books: list[str] | None = None


_read_message = msgspec.json.Decoder(Message).decode


@dataclass(eq=False)
class Connection:
    """One open socket: whose it is, and its stream."""

    principal: Any
    wire: UvicornWire
    client: Client
    second: int = 0  # in which `messages` were counted
    messages: int = 0


class BadMessage(PksError):
    """A client's message cannot be followed; the connection stays."""

    def __init__(self, code: str, reason: str, field: str = "", value: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason, self.field, self.value = code, reason, field, value


class Door:
    """The ASGI application of `/ws`, and the watch over its streams (`run`)."""

    def __init__(self, hub: Hub, access: Access, *, read: Any, operate: Any, now: Callable[[], float] = time.time) -> None:
        """read, operate: the permissions that a stream needs, and that alerts need. now: unix seconds, against which tokens expire."""
        self._hub, self._access, self._now = hub, access, now
        self._read, self._operate = read, operate
        self.connections: set[Connection] = set()
        self.waiting_count = 0
        """Connections that have not said whose they are."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from its hand-shake to its end."""
        assert scope["type"] == "websocket", "/ws is asked for WebSockets only"
        token, subprotocol = take_token(scope)
        await receive()  # websocket.connect
        wire = UvicornWire(send)
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        if len(self.connections) + self.waiting_count >= self._hub.clients_max:
            wire.close(CLOSE_AGAIN_LATER, "the gateway has all the streams that it may have")
            return
        self.waiting_count += 1
        try:
            principal = await self._enter(token, receive, wire)
        finally:
            self.waiting_count -= 1
        if principal is not None:
            await self._serve(principal, wire, receive)

    async def _enter(self, token: str, receive: Receive, wire: UvicornWire) -> Any:
        """Whose it is; None where it was closed."""
        try:
            async with asyncio.timeout(TOKEN_SECONDS):
                return await self._judge(token or await self._first_token(receive), wire)
        except TimeoutError:
            wire.close(CLOSE_NOT_AUTHENTICATED, f"no token within {TOKEN_SECONDS:g} s")
        except BadMessage:
            wire.close(CLOSE_NOT_AUTHENTICATED, "the first message is to be the token")
        except _Gone:
            pass  # it hung up before it said anything
        return None

    async def _first_token(self, receive: Receive) -> str:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            raise _Gone
        token = _parsed(_text_of(message)).token
        if not token:
            raise BadMessage("TOKEN_REQUIRED", "the first message is to be the token")
        return token

    async def _judge(self, token: str, wire: UvicornWire) -> Any:
        """The principal of a token; None where the connection was closed for it."""
        try:
            principal = await self._access.judge(token)
        except Retryable:
            wire.close(CLOSE_AGAIN_LATER, "whether the token is good cannot be found out now")
        except PksError:
            wire.close(CLOSE_NOT_AUTHENTICATED, "the token is not good")
        else:
            if principal.may(self._read):
                return principal
            wire.close(CLOSE_FORBIDDEN, "this user may not read")
        return None

    async def _serve(self, principal: Any, wire: UvicornWire, receive: Receive) -> None:
        try:
            client = self._hub.join(principal.name, wire)
        except TooManyClients as error:
            wire.close(CLOSE_AGAIN_LATER, str(error))
            return
        connection = Connection(principal, wire, client)
        self.connections.add(connection)
        try:
            self._hub.welcome(client, self._facts(principal))
            while (message := await receive())["type"] != "websocket.disconnect":
                await self._take(connection, message)
        finally:
            self.connections.discard(connection)
            self._hub.leave(connection.client, wire)

    def _facts(self, principal: Any) -> dict[str, Any]:
        books = None if principal.books is None else sorted(principal.books)
        return {"user": principal.name, "books": books, "expires_at": format_time(int(principal.expires_at) * NS_PER_SECOND)}

    # messages

    async def _take(self, connection: Connection, message: MutableMapping[str, Any]) -> None:
        second = int(time.monotonic())
        connection.messages = connection.messages + 1 if second == connection.second else 1
        connection.second = second
        if connection.messages > MESSAGES_A_SECOND_MAX:
            connection.wire.close(CLOSE_POLICY, f"more than {MESSAGES_A_SECOND_MAX} messages a second")
            return
        text = _text_of(message)
        if len(text) > MESSAGE_BYTES_MAX:
            connection.wire.close(CLOSE_TOO_BIG, f"a message is longer than {MESSAGE_BYTES_MAX} bytes")
            return
        try:
            await self._follow(connection, _parsed(text))
        except BadMessage as error:
            self._hub.refuse(connection.client, error.code, error.reason, error.field, error.value)
        except NotLive as error:
            self._hub.refuse(connection.client, "NOT_LIVE", str(error))

    async def _follow(self, connection: Connection, said: Message) -> None:
        if said.token is not None and not await self._renew(connection, said.token):
            return
        if said.resume is not None and self._resume(connection, said.resume):
            return
        if said.unsubscribe is not None:
            self._hub.unsubscribe(connection.client, said.unsubscribe)
        if said.subscribe is not None or said.books is not None:
            self._subscribe(connection, said.subscribe or [], said.books)
        elif said.resume is not None:
            raise BadMessage("STREAM_UNKNOWN", "the stream is not known any more: subscribe", "resume", said.resume.stream)

    async def _renew(self, connection: Connection, token: str) -> bool:
        principal = await self._judge(token, connection.wire)
        if principal is None:
            return False
        if principal.name != connection.principal.name:
            connection.wire.close(CLOSE_NOT_AUTHENTICATED, "the fresh token is another user's")
            return False
        self._hold(connection, principal)
        self._hub.welcome(connection.client, self._facts(principal))
        return True

    def _resume(self, connection: Connection, where: Resume) -> bool:
        principal = connection.principal
        client = self._hub.resume(connection.client, where.stream, where.seq, lambda wanted: seen_of(wanted, principal.books))
        if client is None:
            return False
        connection.client = client
        return True

    def _subscribe(self, connection: Connection, topics: list[str], books: list[str] | None) -> None:
        principal = connection.principal
        for topic in topics:
            if topic in PLANNED_TOPICS:
                raise BadMessage("TOPIC_NOT_FED", "nothing feeds this topic in this version", "subscribe", topic)
            if topic not in FED_TOPICS:
                raise BadMessage("UNKNOWN_TOPIC", "there is no such topic", "subscribe", topic[:100])
            if topic == ALERTS and not principal.may(self._operate):
                raise BadMessage("FORBIDDEN", "alerts are for those who operate the system", "subscribe", topic)
        wanted = self._wanted(principal, books)
        seen = seen_of(wanted, principal.books)
        self._hub.subscribe(connection.client, topics, wanted, seen)
        told = sorted({*connection.client.links, *topics})
        self._hub.tell(connection.client, HEAD_SUBSCRIBED, {"topics": told, "books": None if seen is None else sorted(seen)})

    def _wanted(self, principal: Any, books: list[str] | None) -> Books:
        if books is None:
            return None
        if len(books) > BOOKS_MAX:
            raise BadMessage("TOO_MANY_BOOKS", f"at most {BOOKS_MAX} books can be named", "books")
        for book in books:
            exists = self._hub.is_book(book)
            if not exists or (principal.books is not None and book not in principal.books):
                raise BadMessage("UNKNOWN_BOOK", "there is no such book", "books", book[:100])
        return frozenset(books)

    # the watch

    async def run(self) -> None:
        """Judge every open stream again at each change of users and grants, and at least every JUDGE_SECONDS."""
        changes = self._access.changes()
        while True:
            try:
                async with asyncio.timeout(JUDGE_SECONDS):
                    await changes.wait()
            except TimeoutError:
                pass  # nothing was said to change: tokens expire without a word
            changes.clear()
            await self.judge_all()

    async def judge_all(self) -> None:
        """Close what may not go on, and cut what may no longer be seen. Each token is judged once, however many streams it has."""
        of_token: dict[str, list[Connection]] = {}
        for connection in self.connections:
            of_token.setdefault(connection.principal.jti, []).append(connection)
        await asyncio.gather(*(self._judge_again(connections) for connections in of_token.values()))

    async def _judge_again(self, connections: list[Connection]) -> None:
        former = connections[0].principal
        principal, code, reason = former, 0, ""
        if former.expires_at <= self._now():
            code, reason = CLOSE_NOT_AUTHENTICATED, "the token has expired"
        else:
            try:
                principal = await self._access.again(former)
            except Retryable:
                return  # nobody can revoke it while nobody can say: what was granted stays until the token expires
            except PksError:
                code, reason = CLOSE_NOT_AUTHENTICATED, "the token is not good any more"
            else:
                if not principal.may(self._read):
                    code, reason = CLOSE_FORBIDDEN, "this user may not read any more"
        for connection in connections:
            if connection.principal is not former:
                continue  # a fresh token came meanwhile
            if code:
                self._hub.drop(connection.client, code, reason)
                connection.wire.close(code, reason)
            else:
                self._hold(connection, principal)

    def _hold(self, connection: Connection, principal: Any) -> None:
        """From now on the connection is this principal's."""
        connection.principal = principal
        client = connection.client
        seen = seen_of(client.wanted, principal.books)
        if seen != client.books:
            self._hub.show(client, seen)
        if client.wants_alerts and not principal.may(self._operate):
            self._hub.unsubscribe(client, (ALERTS,))


class _Gone(Exception):
    """The client has hung up."""


def seen_of(wanted: Books, granted: Books) -> Books:
    """Which of the wanted books are seen by him who is granted these."""
    if wanted is None or granted is None:
        return granted if wanted is None else wanted
    return wanted & granted


def _text_of(message: MutableMapping[str, Any]) -> bytes:
    text: str | None = message.get("text")
    return bytes(message["bytes"]) if text is None else text.encode()


def _parsed(text: bytes) -> Message:
    try:
        return _read_message(text)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise BadMessage("BAD_MESSAGE", f"not a message: {str(error)[:200]}") from error


# Tokens in places where logs are made.


def take_token(scope: Scope) -> tuple[str, str | None]:
    """(the token that came with the hand-shake or "", the subprotocol to agree on); the scope does not have the token any more."""
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    token = next((value for name, value in query if name == "token"), "")
    offered: list[str] = scope["subprotocols"]
    bearer = next((offer for offer in offered if offer.startswith(BEARER)), "")
    scope["query_string"] = b""
    scope["subprotocols"] = [offer for offer in offered if not offer.startswith(BEARER)]
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"sec-websocket-protocol"]
    chosen = SUBPROTOCOL if SUBPROTOCOL in offered else bearer or None
    return token or bearer.removeprefix(BEARER), chosen


_TOKEN = re.compile(r"(token=|bearer\.)[^\s&\"',]+", re.IGNORECASE)


class WithoutTokens(logging.Filter):
    """Removes tokens from what uvicorn logs of requests. `hide_tokens` puts it where it is needed."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes, without tokens."""
        text = record.getMessage()
        if _TOKEN.search(text):
            record.msg, record.args = _TOKEN.sub(r"\1(hidden)", text), None
        return True


def hide_tokens() -> None:
    """No logger of the server writes a token, whatever its level. Call it once, before the server starts."""
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        if not any(isinstance(one, WithoutTokens) for one in logger.filters):
            logger.addFilter(WithoutTokens())
