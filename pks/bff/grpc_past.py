"""The past for gRPC: its questions put to the worker `past`, its answers as words of messages.

Owns no figure: rows go through as they come, since messages have the words of `pks trades`, `pks lots` and `pks positions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pks.bff.problems import problem_of_failed
from pks.past.questions import AnyAnswer, AnyQuestion, Failed, History, Imagined, Page, WhatIf


class Asker(Protocol):
    """`ask_past.AskPast`."""

    async def ask(self, question: AnyQuestion) -> AnyAnswer: ...


class GrpcPast:
    """Implements `grpc_service.Past`."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def history(self, book: str, instrument: str, *, after: int, limit: int, known_at: int | None) -> Mapping[str, Any]:
        """The words of a PositionHistory. Raises Problem, PastUnavailable."""
        found = await self._answer(History(book=book, instrument=instrument, after=after, limit=limit, known_at=known_at))
        assert isinstance(found, Page), "a question for rows is answered with rows"
        return {"events": found.rows, "next": found.next or 0, "sequence": found.sequence}

    async def what_if(self, rows: Sequence[Mapping[str, Any]], marks: Mapping[str, str], books: frozenset[str] | None) -> Mapping[str, Any]:
        """The words of a WhatIfResponse. Raises Problem, PastUnavailable."""
        seen = None if books is None else tuple(sorted(books))
        found = await self._answer(WhatIf(rows=tuple(map(dict, rows)), marks=dict(marks), books=seen))
        assert isinstance(found, Imagined), "a question what would be is answered with that"
        words: dict[str, Any] = msgspec.structs.asdict(found)
        return words

    async def _answer(self, question: AnyQuestion) -> AnyAnswer:
        found = await self._asker.ask(question)
        if isinstance(found, Failed):
            raise problem_of_failed(found)
        return found
