"""Dead letters on a real Postgres: kept once, repeated while it makes sense, dealt with by people."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from pks.edges.postgres import dead_letters
from pks.edges.postgres.connection import connect
from pks.edges.postgres.dead_letters import RETRIES_MAX, Arrived, Failure, InvalidTransition, NoSuchLetter
from tests.crash.keep_servers import Kept, kept, why_missing

PAYLOAD = bytes(range(256))

pytestmark = pytest.mark.skipif(bool(why_missing("postgres")), reason=why_missing("postgres") or "Postgres is here")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with kept(tmp_path_factory.mktemp("letters"), only="postgres") as made:
        made.start("postgres")
        yield made


@pytest.fixture
async def db(servers: Kept) -> AsyncIterator[Any]:
    connection = await connect(servers.place("postgres"))
    await connection.execute("reset role; truncate back_office.dead_letter restart identity")
    await connection.execute("set role pks_edge")
    yield connection
    await connection.close()


def letter(sequence: int = 1, kind: str = "UNKNOWN_REF", repeats: int = 0, reason: str = "no such instrument") -> Arrived:
    failure = Failure(kind, "UNKNOWN_INSTRUMENT", "instrument", "SBRE", reason)
    return Arrived("backoffice.booking.v1.TradeBooked", PAYLOAD, "pks", "BOOKING", sequence, failure, {"Traceparent": "é"}, repeats)


async def make_due(db: Any, number: int) -> None:
    await db.execute("update back_office.dead_letter set next_at = now() where id = $1", number)


async def test_a_letter_is_kept_once_with_its_bytes(db: Any) -> None:
    number = await dead_letters.put(db, letter())
    assert await dead_letters.put(db, letter()) == number
    assert await dead_letters.put(db, letter(2)) != number
    found = await dead_letters.show(db, number)
    assert (found.payload, found.headers, found.body) == (PAYLOAD, {"Traceparent": "é"}, PAYLOAD)
    assert (found.state, found.kind, found.code, found.field, found.value) == (
        "QUARANTINED", "UNKNOWN_REF", "UNKNOWN_INSTRUMENT", "instrument", "SBRE",
    )  # fmt: skip
    assert len(await dead_letters.find(db)) == 2


async def test_only_what_is_transient_is_repeated_and_not_for_ever(db: Any) -> None:
    await dead_letters.put(db, letter(1))
    number = await dead_letters.put(db, letter(2, "TRANSIENT"))
    assert await dead_letters.due(db) == [], "the first repeat is some seconds away"
    for attempt in range(1, RETRIES_MAX + 1):
        await make_due(db, number)
        (due,) = await dead_letters.due(db)
        assert (due.id, due.attempts) == (number, attempt - 1)
        await dead_letters.replayed(db, due, 100 + attempt)
        assert [one.replay_sequence for one in await dead_letters.waiting(db)] == [100 + attempt]
        assert await dead_letters.put(db, letter(100 + attempt, "TRANSIENT", repeats=number)) == number
    found = await dead_letters.show(db, number)
    assert (found.state, found.attempts, found.next_at) == ("QUARANTINED", RETRIES_MAX, None)


async def test_fixed_and_injected_it_goes_through(db: Any) -> None:
    number = await dead_letters.put(db, letter())
    await dead_letters.fix(db, number, b"mended")
    await dead_letters.inject(db, number)
    (due,) = await dead_letters.due(db)
    assert (due.body, due.payload) == (b"mended", PAYLOAD)
    await dead_letters.replayed(db, due, 7)
    await dead_letters.resolve(db, number, "repeated and taken")
    found = await dead_letters.show(db, number)
    assert (found.state, found.resolution) == ("RESOLVED", "repeated and taken")
    assert await dead_letters.find(db) == []
    assert [one.id for one in await dead_letters.find(db, dead_letters.STATES)] == [number]


async def test_a_repeat_that_dies_of_something_else_waits_for_a_person(db: Any) -> None:
    number = await dead_letters.put(db, letter())
    await dead_letters.inject(db, number)
    (due,) = await dead_letters.due(db)
    await dead_letters.replayed(db, due, 7)
    assert await dead_letters.put(db, letter(7, "CONFLICT", repeats=number, reason="other content")) == number
    found = await dead_letters.show(db, number)
    assert (found.state, found.kind, found.reason, found.stream_sequence) == ("QUARANTINED", "CONFLICT", "other content", 1)


async def test_a_late_death_of_what_was_resolved_is_a_letter_of_its_own(db: Any) -> None:
    number = await dead_letters.put(db, letter())
    await dead_letters.discard(db, number, "a test trade")
    assert await dead_letters.put(db, letter(9, repeats=number)) != number


async def test_what_the_state_forbids_changes_nothing(db: Any) -> None:
    number = await dead_letters.put(db, letter())
    await dead_letters.discard(db, number, "a test trade")
    for attempt in (dead_letters.inject(db, number), dead_letters.fix(db, number, b""), dead_letters.discard(db, number, "again")):
        with pytest.raises(InvalidTransition, match=f"dead letter {number} is RESOLVED"):
            await attempt
    with pytest.raises(NoSuchLetter, match="there is no dead letter 4711"):
        await dead_letters.show(db, 4711)
    found = await dead_letters.show(db, number)
    assert (found.resolution, found.fixed) == ("discarded: a test trade", None)


async def test_a_class_that_is_none_is_refused_by_the_table(db: Any) -> None:

    with pytest.raises(asyncpg.CheckViolationError):
        await dead_letters.put(db, letter(3, "STRANGE"))
