"""A system followed at its gateway: the way of `pks.connect("host:8443", token)`. Positions come as a snapshot and patches, and it books.

Owns the channel and the thread that reads its stream; connects again by itself, with a fresh token where it was given a function for one,
and begins with a clean snapshot each time. A token is in no text that this module makes. Needs grpcio; no event loop.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from pks.base.errors import PksError, Retryable
from pks.client.remote import PAUSE_SECONDS, STALE_SECONDS, RemoteHost, RemotePosition, Token
from pks.proto.pks.v1 import positions_service_pb2 as pb
from pks.proto.service import Stub

SERVICE = pb.DESCRIPTOR.services_by_name["PositionsSimulatorService"]

CALL_SECONDS = 30.0
"""How long a booking may take, with all attempts; by its key it is booked once, however often it is sent."""

DENIED_SECONDS = 2.0
"""Before the next attempt of who was denied."""

MESSAGE_BYTES_MAX = 16 << 20
PORT = 8443

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", int(STALE_SECONDS * 1000)),
    ("grpc.initial_reconnect_backoff_ms", int(PAUSE_SECONDS * 1000)),
    ("grpc.min_reconnect_backoff_ms", int(PAUSE_SECONDS * 1000)),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # a closed host's connection is no other's
)

_AGAIN = (grpc.StatusCode.UNAVAILABLE,)
_NOT_ALLOWED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class NotAllowed(PksError):
    """The gateway does not take the token, or its roles do not allow the call."""

    def __init__(self, shown: str, reason: str) -> None:
        super().__init__(f"{shown}: {reason}")
        self.shown, self.reason = shown, reason


class BookingRefused(PksError):
    """The trade was not booked. code: of `pks codes`; field, value: which part of it."""

    def __init__(self, code: str, field: str, value: str, reason: str) -> None:
        super().__init__(f"{code}: {f'{field} = {value!r}: ' if field else ''}{reason}")
        self.code, self.field, self.value, self.reason = code, field, value, reason


class BookingUnknown(Retryable):
    """Whether the trade was booked is not known: send it again with the same trade id, or key."""

    def __init__(self, shown: str, reason: str) -> None:
        super().__init__(f"{shown}: {reason}")
        self.shown, self.reason = shown, reason


class Booked(NamedTuple):
    """What became of a trade. status: ACCEPTED, DUPLICATE (sequence is the first one's), WAITING (for a second person)."""

    trade_id: str
    status: str
    sequence: int
    approval: int = 0  # of what waits: the number under which it does


class GatewayHost(RemoteHost):
    """A system, followed at its gateway, in which trades can be booked."""

    def __init__(self, address: str, token: Token, ca: str = "") -> None:
        """address: host:port, or a host alone. ca: file of certificates; "": those that the machine trusts. Raises OSError."""
        target = address if re.search(r":\d+$", address) else f"{address}:{PORT}"
        super().__init__(f"gateway {target}")
        self._token = token
        self._denied = ""
        self._call: Any = None
        self._calls = threading.Lock()
        credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes() if ca else None)
        self._channel = grpc.secure_channel(target, credentials, _OPTIONS)
        self._stub = Stub(self._channel, SERVICE)
        self._thread.start()

    def close(self) -> None:
        """Let go of the connection."""
        self.closed.set()
        with self._calls:
            if self._call is not None:
                self._call.cancel()
        super().close()
        self._channel.close()

    # --- booking

    def book(self, *, idempotency_key: str = "", timeout: float = CALL_SECONDS, **words: str | Decimal | int) -> Booked:
        """Book a trade; returns when it is durable. words: those of the trade input (trade_id, book, instrument, side, quantity, ...).

        Raises BookingRefused, NotAllowed, BookingUnknown after `timeout` seconds.
        """
        request = pb.BookTradeRequest(idempotency_key=idempotency_key, **{name: _text(value) for name, value in words.items()})
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                answer = self._stub.BookTrade(request, timeout=max(left, 0.001), metadata=self._metadata())
            except grpc.RpcError as error:
                if error.code() in _AGAIN and time.monotonic() + PAUSE_SECONDS < deadline:
                    time.sleep(PAUSE_SECONDS)
                    continue
                raise self._why_not_booked(error) from None
            approval = int(answer.value) if answer.status == "WAITING" else 0
            return Booked(answer.trade_id, answer.status, answer.sequence, approval)

    def amend(self, trade_id: str, *, idempotency_key: str = "", timeout: float = CALL_SECONDS, **changes: str | Decimal | int) -> Booked:
        """Change a trade. changes: the words that get other values; also `source` or `account` where the trade id alone is ambiguous."""
        key = idempotency_key or uuid.uuid4().hex  # an amendment has no key of its own, and is sent again when no answer comes
        return self.book(kind="AMEND", trade_id=trade_id, idempotency_key=key, timeout=timeout, **changes)

    def cancel(self, trade_id: str, *, idempotency_key: str = "", timeout: float = CALL_SECONDS, **words: str | Decimal | int) -> Booked:
        """Cancel a trade. words: `source` or `account` where the trade id alone is ambiguous."""
        key = idempotency_key or uuid.uuid4().hex
        return self.book(kind="CANCEL", trade_id=trade_id, idempotency_key=key, timeout=timeout, **words)

    def _why_not_booked(self, error: Any) -> PksError:
        status, text = error.code(), error.details() or ""
        if status in _NOT_ALLOWED:
            return NotAllowed(self.shown, text)
        told = {name: value for name, value in error.trailing_metadata() or () if isinstance(value, str)}
        if status in _AGAIN or status in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED) or "pks-code" not in told:
            return BookingUnknown(self.shown, f"{status.name}: {text}")
        return BookingRefused(told["pks-code"], told.get("pks-field", ""), told.get("pks-value", ""), text)

    # --- the thread

    def _follow(self) -> None:
        """Read the stream, and again, until closed."""
        while not self.closed.is_set():
            try:
                metadata = self._metadata()
            except Exception as error:  # the caller's function for a token may fail in any way: it is said, and asked again
                self.last_error = f"{type(error).__name__} while a token was asked for"
                self.closed.wait(DENIED_SECONDS)
                continue
            try:
                with self._calls:
                    if self.closed.is_set():
                        return
                    self._call = self._stub.WatchInstrumentUpdates(pb.WatchInstrumentUpdatesRequest(), metadata=metadata)
                self._read(self._call)
                self.last_error = "the stream ended"
            except grpc.RpcError as error:
                self._fell(error)
            self.closed.wait(DENIED_SECONDS if self._denied else PAUSE_SECONDS)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._token if isinstance(self._token, str) else self._token()
        return (("authorization", f"Bearer {token}"),) if token else ()

    def _fell(self, error: Any) -> None:
        status, text = error.code(), error.details() or ""
        self.last_error = f"{status.name}: {text}"
        if status in _NOT_ALLOWED and (isinstance(self._token, str) or status is grpc.StatusCode.PERMISSION_DENIED):
            self._denied = text  # the same token will not do better

    def _hopeless(self) -> PksError | None:
        return NotAllowed(self.shown, self._denied) if self._denied and not self.whole.is_set() else None

    def _read(self, call: Any) -> None:
        views: dict[tuple[str, str], Any] = {}
        counted = False
        for update in call:
            if not counted:
                self.connections_count, counted, self._denied = self.connections_count + 1, True, ""
            is_snapshot = update.kind == pb.InstrumentUpdate.SNAPSHOT
            if is_snapshot and update.first:
                views.clear()
            for position in update.positions:
                self._take(views, position, position)
            for patch in update.patches:
                self._take(views, patch, views.get((patch.book, patch.instrument)))
            if is_snapshot and update.last:
                self._forget_but(views)
                self.whole.set()
            if update.state == pb.LIVE:
                self.last_error = ""
                self.beat(update.durable_sequence, update.sequence)
            else:
                self.last_error = "the gateway says that its figures are stale"

    def _take(self, views: dict[tuple[str, str], Any], told: Any, known: Any) -> None:
        """A whole position, or what changed of `known`. What readers have already stays as it is, so a change makes another message."""
        view = pb.PositionView()
        if known is not None:
            view.CopyFrom(known)
        if told is not known:
            view.MergeFromString(told.SerializeToString())
        views[told.book, told.instrument] = view
        self.put(RemotePosition(view, self.shown))

    def _forget_but(self, views: Mapping[tuple[str, str], Any]) -> None:
        """What a whole snapshot does not have is not ours to see any more, or of another life of the system."""
        with self.lock:
            for key in [key for key in self.known if key not in views]:
                del self.known[key]


def _text(value: str | Decimal | int) -> str:
    return format(value, "f") if isinstance(value, Decimal) else str(value)
