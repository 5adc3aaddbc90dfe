"""Trades over REST: booked, amended, cancelled, in batches; answered when they are durable."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from litestar import Request, Response, get, patch, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import FromPath, HeaderParameter, QueryParameter

from pks.base.errors import Code
from pks.bff.access import Permission
from pks.bff.commands import BATCH, Booked, address_of, answer, batch_answer, key_of_command, one_row
from pks.bff.guards import asks
from pks.bff.lists import JSON, LIMIT_DEFAULT, LIMIT_MAX, NUMBER_MAX
from pks.bff.problems import Problem
from pks.edges.files.rows import RowError, TradeRow
from pks.edges.files.trades import read_trades
from pks.edges.postgres import users

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway
    from pks.client.bulk import Outcome

BATCH_ROWS_MAX = 100_000
"""Rows of one upload; more come as a file through `pks book`, or in several."""

SUB_BATCH = 512
"""Rows that are sent before their answers are waited for."""

Key = Annotated[
    str | None,
    HeaderParameter(name="Idempotency-Key", required=False, description="a repeat under the same key is answered with the first sequence"),
]

BOOKED = {
    201: ResponseSpec(
        Booked, description="booked and durable", examples=[Example(value={"status": "ACCEPTED", "trade_id": "T-1", "sequence": 42})]
    ),
    200: ResponseSpec(Booked, description="a repeat: the first sequence"),
    202: ResponseSpec(Booked, description="above the limit of one person: waits for a second one"),
}


@post("/trades/book", opt=asks(Permission.BOOK), responses=BOOKED, summary="Book a trade", tags=["trades"])
async def book_trade(request: Request[Any, Any, Any], key: Key = None) -> Response[Any]:
    """Book one trade, opening lot, fee or transfer; the fields are those of the trade input, numbers as text.

    201 when it is on the disk and in the position; 200 for a repeat; 409 for other content under a known id or key; 422 with the field
    and the reason.
    """
    row, field = one_row(await request.body())
    return await _book(request, row, key_of_command(key, field))


@post("/trades/{trade_id:str}/cancel", opt=asks(Permission.CORRECT), responses=BOOKED, summary="Cancel a trade", tags=["trades"])
async def cancel_trade(request: Request[Any, Any, Any], trade_id: FromPath[str], key: Key = None) -> Response[Any]:
    """Cancel the trade of this id; the body may say `source` and `account` where the id alone fits two."""
    return await _correct(request, trade_id, "CANCEL", key)


@post("/trades/{trade_id:str}/amend", opt=asks(Permission.CORRECT), responses=BOOKED, summary="Amend a trade", tags=["trades"])
async def amend_trade(request: Request[Any, Any, Any], trade_id: FromPath[str], key: Key = None) -> Response[Any]:
    """Amend the trade of this id: the body has what changes."""
    return await _correct(request, trade_id, "AMEND", key)


@patch("/trades/{trade_id:str}/amend", opt=asks(Permission.CORRECT), responses=BOOKED, summary="Amend a trade", tags=["trades"])
async def amend_trade_by_patch(request: Request[Any, Any, Any], trade_id: FromPath[str], key: Key = None) -> Response[Any]:
    """The same as POST."""
    return await _correct(request, trade_id, "AMEND", key)


async def _correct(request: Request[Any, Any, Any], trade_id: str, kind: str, key: str | None) -> Response[Any]:
    body = await request.body()
    row, field = one_row(body) if body.strip() else (TradeRow(line=1, row=1), "")
    for name, said, meant in (("trade_id", row.trade_id, trade_id), ("kind", row.kind.upper(), kind)):
        if said not in ("", meant):
            raise Problem(400, Code.BAD_ROW.name, f"the path says {meant}", field=name, value=said)
    row.trade_id, row.kind = trade_id, kind
    return await _book(request, row, key_of_command(key, field))


async def _book(request: Request[Any, Any, Any], row: TradeRow, key: str) -> Response[Any]:
    gateway: Gateway = request.app.state.gateway
    outcome = (await gateway.commands.book([row], request.user, key, address_of(request)))[0]
    return answer(outcome)


@post("/batch/trades", status_code=200, opt=asks(Permission.BOOK), summary="Book many trades", tags=["trades"])
async def book_batch(request: Request[Any, Any, Any]) -> Response[Any]:
    """Book a JSON array, NDJSON or a CSV file, as `pks book` does: one object a row, in order, refused rows among them."""
    gateway: Gateway = request.app.state.gateway
    form = {"text/csv": "csv", "application/json": "json", "application/x-ndjson": "ndjson"}.get(request.content_type[0])
    if form is None:
        raise Problem(415, "UNSUPPORTED_MEDIA_TYPE", "a batch is JSON, NDJSON or CSV", field="Content-Type", value=request.content_type[0])
    address = address_of(request)
    said: list[Outcome] = []
    beyond: list[Outcome] = []
    rows: list[TradeRow | RowError] = []
    for number, row in enumerate(read_trades(io.BytesIO(await request.body()), form)):
        if number >= BATCH_ROWS_MAX:
            beyond.append(_too_many(row))
            continue
        if len(rows) >= SUB_BATCH and not _goes_with(row, rows[-1]):
            said += await gateway.commands.book(rows, request.user, address=address, each=False)
            rows = []
        rows.append(row)
    said += [*await gateway.commands.book(rows, request.user, address=address, each=False), *beyond]
    gateway.commands.note_batch(request.user, said, address)
    return Response(msgspec.json.encode(batch_answer(said)), media_type=JSON)


def _goes_with(row: TradeRow | RowError, before: TradeRow | RowError) -> bool:
    """Whether both are children of one block, which are booked together."""
    return isinstance(row, TradeRow) and isinstance(before, TradeRow) and bool(row.parent_id) and row.parent_id == before.parent_id


def _too_many(row: TradeRow | RowError) -> Outcome:
    reason = f"a batch has {BATCH_ROWS_MAX} rows at most; those before it were dealt with"
    return Outcome(row.line, row.trade_id, "REFUSED", 0, Code.GROUP_TOO_LARGE.name, "", "", reason)


@get("/batch/trades", summary="Batches", tags=["trades"])
async def batches(
    request: Request[Any, Any, Any],
    limit: Annotated[int, QueryParameter(name="limit", ge=1, le=LIMIT_MAX, required=False)] = LIMIT_DEFAULT,
    after: Annotated[int, QueryParameter(name="after", ge=0, le=NUMBER_MAX, required=False, description="`next` of the page before")] = 0,
) -> Response[Any]:
    """What was uploaded, the newest first: how many rows of each kind, the events that they became. Others' batches for operators only."""
    gateway: Gateway = request.app.state.gateway
    actor = None if request.user.may(Permission.OPERATE) else request.user.name
    async with gateway.access.store() as connection:
        found = await users.audited_of(connection, BATCH, actor, after, limit)
    items = [{"id": number, "at": at, "actor": one.actor, **one.detail} for number, at, one in found]
    following = str(found[-1][0]) if len(found) == limit else None
    return Response(msgspec.json.encode({"items": items, "next": following}), media_type=JSON)


HANDLERS = [book_trade, cancel_trade, amend_trade, amend_trade_by_patch, book_batch, batches]
