"""Bodies of commands as rows of the trade input, and what became of them as answers.

Owns the reading of bodies (text of JSON or CSV, the same reader as for files, so that each row means the same wherever it comes from),
whose books may be touched, and the way from outcomes to HTTP.
"""

from __future__ import annotations

import io
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Response

from pks.base.errors import CODES, Code
from pks.bff.problems import STATUS_OF, Problem, refused
from pks.client.bulk import Outcome
from pks.edges.files.rows import RowError, TradeRow
from pks.edges.files.trades import read_trades
from pks.engine.booking.border import BLOCK_SOURCE

if TYPE_CHECKING:
    from pks.bff.access import Principal
    from pks.bff.booking import Booking

Originals = Callable[[TradeRow], Awaitable[Sequence[dict[str, Any]]]]
"""Trades that a correction may mean, each with at least its book, source and account, as `pks trades --json` has them."""

KEY_HEADER, KEY_FIELD = "Idempotency-Key", "idempotency_hash"
KEY_FORM = re.compile(r"[\x21-\x7e]{1,100}")

CORRECTIONS = ("AMEND", "CANCEL", "FEE")


class Booked(msgspec.Struct, frozen=True):
    """What is said of a trade that is booked: durable at `sequence`, which a repeat gets too."""

    status: str
    trade_id: str
    sequence: int


def one_row(body: bytes) -> tuple[TradeRow, str]:
    """(the one row of a JSON body, its idempotency_hash). Raises Problem."""
    try:
        parsed = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Problem(400, Code.BAD_ROW.name, f"the body is not a JSON object: {error}") from None
    key = parsed.get(KEY_FIELD) or ""
    if not isinstance(key, str):
        raise Problem(400, Code.BAD_TEXT.name, "must be text", field=KEY_FIELD, value=key)
    for name, value in parsed.items():
        if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
            raise refused(Code.NOT_A_NUMBER, name, value, 'a number is written as text, such as "101.25": a JSON number may lose digits')
    rows = list(read_trades(io.BytesIO(b"[" + body + b"]"), "json"))
    if len(rows) != 1:
        raise Problem(400, Code.BAD_ROW.name, "the body is not one JSON object")
    row = rows[0]
    if isinstance(row, RowError):
        raise refused(row.code, row.field, row.value, row.reason)
    return row, key


def key_of_command(header: str | None, field: str) -> str:
    """The one Idempotency-Key of a command, "" for none. Raises Problem 400."""
    if header and field and header != field:
        raise Problem(
            400, "IDEMPOTENCY_KEYS_DIFFER", f"the header {KEY_HEADER} and {KEY_FIELD} name different keys", field=KEY_FIELD, value=field
        )
    key = header or field
    if key and not KEY_FORM.fullmatch(key):
        raise Problem(
            400, Code.BAD_TEXT.name, "a key has 1 to 100 printable ASCII characters without blanks", field=KEY_HEADER, value=key[:100]
        )
    return key


def may_touch(principal: Principal, row: TradeRow) -> Problem | None:
    """Why a row names a book that the user may not see: in the words for one that does not exist."""
    for field in ("book", "to_book"):
        book = getattr(row, field)
        if book and not principal.sees(book):
            return refused(Code.UNKNOWN_BOOK, field, book)
    return None


def refused_of(problem: Problem, row: TradeRow) -> Outcome:
    """A problem of one row among many."""
    return Outcome(row.line, row.trade_id, "REFUSED", 0, problem.code, problem.field, str(problem.value or ""), problem.detail)


def answer(outcome: Outcome) -> Response[Any]:
    """201 for a new booking, 200 for a repeat. Raises Problem for a refusal."""
    if outcome.status == "REFUSED":
        code = Code[outcome.code]
        raise Problem(
            STATUS_OF.get(code, 422), outcome.code, outcome.reason or CODES[code], field=outcome.field, value=outcome.value or None
        )
    return Response(
        Booked(outcome.status, outcome.trade_id, outcome.sequence),
        status_code=201 if outcome.status == "ACCEPTED" else 200,
        headers={"Pks-Sequence": str(outcome.sequence)},
    )


def batch_answer(outcomes: Sequence[Outcome]) -> Iterable[dict[str, Any]]:
    """One object a row as `pks book --json`."""
    return [outcome._asdict() for outcome in outcomes]


class Commands:
    """What users may have booked: checked for whose books it touches, then handed to `booking`, and noted for the audit."""

    def __init__(self, booking: Booking, originals: Originals, note: Callable[[Principal, str, str, str], None]) -> None:
        """originals: the trades that a correction may mean. note: takes (user, action, subject, outcome) for the audit."""
        self._booking, self._originals, self._note = booking, originals, note

    async def book(self, rows: Sequence[TradeRow | RowError], principal: Principal, key: str = "") -> list[Outcome]:
        """What became of each row, in order; none of it is a secret of a book that the user may not see. Raises Problem for a permission
        that is lacking, Retryable where the core or the past cannot be asked.
        """
        said: dict[int, Outcome] = {}
        allowed: list[TradeRow | RowError] = []
        for place, row in enumerate(rows):
            problem = None if isinstance(row, RowError) else await self._refusal(row, principal)
            if problem is not None:
                assert isinstance(row, TradeRow), "what was not read is not judged"
                said[place] = refused_of(problem, row)
            else:
                allowed.append(row)
        outcomes = iter(await self._booking.book(allowed, principal.name, key) if allowed else ())
        found = [said[place] if place in said else next(outcomes) for place in range(len(rows))]
        for row, outcome in zip(rows, found, strict=True):
            kind = (getattr(row, "kind", "") or "TRADE").lower()
            self._note(principal, f"trade.{kind}", outcome.trade_id, f"{outcome.status} {outcome.code or outcome.sequence}")
        return found

    async def _refusal(self, row: TradeRow, principal: Principal) -> Problem | None:
        """Why this user may not have this row booked."""
        is_correction = row.kind.strip().upper() in CORRECTIONS
        wanted = "CORRECT" if is_correction else "BOOK"
        if not principal.may(wanted):
            raise Problem(403, "FORBIDDEN", f"this asks for the permission {wanted}, which none of your roles has")
        if principal.books is None:
            return None
        if (problem := may_touch(principal, row)) is not None:
            return problem
        if is_correction:
            return await self._only_own(row, principal)
        if not row.book and row.source != BLOCK_SOURCE:
            return refused(Code.MISSING_FIELD, "book", None, "a user of certain books names the book: no rule routes for him")
        return None

    async def _only_own(self, row: TradeRow, principal: Principal) -> Problem | None:
        """A correction finds its trade by id alone: of those that it may mean the user's own must be the only one."""
        found = [one for one in await self._originals(row) if one["book"] is None or principal.sees(one["book"])]
        if not found:
            return refused(Code.UNKNOWN_TRADE, "trade_id", row.trade_id)
        if len(found) == 1:
            row.source, row.account = row.source or found[0]["source"] or "", row.account or found[0]["account"] or ""
        return None
