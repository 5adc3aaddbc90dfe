"""Answers of the past as messages: no word of a row is lost on the way, and what failed is said as REST says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from pks.bff.grpc_past import GrpcPast
from pks.bff.grpc_status import status_of
from pks.bff.problems import Problem
from pks.client.bulk import Outcome
from pks.engine.positions.view import TEXT_FIELDS
from pks.past.questions import AnyAnswer, AnyQuestion, Failed, History, Imagined, Page, WhatIf
from pks.proto.pks.v1 import positions_service_pb2 as pb


@dataclass
class Worker:
    """Answers what it was given, whatever the question."""

    answer: AnyAnswer
    asked: list[AnyQuestion] = field(default_factory=list)

    async def ask(self, question: AnyQuestion) -> AnyAnswer:
        self.asked.append(question)
        return self.answer


async def test_a_history_is_asked_for_and_given_by_pages() -> None:
    worker = Worker(Page(rows=[{"sequence": 4}], sequence=9, next=4))
    found = await GrpcPast(worker).history("ALPHA", "SBER.MOEX", after=2, limit=7, known_at=9)
    assert found == {"events": [{"sequence": 4}], "next": 4, "sequence": 9}
    assert worker.asked == [History(book="ALPHA", instrument="SBER.MOEX", after=2, limit=7, known_at=9)]
    worker.answer = Page(rows=[], sequence=9)
    assert (await GrpcPast(worker).history("ALPHA", "SBER.MOEX", after=4, limit=7, known_at=None))["next"] == 0


async def test_what_if_is_asked_for_the_books_that_are_seen() -> None:
    imagined = Imagined(sequence=9, outcomes=[{"line": 1}], before=[], after=[], changes=[], lots=[], matches=[])
    worker = Worker(imagined)
    found = await GrpcPast(worker).what_if([{"trade_id": "T"}], {"SBER.MOEX": "1"}, frozenset({"BETA", "ALPHA"}))
    assert (found["sequence"], found["outcomes"]) == (9, [{"line": 1}])
    assert worker.asked == [WhatIf(rows=({"trade_id": "T"},), marks={"SBER.MOEX": "1"}, books=("ALPHA", "BETA"))]
    assert set(found) <= set(pb.WhatIfResponse.DESCRIPTOR.fields_by_name.keys())


@pytest.mark.parametrize(
    ("failed", "status"),
    [
        (Failed(code="UNKNOWN_INSTRUMENT", field="instrument", value="X"), grpc.StatusCode.NOT_FOUND),
        (Failed(code="BEYOND_JOURNAL", field="known_at", value="99", reason="the last is 9"), grpc.StatusCode.INVALID_ARGUMENT),
        (Failed(code="NO_JOURNAL", reason="not yet", retry=True), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_what_has_no_answer_is_a_problem(failed: Failed, status: Any) -> None:
    with pytest.raises(Problem) as error:
        await GrpcPast(Worker(failed)).history("ALPHA", "X", after=0, limit=1, known_at=None)
    assert status_of(error.value) is status


def test_messages_have_every_word_of_the_rows() -> None:
    from pks.bff.rest_past import LOT_COLUMNS, TRADE_COLUMNS  # here, since its import warns

    def words(message: Any) -> set[str]:
        return set(message.DESCRIPTOR.fields_by_name.keys())

    assert set(TRADE_COLUMNS) | {"matches"} <= words(pb.HistoryEvent)
    assert {*LOT_COLUMNS, "book", "instrument"} <= words(pb.Lot)
    assert set(Outcome._fields) <= words(pb.BookTradeResponse)
    assert {*TEXT_FIELDS, "unrealised"} - words(pb.PositionView) == {"last_trade_time"}
