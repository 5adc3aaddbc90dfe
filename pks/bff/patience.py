"""How long the server waits for a request: for its head, and for the rest of it. Uvicorn's own protocol waits for ever.

Owns the two deadlines of an HTTP connection, and nothing of what is answered. Give `PatientProtocol` to uvicorn as `http`. A connection
that becomes a WebSocket is the affair of `websocket` from then on.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
"""From the connection, or the first byte of a request, to the end of its head."""

BODY_SECONDS = 60.0
"""From there to the end of its body."""


class PatientProtocol(HttpToolsProtocol):
    """A connection that is closed when a request takes too long to arrive."""

    head_seconds, body_seconds = HEAD_SECONDS, BODY_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def _within(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The head of the first request is awaited."""
        super().connection_made(transport)
        self._within(self.head_seconds)

    def on_message_begin(self) -> None:
        """Another request on the same connection has begun."""
        super().on_message_begin()
        self._within(self.head_seconds)

    def on_headers_complete(self) -> None:
        """The body is awaited."""
        self._within(self.body_seconds)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Nothing more is awaited."""
        self._within(None)
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Another protocol has the connection now."""
        self._within(None)
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._within(None)
        super().connection_lost(exc)
