"""Connections to Postgres: as the owner for migrations and refills, as the role `pks_edge` for rows.

Owns the settings of a session. It may be used by any process that has an event loop; nothing here waits for the server to come back.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from pks.edges.postgres.migrations import migrate
from pks.servers.endpoints import Endpoint

CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 60.0
"""A statement that takes longer counts as a server that does not answer; a slice takes milliseconds."""

SETTINGS = {"timezone": "UTC", "application_name": "pks", "jit": "off"}

DERIVED = {"synchronous_commit": "off"}
"""For writers of what the journal has: a commit does not wait for the disk. Rows and cursor are lost together if the server dies within the
next second, and brought again from that cursor; none is ever half there.
"""

EDGE_ROLE = "pks_edge"


async def connect(endpoint: Endpoint, role: str = EDGE_ROLE, **settings: str) -> Any:
    """An asyncpg connection with every migration applied. role: whose rights it has, "" for the owner's. Raises what asyncpg raises,
    OSError, MigrationEdited.
    """
    connection = await asyncpg.connect(
        endpoint.url, timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS, server_settings={**SETTINGS, **settings}
    )
    try:
        await migrate(connection)
        if role:
            await connection.execute(f"set role {role}")
    except BaseException:
        connection.terminate()
        raise
    return connection
