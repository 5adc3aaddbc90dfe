"""Dead letters in Postgres: what no consumer could take, with its original bytes, until somebody fixes, repeats or discards it.

Owns the states of backoffice.md section 14 and the SQL of `back_office.dead_letter`; the reaper puts letters in and repeats them, `pks dlq`
lists, fixes, injects and discards. Takes an open connection and talks to no other server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from pks.base.errors import Fatal

RETRIES_MAX = 5
"""How often a TRANSIENT letter is repeated by itself."""

RETRY_SECONDS_FIRST, RETRY_GROWTH, RETRY_SECONDS_MAX = 5.0, 3.0, 600.0

OPEN_STATES = ("RECEIVED", "CLASSIFIED", "RETRYING", "REPLAYED", "QUARANTINED")
CLASSES = ("MALFORMED", "UNKNOWN_REF", "CONFLICT", "TRANSIENT", "POISON")
STATES = (*OPEN_STATES, "RESOLVED")

_COLUMNS = (
    "id, subject, headers, payload, fixed, consumer, stream, stream_sequence, class, state, code, field, value, reason, attempts, "
    "first_at, last_at, next_at, replay_sequence, resolution, resolved_at"
)


class InvalidTransition(Fatal):
    """The letter's state does not allow what is asked."""

    def __init__(self, number: int, state: str, asked: str) -> None:
        super().__init__(f"INVALID_TRANSITION: dead letter {number} is {state}, it cannot be {asked}")
        self.number, self.state, self.asked = number, state, asked


class NoSuchLetter(Fatal):
    """There is no letter of that number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"there is no dead letter {number}")
        self.number = number


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message could not be taken, as its consumer said it."""

    kind: str  # one of CLASSES
    code: str = ""
    field: str = ""
    value: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message as it came to the dead-letter subject. repeats: the number of the letter that it is a repeat of, 0 for a new one."""

    subject: str
    payload: bytes
    consumer: str
    stream: str
    stream_sequence: int
    failure: Failure
    headers: Mapping[str, str] = field(default_factory=dict)
    repeats: int = 0


@dataclass(frozen=True, slots=True)
class Letter:
    """One row."""

    id: int
    subject: str
    headers: dict[str, str]
    payload: bytes
    fixed: bytes | None
    consumer: str
    stream: str
    stream_sequence: int
    kind: str
    state: str
    code: str
    field: str
    value: str
    reason: str
    attempts: int
    first_at: datetime
    last_at: datetime
    next_at: datetime | None
    replay_sequence: int | None
    resolution: str | None
    resolved_at: datetime | None

    @property
    def body(self) -> bytes:
        """What is sent when it is repeated: the fixed bytes if there are some."""
        return self.payload if self.fixed is None else self.fixed


def _letter(row: asyncpg.Record) -> Letter:
    values: dict[str, Any] = dict(row)
    values["kind"] = values.pop("class")
    values["headers"] = json.loads(values["headers"])
    for name in ("code", "field", "value", "reason"):
        values[name] = values[name] or ""
    return Letter(**values)


async def put(connection: asyncpg.Connection, arrived: Arrived) -> int:
    """Keep a message that arrived; its letter's number. What came before is only seen again, a repeat counts for its first letter."""
    failure = arrived.failure
    if arrived.repeats:
        row = await connection.fetchrow(
            f"""update back_office.dead_letter set class = $2, code = $3, field = $4, value = $5, reason = $6, last_at = now(),
                replay_sequence = null, {_NEXT.format(kind="$2", attempts="attempts")}
                where id = $1 and state in ('REPLAYED', 'RETRYING') returning id""",
            arrived.repeats, failure.kind, failure.code, failure.field, failure.value, failure.reason,
        )  # fmt: skip
        if row is not None:
            return int(row["id"])
    row = await connection.fetchrow(
        """insert into back_office.dead_letter as d
           (subject, headers, payload, consumer, stream, stream_sequence, class, code, field, value, reason, state, next_at)
           values ($1, $2::jsonb, $3, $4, $5, $6, $7, $8, $9, $10, $11,
                   case when $7 = 'TRANSIENT' then 'RETRYING' else 'QUARANTINED' end,
                   case when $7 = 'TRANSIENT' then now() + make_interval(secs => $12) end)
           on conflict (stream, stream_sequence, consumer) do update set last_at = now() returning id""",
        arrived.subject, json.dumps(dict(arrived.headers)), arrived.payload, arrived.consumer, arrived.stream, arrived.stream_sequence,
        failure.kind, failure.code, failure.field, failure.value, failure.reason, RETRY_SECONDS_FIRST,
    )  # fmt: skip
    assert row is not None, "an insert that may update gives a row"
    return int(row["id"])


_NEXT = (
    "state = case when {kind} = 'TRANSIENT' and {attempts} < "
    + str(RETRIES_MAX)
    + " then 'RETRYING' else 'QUARANTINED' end, next_at = case when {kind} = 'TRANSIENT' and {attempts} < "
    + str(RETRIES_MAX)
    + f" then now() + make_interval(secs => least({RETRY_SECONDS_MAX}, {RETRY_SECONDS_FIRST} * {RETRY_GROWTH} ^ "
    + "{attempts}) * (0.75 + random() / 2)) end"
)
"""After a failed repeat: exponential with jitter while it is TRANSIENT and may be repeated, else it waits for a person."""


async def due(connection: asyncpg.Connection, most: int = 100) -> list[Letter]:
    """Letters to be repeated now, the oldest first."""
    rows = await connection.fetch(
        f"select {_COLUMNS} from back_office.dead_letter where state = 'RETRYING' and next_at <= now() order by id limit $1", most
    )
    return [_letter(row) for row in rows]


async def replayed(connection: asyncpg.Connection, letter: Letter, stream_sequence: int) -> None:
    """It was sent again and stands in its stream at that sequence."""
    await connection.execute(
        """update back_office.dead_letter
           set state = 'REPLAYED', attempts = attempts + 1, replay_sequence = $2, next_at = null, last_at = now()
           where id = $1 and state = 'RETRYING'""",
        letter.id, stream_sequence,
    )  # fmt: skip


async def waiting(connection: asyncpg.Connection, most: int = 1000) -> list[Letter]:
    """Letters that were repeated and of which nothing has been heard."""
    rows = await connection.fetch(f"select {_COLUMNS} from back_office.dead_letter where state = 'REPLAYED' order by id limit $1", most)
    return [_letter(row) for row in rows]


async def resolve(connection: asyncpg.Connection, number: int, resolution: str, *, of: tuple[str, ...] = ("REPLAYED",)) -> None:
    """It is done with. Raises NoSuchLetter, InvalidTransition."""
    done = await connection.fetchrow(
        """update back_office.dead_letter set state = 'RESOLVED', resolution = $2, resolved_at = now(), next_at = null
           where id = $1 and state = any($3::text[]) returning id""",
        number, resolution, list(of),
    )  # fmt: skip
    if done is None:
        await _refuse(connection, number, "RESOLVED")


async def _refuse(connection: asyncpg.Connection, number: int, asked: str) -> None:
    raise InvalidTransition(number, (await show(connection, number)).state, asked)


# for people


async def find(
    connection: asyncpg.Connection, states: tuple[str, ...] = OPEN_STATES, kinds: tuple[str, ...] = CLASSES, most: int = 1000
) -> list[Letter]:
    """Letters in these states and of these classes, the newest last."""
    rows = await connection.fetch(
        f"""select * from (select {_COLUMNS} from back_office.dead_letter where state = any($1::text[]) and class = any($2::text[])
            order by id desc limit $3) as newest order by id""",
        list(states), list(kinds), most,
    )  # fmt: skip
    return [_letter(row) for row in rows]


async def show(connection: asyncpg.Connection, number: int) -> Letter:
    """One letter. Raises NoSuchLetter."""
    row = await connection.fetchrow(f"select {_COLUMNS} from back_office.dead_letter where id = $1", number)
    if row is None:
        raise NoSuchLetter(number)
    return _letter(row)


async def fix(connection: asyncpg.Connection, number: int, payload: bytes) -> None:
    """Let these bytes be sent in place of the original ones, which stay. Raises NoSuchLetter, InvalidTransition."""
    row = await connection.fetchrow(
        "update back_office.dead_letter set fixed = $2 where id = $1 and state in ('QUARANTINED', 'CLASSIFIED', 'RETRYING') returning id",
        number, payload,
    )  # fmt: skip
    if row is None:
        await _refuse(connection, number, "fixed")


async def inject(connection: asyncpg.Connection, number: int) -> None:
    """Have it repeated at once. Raises NoSuchLetter, InvalidTransition."""
    row = await connection.fetchrow(
        """update back_office.dead_letter set state = 'RETRYING', next_at = now(), attempts = 0
           where id = $1 and state in ('QUARANTINED', 'CLASSIFIED', 'RETRYING') returning id""",
        number,
    )
    if row is None:
        await _refuse(connection, number, "injected")


async def discard(connection: asyncpg.Connection, number: int, reason: str) -> None:
    """Be done with it without repeating it. Raises NoSuchLetter, InvalidTransition."""
    await resolve(connection, number, f"discarded: {reason}", of=("QUARANTINED", "CLASSIFIED", "RETRYING", "RECEIVED"))
