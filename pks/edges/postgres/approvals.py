"""Trades that wait for a second person, in `back_office.approval`.

Owns the SQL and the moves between states: WAITING -> APPROVED -> BOOKED or REFUSED, WAITING -> REJECTED. Who may decide what is the
caller's; that nobody decides his own is the table's too. Takes an open connection.
"""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg
import msgspec

from pks.base.errors import Fatal


class Approval(msgspec.Struct, frozen=True):
    """One row."""

    id: int
    at: datetime
    actor: str
    command: dict[str, Any]
    idempotency_key: str
    book: str
    trade_id: str
    notional: Decimal
    currency: str
    allowed: Decimal
    state: str
    decided_by: str | None
    decided_at: datetime | None
    reason: str
    sequence: int | None


class NotWaiting(Fatal):
    """Somebody decided already, or there is no such approval."""

    def __init__(self, number: int, state: str | None) -> None:
        super().__init__(f"approval {number} " + ("is not there" if state is None else f"is {state}"))
        self.number, self.state = number, state


_COLUMNS = ", ".join(Approval.__struct_fields__)


async def put(
    connection: asyncpg.Connection,
    actor: str,
    command: dict[str, Any],
    *,
    command_key: str,
    idempotency_key: str,
    notional: Decimal,
    currency: str,
    allowed: Decimal,
) -> Approval:
    """Have a command wait; the one that already does, where this is a repeat."""
    row = await connection.fetchrow(
        f"""insert into back_office.approval (actor, command, command_key, idempotency_key, book, trade_id, notional, currency, allowed)
            values ($1, $2::jsonb, $3, $4, $5, $6, $7, $8, $9)
            on conflict (actor, command_key) do update set actor = excluded.actor returning {_COLUMNS}""",
        actor, json.dumps(command), command_key, idempotency_key, command.get("book", ""), command.get("trade_id", ""),
        notional, currency, allowed,
    )  # fmt: skip
    return _approval(row)


async def find(
    connection: asyncpg.Connection, *, states: tuple[str, ...] = (), books: list[str] | None = None, after: int = 0, limit: int = 1000
) -> list[Approval]:
    """Rows behind `after`, the oldest first. states: () for all; books: None for all."""
    rows = await connection.fetch(
        f"""select {_COLUMNS} from back_office.approval
            where id > $1 and (cardinality($2::text[]) = 0 or state = any($2)) and ($3::text[] is null or book = any($3))
            order by id limit $4""",
        after, list(states), books, limit,
    )  # fmt: skip
    return [_approval(row) for row in rows]


async def one(connection: asyncpg.Connection, number: int) -> Approval | None:
    """The row of this number."""
    row = await connection.fetchrow(f"select {_COLUMNS} from back_office.approval where id = $1", number)
    return None if row is None else _approval(row)


async def decide(connection: asyncpg.Connection, number: int, state: str, by: str, reason: str = "") -> Approval:
    """WAITING -> APPROVED or REJECTED. Approving again what the same person approved and nobody booked yet goes through. Raises
    NotWaiting.
    """
    row = await connection.fetchrow(
        f"""update back_office.approval set state = $2, decided_by = $3, decided_at = now(), reason = $4
            where id = $1 and (state = 'WAITING' or (state = 'APPROVED' and $2 = 'APPROVED')) returning {_COLUMNS}""",
        number, state, by, reason,
    )  # fmt: skip
    if row is None:
        raise NotWaiting(number, await connection.fetchval("select state from back_office.approval where id = $1", number))
    return _approval(row)


async def settle(connection: asyncpg.Connection, number: int, state: str, sequence: int | None, reason: str) -> None:
    """APPROVED -> BOOKED or REFUSED."""
    await connection.execute(
        "update back_office.approval set state = $2, sequence = $3, reason = $4 where id = $1 and state = 'APPROVED'",
        number, state, sequence, reason,
    )  # fmt: skip


def _approval(row: Any) -> Approval:
    fields = dict(row)
    fields["command"] = json.loads(fields["command"])
    return Approval(**fields)
