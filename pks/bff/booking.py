"""Booking from the gateway: rows of text in, what became of each back when it is durable.

Owns the gateway's intake ring and the reference data by which rows become records. A row is understood and refused here exactly as `pks
book` does it; who may book what is asked before. One event loop calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pks.base.errors import Code, Refused, Retryable
from pks.base.ids import key_of
from pks.client.bulk import Outcome, outcome_of, refused_outcome
from pks.edges.files.rows import RowError, TradeRow
from pks.engine.booking.border import joined
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import AnyDefinition
from pks.engine.instruments.events import definition_event
from pks.layouts.codes import Kind
from pks.workers.edges.intake import NoFreeRing, OwnIntake
from pks.workers.edges.reference import Reference, words
from pks.workers.runtime import Context

ANSWER_SECONDS = 20.0
"""How long a caller waits; then the trade may or may not be booked, and may be sent again."""

CLAIM_SECONDS = 1.0

Row = TradeRow | RowError


class NotTaken(Retryable):
    """The core takes no input now."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"nothing was booked: {reason}")
        self.reason = reason


class NoAnswerYet(Retryable):
    """Sent, and not answered in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s: it may or may not be booked, and may be sent again under the same ids")


class Booking:
    """`run` for the gateway's whole life; `book` and `define` beside it, as many at once as there are callers."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._reference = Reference(context)
        self._intake: OwnIntake | None = None
        self._learning = asyncio.Lock()

    async def run(self) -> None:
        """Claim a ring and take answers, until it is cancelled."""
        while True:
            try:
                self._intake = OwnIntake(self.context)
                break
            except NoFreeRing as error:
                self.context.fail(str(error))
                await asyncio.sleep(CLAIM_SECONDS)
        self.context.fail("")
        try:
            await self._intake.run()
        finally:
            self._intake.close()
            self._intake = None

    async def catalogue(self) -> Catalogue:
        """Reference data as it is now."""
        async with self._learning:
            await self._reference.learn()
        return self._reference.catalogue

    async def book(self, rows: Sequence[Row], user: str = "", key: str = "") -> list[Outcome]:
        """Book rows in order and wait until each is durable; children of one block that follow one another go as one group.

        key: the Idempotency-Key of a single row, which is the user's own. Raises NotTaken before anything was sent, NoAnswerYet after.
        """
        intake = self._open_intake()
        assert len(rows) == 1 or not key, "a key is for one row"
        waiting: list[tuple[list[TradeRow], asyncio.Future[Any] | Refused]] = []
        said: dict[int, Outcome] = {}
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for block in _blocks(rows):
                    if isinstance(block, RowError):
                        said[id(block)] = Outcome(
                            block.line, block.trade_id, "REFUSED", 0, block.code.name, block.field, block.value, block.reason
                        )
                        continue
                    waiting.append((block, await self._send(block, intake, user, key)))
                for block, answer in waiting:
                    for row, outcome in zip(block, await _outcomes(block, answer), strict=True):
                        said[id(row)] = outcome
        except TimeoutError:
            raise NoAnswerYet(ANSWER_SECONDS) from None
        return [said[id(row)] for row in rows]

    async def define(self, definitions: Sequence[AnyDefinition]) -> list[Any]:
        """Book definitions of reference data; a REPLY each. Raises NotTaken, NoAnswerYet."""
        intake = self._open_intake()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answers = [await intake.send(definition_event(one)) for one in definitions]
                return [await answer for answer in answers]
        except TimeoutError:
            raise NoAnswerYet(ANSWER_SECONDS) from None

    def _open_intake(self) -> OwnIntake:
        if self._intake is None:
            raise NotTaken("the gateway has no intake ring yet; other programs have them all, or it starts")
        if not self._intake.is_open:
            raise NotTaken("the system starts or stops")
        return self._intake

    async def _send(self, block: list[TradeRow], intake: OwnIntake, user: str, key: str) -> asyncio.Future[Any] | Refused:
        groups = []
        for row in block:
            try:
                async with self._learning:
                    groups.append(await self._reference.group_of(row, intake))
            except Refused as error:
                if len(block) == 1:
                    return error
                return Refused(error.code, error.field, error.value, f"{row.trade_id}: {error.reason}; no child of this block was booked")
        group = groups[0] if len(groups) == 1 else joined(groups)
        if key:
            head = group[0]
            if int(head["kind"]) == Kind.ALLOCATION:
                return Refused(Code.BAD_ROW, "Idempotency-Key", key, "a child of a block has its own trade_id for a key")
            head["second_key_hi"], head["second_key_lo"] = words(key_of("IDEMPOTENCY", f"{user}/{key}", 0))
        return await intake.send(group)


def _blocks(rows: Sequence[Row]) -> list[Any]:
    """Runs of children of one block as lists, other rows as lists of one, and what could not be read as it is."""
    found: list[Any] = []
    for row in rows:
        if isinstance(row, RowError):
            found.append(row)
        elif row.parent_id and found and isinstance(found[-1], list) and found[-1][0].parent_id == row.parent_id:
            found[-1].append(row)
        else:
            found.append([row])
    return found


async def _outcomes(block: list[TradeRow], answer: asyncio.Future[Any] | Refused) -> list[Outcome]:
    if isinstance(answer, Refused):
        return [refused_outcome(row.line, row.trade_id or row.lot_id, answer) for row in block]
    reply = await answer
    return [outcome_of(reply, row.line, row.trade_id or row.lot_id, row) for row in block]
