"""Bodies of commands as rows of the trade input, and what became of them as answers.

Owns the reading of bodies (text of JSON or CSV, the same reader as for files, so that each row means the same wherever it comes from),
whose books may be touched, and the way from outcomes to HTTP.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request, Response

from pks.base.errors import CODES, Code
from pks.bff.access import Permission
from pks.bff.approvals import Approvals, Over, over_limit, row_of
from pks.bff.audit import AuditLog
from pks.bff.problems import STATUS_OF, Problem, refused
from pks.client.bulk import Outcome
from pks.edges.files.rows import RowError, TradeRow
from pks.edges.files.trades import read_trades
from pks.edges.postgres.approvals import Approval
from pks.engine.booking.border import BLOCK_SOURCE

if TYPE_CHECKING:
    from pks.bff.access import Principal
    from pks.bff.booking import Booking

Originals = Callable[[TradeRow], Awaitable[Sequence[dict[str, Any]]]]
"""Trades that a correction may mean, each with at least its book, source and account, as `pks trades --json` has them."""

KEY_HEADER, KEY_FIELD = "Idempotency-Key", "idempotency_hash"
KEY_FORM = re.compile(r"[\x21-\x7e]{1,100}")

BATCH = "BATCH"
"""The audit's word for many rows at once."""

CORRECTIONS = ("AMEND", "CANCEL", "FEE")
ACTIONS = {name: name for name in (*CORRECTIONS, "OPENING", "TRANSFER", "ALLOCATION")}
"""Kind of a row -> the audit's word; everything else is BOOK."""


WAITING = "WAITING"
"""Status of what a second person must let go on; the approval's number is the outcome's value."""


class Booked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is said of a trade that is booked: durable at `sequence`, which a repeat gets too. Of one that waits for a second person:
    the number under which it does.
    """

    status: str
    trade_id: str
    sequence: int = 0
    approval: int = 0


def address_of(request: Request[Any, Any, Any]) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else ""


def body_of(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises Problem 400."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(400, Code.BAD_ROW.name, f"the body is not a JSON object: {error}") from None


def one_row(body: bytes) -> tuple[TradeRow, str]:
    """(the one row of a JSON body, its idempotency_hash). Raises Problem."""
    parsed = body_of(body)
    key = parsed.get(KEY_FIELD) or ""
    if not isinstance(key, str):
        raise Problem(400, Code.BAD_TEXT.name, "must be text", field=KEY_FIELD, value=key)
    for name, value in parsed.items():
        if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
            raise refused(Code.NOT_A_NUMBER, name, value, 'a number is written as text, such as "101.25": a JSON number may lose digits')
    rows = rows_of(b"[%b]" % body, "json")
    if len(rows) != 1:
        raise Problem(400, Code.BAD_ROW.name, "the body is not one JSON object")
    row = rows[0]
    if isinstance(row, RowError):
        raise refused(row.code, row.field, row.value, row.reason)
    return row, key


def rows_of(body: bytes, form: str) -> list[TradeRow | RowError]:
    """The rows of a body as a file of that form has them."""
    return list(read_trades(io.BytesIO(body), form))


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


def refused_of(problem: Problem, row: TradeRow) -> Outcome:
    """A problem of one row among many."""
    return Outcome(row.line, row.trade_id, "REFUSED", 0, problem.code, problem.field, str(problem.value or ""), problem.detail)


def answer(outcome: Outcome) -> Response[Any]:
    """201 for a new booking, 200 for a repeat, 202 for what waits for a second person. Raises Problem for a refusal."""
    if outcome.status == "REFUSED":
        status = STATUS_OF.get(Code[outcome.code], 422) if outcome.code in Code.__members__ else 422
        raise Problem(status, outcome.code, outcome.reason, field=outcome.field, value=outcome.value or None)
    if outcome.status == WAITING:
        return Response(Booked(WAITING, outcome.trade_id, approval=int(outcome.value)), status_code=202)
    return Response(
        Booked(outcome.status, outcome.trade_id, outcome.sequence),
        status_code=201 if outcome.status == "ACCEPTED" else 200,
        headers={"Pks-Sequence": str(outcome.sequence)},
    )


def batch_answer(outcomes: Sequence[Outcome]) -> Iterable[dict[str, Any]]:
    """One object a row as `pks book --json`."""
    return [outcome._asdict() for outcome in outcomes]


class Commands:
    """What users may have booked: checked for whose books it touches and for its size, handed to `booking`, noted for the audit."""

    def __init__(self, booking: Booking, approvals: Approvals, audit: AuditLog, originals: Originals, limits: dict[str, str]) -> None:
        """originals: the trades that a correction may mean. limits: currency -> notional above which a trade waits."""
        self._booking, self._approvals, self._audit, self._originals, self._limits = booking, approvals, audit, originals, limits

    async def book(
        self, rows: Sequence[TradeRow | RowError], principal: Principal, key: str = "", address: str = "", *, each: bool = True
    ) -> list[Outcome]:
        """What became of each row, in order; none of it is a secret of a book that the user may not see. each: a note of the audit a row.

        Rows are booked as they come: a row that waits for a second person holds up no other. Raises Problem for a permission that is
        lacking, Retryable where the core, the past, or the queue of those who wait cannot be asked.
        """
        self._audit.check_room()
        said: dict[int, Outcome] = {}
        allowed: list[TradeRow | RowError] = []
        for place, row in enumerate(rows):
            outcome = None if isinstance(row, RowError) else await self._held_back(row, principal, key)
            if outcome is None:
                allowed.append(row)
            else:
                said[place] = outcome
        outcomes = iter(await self._booking.book(allowed, principal.name, key) if allowed else ())
        found = [said[place] if place in said else _without_others(next(outcomes), principal) for place in range(len(rows))]
        for row, outcome in zip(rows, found, strict=True) if each else ():
            self._note(principal, row, outcome, address)
        return found

    def note_batch(self, principal: Principal, outcomes: Sequence[Outcome], address: str) -> None:
        """One note of the audit for many rows: how many of each kind, and the events from the first to the last."""
        counts = Counter(outcome.status for outcome in outcomes)
        sequences = [outcome.sequence for outcome in outcomes if outcome.status == "ACCEPTED"]
        detail: dict[str, Any] = {name.lower(): counts[name] for name in ("ACCEPTED", "DUPLICATE", "REFUSED", WAITING)}
        if sequences:
            detail |= {"first": min(sequences), "last": max(sequences)}
        subject, rows = f"{len(outcomes)} rows", len(outcomes)
        self._audit.note(principal.name, BATCH, subject, address=address, session=principal.session, rows=rows, **detail)

    async def approve(self, number: int, principal: Principal, address: str = "") -> Outcome:
        """Let what waits be booked, in the name and under the key of who wanted it. Raises Problem."""
        self._audit.check_room()
        approval = await self._approvals.decide(number, principal, approved=True)
        row = row_of(approval)
        outcome = (await self._booking.book([row], approval.actor, approval.idempotency_key))[0]
        await self._approvals.settle(number, None if outcome.status == "REFUSED" else outcome.sequence, outcome.reason)
        self._note(principal, row, outcome, address, "APPROVE", approval=number, wanted_by=approval.actor)
        return outcome

    async def reject(self, number: int, principal: Principal, reason: str, address: str = "") -> Approval:
        """It is not booked. Raises Problem."""
        self._audit.check_room()
        approval = await self._approvals.decide(number, principal, approved=False, reason=reason)
        self._audit.note(
            principal.name, "REJECT", approval.trade_id, address=address, session=principal.session, approval=number, reason=reason
        )
        return approval

    def _note(
        self, principal: Principal, row: TradeRow | RowError, outcome: Outcome, address: str, action: str = "", **detail: Any
    ) -> None:
        kind = (getattr(row, "kind", "") or "TRADE").strip().upper()
        self._audit.note(
            principal.name, action or ACTIONS.get(kind, "BOOK"), outcome.trade_id, code=outcome.code, address=address,
            session=principal.session, status=outcome.status, sequence=outcome.sequence, book=getattr(row, "book", ""), **detail,
        )  # fmt: skip

    async def _held_back(self, row: TradeRow, principal: Principal, key: str) -> Outcome | None:
        """Why this row is not booked now; None for one that is."""
        kind = row.kind.strip().upper()
        wanted = Permission.CORRECT if kind in CORRECTIONS else Permission.BOOK
        if not principal.may(wanted):
            raise Problem(403, "FORBIDDEN", f"this asks for the permission {wanted}, which none of your roles has")
        meant: Sequence[dict[str, Any]] = ()
        if kind in CORRECTIONS and (principal.books is not None or self._limits):
            meant = [one for one in await self._originals(row) if one["book"] is None or principal.sees(one["book"])]
        if principal.books is not None and (problem := _not_yours(row, kind, meant, principal)) is not None:
            return refused_of(problem, row)
        over = await self._over(row, kind, meant)
        if over is None:
            return None
        approval = await self._approvals.put(row, principal, key, over)
        if approval.state in ("WAITING", "APPROVED"):
            reason = f"{over.notional} {over.currency} is above {over.allowed}: a second person decides"
            return Outcome(row.line, row.trade_id, WAITING, 0, "", "approval", str(approval.id), reason)
        if approval.sequence is not None:
            return Outcome(row.line, row.trade_id, "DUPLICATE", approval.sequence, "", "", "", "")
        return Outcome(row.line, row.trade_id, "REFUSED", 0, "NOT_APPROVED", "approval", str(approval.id), approval.reason or "rejected")

    async def _over(self, row: TradeRow, kind: str, meant: Sequence[dict[str, Any]]) -> Over | None:
        if not self._limits:
            return None
        catalogue = await self._booking.catalogue()
        if kind in ("", "TRADE") and not row.parent_id:
            return over_limit(catalogue, self._limits, row.instrument, row.venue, row.quantity, row.price)
        if kind == "AMEND" and len(meant) == 1 and (row.quantity or row.price or row.instrument):
            one = meant[0]
            quantity, price = row.quantity or one["quantity"] or "", row.price or one["price"] or ""
            return over_limit(catalogue, self._limits, row.instrument or one["instrument"] or "", row.venue, quantity, price)
        return None


def _without_others(outcome: Outcome, principal: Principal) -> Outcome:
    """A conflict without the event that has the id: it may be of a book that the user does not see."""
    if principal.books is None or outcome.code != Code.IDEMPOTENCY_CONFLICT.name:
        return outcome
    return outcome._replace(sequence=0, reason=CODES[Code.IDEMPOTENCY_CONFLICT])


def _not_yours(row: TradeRow, kind: str, meant: Sequence[dict[str, Any]], principal: Principal) -> Problem | None:
    """Why a user of certain books may not have this row booked: in the words for what does not exist.

    A correction finds its trade by id alone, so of those that it may mean the user's own must be the only one.
    """
    for field in ("book", "to_book"):
        book = getattr(row, field)
        if book and not principal.sees(book):
            return refused(Code.UNKNOWN_BOOK, field, book)
    if kind not in CORRECTIONS:
        if row.book or row.source == BLOCK_SOURCE:
            return None
        return refused(Code.MISSING_FIELD, "book", None, "a user of certain books names the book: no rule routes for him")
    if not meant:
        return refused(Code.UNKNOWN_TRADE, "trade_id", row.trade_id)
    if len(meant) == 1:
        row.source, row.account = row.source or meant[0]["source"] or "", row.account or meant[0]["account"] or ""
    return None
