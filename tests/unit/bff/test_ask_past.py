"""The gateway's side of questions about the past: many at a time, and a worker that goes away and comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pks.bff.ask_past import AskPast, PastUnavailable, QuestionTooLong
from pks.past.door import HEAD, Door, Waiting
from pks.past.questions import ANSWER_BYTES_MAX, QUESTION_BYTES_MAX, WAITING_MAX, AnyAnswer, Failed, Page, PositionsAt, Trades, WhatIf


def page(one: Waiting) -> AnyAnswer:
    assert isinstance(one.question, PositionsAt)
    return Page(rows=[{"limit": one.question.limit}], sequence=1)


@contextmanager
def worker(folder: Path, answers: Callable[[Waiting], AnyAnswer | bytes | None] = page) -> Iterator[None]:
    """Somebody answers at the door of `folder`; None is no answer, bytes are sent as they are."""
    door, stop = Door(folder), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            door.look(0.01)
            while (one := door.next()) is not None:
                found = answers(one)
                if isinstance(found, bytes):
                    door.send(one, found)
                elif found is not None:
                    door.answer(one, found)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        door.abandon()  # as a kill leaves it


async def test_many_at_once_each_with_its_own_answer(tmp_path: Path) -> None:
    asker = AskPast(tmp_path)
    with worker(tmp_path):
        found = await asyncio.gather(*(asker.ask(PositionsAt(limit=number)) for number in range(WAITING_MAX)))
    assert [answer.rows for answer in found if isinstance(answer, Page)] == [[{"limit": number}] for number in range(WAITING_MAX)]
    await asker.close()


async def test_away_and_back(tmp_path: Path) -> None:
    asker = AskPast(tmp_path)
    with pytest.raises(PastUnavailable):
        await asker.ask(PositionsAt())
    for _ in range(3):
        with worker(tmp_path):
            assert isinstance(await asker.ask(PositionsAt(limit=5)), Page)
        with pytest.raises(PastUnavailable):
            await asker.ask(PositionsAt())
    await asker.close()


async def test_it_dies_while_it_is_asked(tmp_path: Path) -> None:
    asker, came = AskPast(tmp_path), threading.Event()

    def silent(one: Waiting) -> None:
        came.set()

    with worker(tmp_path, silent):
        asking = [asyncio.create_task(asker.ask(PositionsAt())) for _ in range(5)]
        while not came.is_set():
            await asyncio.sleep(0.01)
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in found] == [PastUnavailable] * 5
    await asker.close()


async def test_too_slow_and_then_not_mixed_up(tmp_path: Path) -> None:
    """An answer that comes when nobody waits for it any more is nobody's."""
    kept: list[Waiting] = []

    def late(one: Waiting) -> AnyAnswer | None:
        assert isinstance(one.question, PositionsAt)
        if one.question.limit == 1:
            kept.append(one)
            return None
        return page(one)

    asker = AskPast(tmp_path)
    with worker(tmp_path, late):
        with pytest.raises(PastUnavailable, match="within"):
            await asker.ask(PositionsAt(limit=1), seconds=0.2)
        found = await asker.ask(PositionsAt(limit=2))
        assert isinstance(found, Page)
        assert found.rows == [{"limit": 2}]
        assert len(kept) == 1
        assert not asker._asked
    await asker.close()


async def test_a_cancelled_asker_leaves_nothing(tmp_path: Path) -> None:
    asker = AskPast(tmp_path)
    with worker(tmp_path, lambda one: None if isinstance(one.question, Trades) else page(one)):
        asking = asyncio.create_task(asker.ask(Trades()))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert isinstance(await asker.ask(PositionsAt()), Page)
        assert not asker._asked
    await asker.close()


async def test_busy_is_unavailable_and_a_failure_is_an_answer(tmp_path: Path) -> None:
    answers = {1: Failed(code="BUSY", reason="many wait", retry=True), 2: Failed(code="UNKNOWN_BOOK", field="book")}
    asker = AskPast(tmp_path)
    with worker(tmp_path, lambda one: answers[one.question.limit] if isinstance(one.question, PositionsAt) else None):
        with pytest.raises(PastUnavailable, match="many wait"):
            await asker.ask(PositionsAt(limit=1))
        assert await asker.ask(PositionsAt(limit=2)) == answers[2]
    await asker.close()


@pytest.mark.parametrize("garbage", [HEAD.pack(3) + b"abc", HEAD.pack(ANSWER_BYTES_MAX + 1), HEAD.pack(5) + b"ab"])
async def test_an_answer_that_is_none(tmp_path: Path, garbage: bytes) -> None:
    asker = AskPast(tmp_path)
    with worker(tmp_path, lambda one: garbage), pytest.raises(PastUnavailable):
        await asker.ask(PositionsAt(), seconds=1.0)
    with worker(tmp_path):
        async with asyncio.timeout(30):
            while True:
                try:
                    assert isinstance(await asker.ask(PositionsAt()), Page)
                    break
                except PastUnavailable:
                    await asyncio.sleep(0.01)
    await asker.close()


async def test_a_question_that_is_too_long(tmp_path: Path) -> None:
    asker = AskPast(tmp_path)
    with pytest.raises(QuestionTooLong):
        await asker.ask(WhatIf(rows=({"note": "x" * QUESTION_BYTES_MAX},)))
    await asker.close()
