"""One connection to NATS: by URL and NKey, with TLS where the URL or a certificate asks for it, and never mended by the library.

A connection that breaks is over: whoever holds it closes it and makes another, after which everything that was carried is looked up anew.
Imports the client's library, so only a worker's own process or a client may import this.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

import nats
from nats.aio.client import Client

from pks.base.errors import Retryable
from pks.servers.endpoints import Endpoint

CONNECT_SECONDS_MAX = 5.0
REQUEST_SECONDS_MAX = 10.0
"""For one answer of JetStream; a server that flushes each message may be slow on a busy disk."""

PING_SECONDS, PINGS_LOST_MAX = 10, 3
PENDING_BYTES_MAX = 16 << 20
ASYNC_PENDING_MAX = 1024
"""Messages published and not acknowledged."""


class ConnectionLost(Retryable):
    """The server closed the connection, or does not answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"connection to NATS lost: {reason}")


class Connection:
    """An open connection, its JetStream, and what the server last complained about."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stream: Any = client.jetstream(timeout=REQUEST_SECONDS_MAX, publish_async_max_pending=ASYNC_PENDING_MAX)
        self.complaint = ""

    def check(self) -> None:
        """Raises ConnectionLost when it is."""
        if not self.client.is_connected:
            raise ConnectionLost(self.complaint or str(self.client.last_error or "closed"))

    async def close(self) -> None:
        """Let go of it, whatever its state."""
        await self.client.close()


async def open_connection(endpoint: Endpoint, name: str, inbox_prefix: str = "_INBOX", nkey_file: str = "") -> Connection:
    """Connect to the first server of the endpoint's URL that answers. Raises what the library raises."""
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # what it has to say comes to us as errors
    client = Client()
    made: list[Connection] = []

    async def complain(error: Exception) -> None:
        if made:
            made[0].complaint = str(error) or type(error).__name__

    seed = nkey_file or endpoint.nkey_file
    options: dict[str, Any] = {"nkeys_seed": seed} if seed else {}
    if (tls := _tls(endpoint)) is not None:
        options["tls"] = tls
    await client.connect(
        endpoint.url.split(","),
        name=name,
        error_cb=complain,
        allow_reconnect=False,
        connect_timeout=int(CONNECT_SECONDS_MAX),
        ping_interval=PING_SECONDS,
        max_outstanding_pings=PINGS_LOST_MAX,
        inbox_prefix=inbox_prefix,
        pending_size=PENDING_BYTES_MAX,
        **options,
    )
    made.append(Connection(client))
    return made[0]


def _tls(endpoint: Endpoint) -> ssl.SSLContext | None:
    if endpoint.ca_file:
        return ssl.create_default_context(cafile=endpoint.ca_file)
    return ssl.create_default_context() if endpoint.url.startswith("tls://") else None


assert nats.errors.Error is not None, "the client's library is whole"
