"""The reaper: dead letters from their stream into Postgres, and back to their subjects when it is time or somebody asks for it.

Owns the durable consumer `reaper` of the stream DLQ. A letter is acknowledged when its row is committed, so a death in between gives the
same row again. What is repeated carries its letter's number; if it dies again the same row says so, and when its consumer has passed it
without a word it is resolved. Only TRANSIENT letters are repeated by themselves. Runs where both Postgres and NATS are edges.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

from pks.servers.endpoints import Endpoint, endpoint
from pks.workers.edges.edge import EdgeWorker
from pks.workers.runtime import Context

FETCH_MESSAGES = 200
FETCH_SECONDS, QUIET_FETCH_SECONDS = 0.5, 5.0
LOOK_SECONDS = 1.0
"""Between two looks for letters that are due, and for those that may be resolved; rarer while no letter is open."""

CONSUMER = "reaper"
ACK_SECONDS = 30.0
PUBLISH_SECONDS = 5.0


class Reaper:
    """Implements edge.Edge on Postgres, with a connection to NATS beside it."""

    name: ClassVar[str] = "postgres"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.cursor = 0
        self._pending = 0
        self._open = 1  # letters that are not settled; until the first look there may be some
        self._database: Any = None
        self._bus: Any = None
        self._letters: Any = None
        self._looked_at = 0.0
        self.taken = context.cells.counter("dead_letters")
        self.quarantined = context.cells.gauge("dead_letters_open")

    async def connect(self, endpoint_: Endpoint) -> bool:
        """False until the tables and the stream are there, which other workers make."""
        import asyncpg
        from nats.js.errors import NotFoundError

        from pks.edges.nats.connection import open_connection
        from pks.edges.nats.streams import DLQ

        bus = endpoint(self.context.config, "nats")
        if bus is None:
            return False
        self._database = await asyncpg.connect(
            endpoint_.url, timeout=5, command_timeout=30, server_settings={"application_name": "pks reaper"}
        )
        if not await self._database.fetchval(TABLE_IS_THERE):
            return False
        self._bus = await open_connection(bus, "pks reaper")
        try:
            await self._bus.stream.stream_info(DLQ.name)
        except NotFoundError:
            return False
        await self._subscribe(DLQ.name)
        return True

    async def _subscribe(self, stream: str) -> None:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        config = ConsumerConfig(
            durable_name=CONSUMER,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_SECONDS,
            max_ack_pending=1000,
        )
        self._letters = await self._bus.stream.pull_subscribe(">", durable=CONSUMER, stream=stream, config=config)

    async def turn(self) -> int:
        """Take what has come; once a second repeat what is due and resolve what went through."""
        done = await self._take()
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            done += await self._repeat()
            if not self._pending:
                done += await self._resolve()
            self._open = await self._database.fetchval(OPEN_COUNT)
            self.quarantined.set(self._open)
        return done

    async def _take(self) -> int:
        from pks.edges.postgres import dead_letters

        try:
            messages = await self._letters.fetch(FETCH_MESSAGES, timeout=FETCH_SECONDS if self._open else QUIET_FETCH_SECONDS)
        except TimeoutError:
            messages = []
        if not messages:
            self._bus.check()
            self._pending = 0
            return 0
        async with self._database.transaction():
            for message in messages:
                await dead_letters.put(self._database, arrived(message))
        for message in messages:
            await message.ack()
        self.taken.add(len(messages))
        last = messages[-1].metadata
        self.cursor, self._pending = int(last.sequence.stream), int(last.num_pending)
        return len(messages)

    async def _repeat(self) -> int:
        from pks.edges.postgres import dead_letters

        letters = await dead_letters.due(self._database)
        for letter in letters:
            headers = {name: value for name, value in letter.headers.items() if name not in CONTROL_HEADERS}
            headers |= {
                HEADER_LETTER: str(letter.id),
                "Nats-Msg-Id": f"dead:{letter.id}:{letter.attempts + 1}:{letter.last_at.timestamp():.6f}",
            }
            answer = await self._bus.stream.publish(letter.subject, letter.body, headers=headers, timeout=PUBLISH_SECONDS)
            await dead_letters.replayed(self._database, letter, int(answer.seq))
        return len(letters)

    async def _resolve(self) -> int:
        """A repeat that its consumer has acknowledged, with no dead letter waiting for us, was taken."""
        from nats.js.errors import NotFoundError

        from pks.edges.postgres import dead_letters

        letters, floors, done = await dead_letters.waiting(self._database), {}, 0
        for letter in letters:
            key = letter.stream, letter.consumer
            if key not in floors:
                try:
                    floors[key] = int((await self._bus.stream.consumer_info(*key)).ack_floor.stream_seq)
                except NotFoundError:
                    floors[key] = 0
            if letter.replay_sequence is not None and letter.replay_sequence <= floors[key]:
                if (await self._letters.consumer_info()).num_pending:
                    return done  # its failure may be on its way
                await dead_letters.resolve(self._database, letter.id, "repeated and taken")
                done += 1
        return done

    def lag(self) -> tuple[int, int]:
        """Letters that wait."""
        return self._pending, 0

    async def close(self) -> None:
        """Let go of both servers."""
        database, bus, self._database, self._bus, self._letters = self._database, self._bus, None, None, None
        if bus is not None:
            await bus.close()
        if database is not None:
            await database.close(timeout=1)


HEADER_LETTER = "Pks-Dead-Letter"
"""Number of the letter that a message repeats; its consumer hands it on when the message dies again."""

_PREFIX = "Pks-Dlq-"
CONTROL_HEADERS = frozenset(
    {"Nats-Msg-Id", "Nats-Expected-Last-Sequence", "Nats-Expected-Stream", "Nats-Expected-Last-Msg-Id", HEADER_LETTER}
)
TABLE_IS_THERE = """select exists (select from information_schema.columns
    where table_schema = 'back_office' and table_name = 'dead_letter' and column_name = 'fixed')"""
OPEN_COUNT = "select count(*) from back_office.dead_letter where state in ('QUARANTINED', 'RETRYING')"


def arrived(message: Any) -> Any:
    """A dead letter (a message of NATS) as its row will have it. One without our headers was put there by hand or by another program."""
    from pks.edges.postgres.dead_letters import CLASSES, Arrived, Failure

    headers = dict(message.headers or {})
    said = {name.removeprefix(_PREFIX).lower(): headers.pop(name) for name in list(headers) if name.startswith(_PREFIX)}
    own = message.metadata
    kind = said.get("class", "").upper()
    number = headers.get(HEADER_LETTER, "")
    sequence = said.get("stream-sequence", "")
    failure = Failure(
        kind if kind in CLASSES else "POISON",
        said.get("code", ""),
        said.get("field", ""),
        said.get("value", ""),
        said.get("reason", "") or ("" if kind else "it came without the headers of a dead letter"),
    )
    return Arrived(
        subject=said.get("subject", message.subject),
        payload=message.data,
        consumer=said.get("consumer", ""),
        stream=said.get("stream", own.stream),
        stream_sequence=int(sequence) if sequence.isdecimal() else int(own.sequence.stream),
        failure=failure,
        headers=headers,
        repeats=int(number) if number.isdecimal() else 0,
    )


def make(context: Context) -> EdgeWorker:
    """The reaper."""
    return EdgeWorker(context, Reaper(context))


def warm() -> None:
    """It folds nothing."""
