"""What the journal says over REST: trades as they stand, lots, a position's history, any moment, and what would be.

Nothing is folded here: the worker `past` answers, and while it is away these are 503 and everything else goes on. Rows are in the words
of `pks trades`, `pks lots` and `pks positions`. What a user may not see is left out where the question is asked, so no row of it ever
comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, HeaderParameter, QueryParameter

from pks.base.clock import parse_time
from pks.base.errors import Code, Refused
from pks.bff.access import Permission
from pks.bff.commands import address_of, answer, batch_answer, body_of, key_of_command, one_row, rows_of
from pks.bff.guards import asks
from pks.bff.lists import CSV, JSON, LIMIT_DEFAULT, LIMIT_MAX, Page, decode_cursor, encode_cursor, form_of, list_response
from pks.bff.problems import Problem, not_found, problem_of_failed, refused
from pks.bff.sight import visible_books
from pks.edges.files.rows import TradeRow
from pks.past import questions as past

if TYPE_CHECKING:
    from pks.bff.access import Principal
    from pks.bff.gateway import Gateway

TRADE_COLUMNS = (
    "sequence",
    "trade_id",
    "leg",
    "source",
    "kind",
    "state",
    "version",
    "code",
    "book",
    "to_book",
    "instrument",
    "side",
    "quantity",
    "price",
    "fees",
    "account",
    "trade_time",
    "business_date",
    "settle_date",
    "lot_id",
    "venue",
    "order_id",
    "counterparty",
    "note",
    "parent",
    "replaced_by",
    "recorded_time",
    "last_sequence",
)
LOT_COLUMNS = ("lot_id", "date", "quantity", "price", "cost")

AS_OF = Annotated[str | None, QueryParameter(name="as_of", required=False, description="only trades up to this time, RFC 3339 in UTC")]
KNOWN_AT = Annotated[int | None, QueryParameter(name="known_at", ge=0, required=False, description="only events up to this sequence")]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=LIMIT_MAX, required=False, description="rows a page")]
After = Annotated[str | None, QueryParameter(name="after", required=False, description="`next` of the page before")]
Several = list[str] | None


@get("/trades", summary="Trades", tags=["trades"])
async def trades(
    request: Request[Any, Any, Any],
    books: Annotated[Several, QueryParameter(name="book", required=False)] = None,
    instruments: Annotated[Several, QueryParameter(name="instrument", required=False)] = None,
    accounts: Annotated[Several, QueryParameter(name="account", required=False)] = None,
    sources: Annotated[Several, QueryParameter(name="source", required=False)] = None,
    kinds: Annotated[Several, QueryParameter(name="kind", required=False)] = None,
    trade_ids: Annotated[Several, QueryParameter(name="trade_id", required=False)] = None,
    first: Annotated[str | None, QueryParameter(name="from", required=False, description="trade time from here on, RFC 3339")] = None,
    last: Annotated[str | None, QueryParameter(name="to", required=False, description="trade time up to here, RFC 3339")] = None,
    unallocated: Annotated[bool, QueryParameter(name="unallocated", required=False, description="only blocks that wait")] = False,
    newest: Annotated[bool, QueryParameter(name="newest_first", required=False)] = False,
    as_of: AS_OF = None,
    known_at: KNOWN_AT = None,
    limit: Limit = LIMIT_DEFAULT,
    after: After = None,
) -> Response[Any]:
    """Every trade as it stands now (or stood, with `as_of` and `known_at`): latest version, state, and what replaced it."""
    form = form_of(request, (JSON, CSV))
    goes_on, known = _place(after, known_at)
    question = past.Trades(
        books=_books(request, books),
        instruments=tuple(instruments or ()),
        accounts=tuple(accounts or ()),
        sources=tuple(sources or ()),
        kinds=tuple(kind.upper() for kind in kinds or ()),
        trade_ids=tuple(trade_ids or ()),
        first_ns=_time("from", first),
        last_ns=_time("to", last),
        unallocated=unallocated,
        newest_first=newest,
        after=goes_on,
        limit=min(limit, past.ROWS_MAX),
        as_of=_time("as_of", as_of),
        known_at=known,
    )
    return _listed(form, await _page(request, question), TRADE_COLUMNS)


@get("/trades/{trade_id:str}", summary="One trade", tags=["trades"])
async def trade(request: Request[Any, Any, Any], trade_id: FromPath[str]) -> Response[Any]:
    """All trades of this id, which may be one of several sources, with the lots that each closed."""
    found = await _page(request, past.TradeOf(trade_id=trade_id, books=_sees(request.user)))
    if not found.rows:
        raise not_found("trade", trade_id)
    return _listed(JSON, found, TRADE_COLUMNS)


@get("/positions/{book:str}/{instrument:str}/lots", summary="Open lots of a position", tags=["positions"])
async def lots(
    request: Request[Any, Any, Any],
    book: FromPath[str],
    instrument: FromPath[str],
    as_of: AS_OF = None,
    known_at: KNOWN_AT = None,
    limit: Limit = LIMIT_DEFAULT,
    after: After = None,
) -> Response[Any]:
    """The oldest first; quantities of short lots are negative."""
    form = form_of(request, (JSON, CSV))
    _must_see(request, book)
    goes_on, known = _place(after, known_at)
    question = past.LotsOf(
        book=book, instrument=instrument, as_of=_time("as_of", as_of), known_at=known, after=goes_on or 0, limit=min(limit, past.ROWS_MAX)
    )
    return _listed(form, await _page(request, question), LOT_COLUMNS)


@get("/positions/{book:str}/{instrument:str}/history", summary="How a position came about", tags=["positions"])
async def history(
    request: Request[Any, Any, Any],
    book: FromPath[str],
    instrument: FromPath[str],
    known_at: KNOWN_AT = None,
    limit: Limit = LIMIT_DEFAULT,
    after: After = None,
) -> Response[Any]:
    """Everything that was booked into it, in order, each with the lots that it closed."""
    _must_see(request, book)
    goes_on, known = _place(after, known_at)
    question = past.History(book=book, instrument=instrument, known_at=known, after=goes_on or 0, limit=min(limit, past.ROWS_MAX))
    return _listed(JSON, await _page(request, question), TRADE_COLUMNS)


@get("/held", summary="What accounts hold", tags=["positions"])
async def held(
    request: Request[Any, Any, Any],
    accounts: Annotated[Several, QueryParameter(name="account", required=False)] = None,
    instruments: Annotated[Several, QueryParameter(name="instrument", required=False)] = None,
    flat: Annotated[bool, QueryParameter(name="all", required=False)] = False,
    as_of: AS_OF = None,
    known_at: KNOWN_AT = None,
    limit: Limit = LIMIT_DEFAULT,
    after: After = None,
) -> Response[Any]:
    """Quantity by account and instrument, over the books that the user sees."""
    goes_on, known = _place(after, known_at)
    question = past.Held(
        accounts=tuple(accounts or ()),
        instruments=tuple(instruments or ()),
        books=_sees(request.user),
        flat=flat,
        after=goes_on or 0,
        as_of=_time("as_of", as_of),
        known_at=known,
        limit=min(limit, past.ROWS_MAX),
    )
    return _listed(JSON, await _page(request, question), ())


@post("/whatif", status_code=200, summary="What would be", tags=["trades"])
async def whatif(request: Request[Any, Any, Any]) -> Response[Any]:
    """`{"trades": [...], "marks": {"SBER.MOEX": "301.2"}}`: positions before and after, lots, matches, realised P&L. Nothing is booked."""
    body = body_of(await request.body())
    rows, marks = body.get("trades"), body.get("marks", {})
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Problem(400, Code.BAD_ROW.name, "a list of trades is asked for", field="trades")
    if not isinstance(marks, dict) or not all(isinstance(mark, str) for mark in marks.values()):
        raise Problem(400, Code.BAD_ROW.name, "instrument -> price as text is asked for", field="marks")
    for row in rows:
        for name, value in row.items():
            if not isinstance(value, str | dict):
                raise refused(Code.NOT_A_NUMBER, name, value, 'everything is written as text, such as "101.25"')
    question = past.WhatIf(rows=tuple(rows), marks=marks, books=_sees(request.user))
    found = await _ask(request, question)
    return Response(msgspec.json.encode(found), media_type=JSON)


@get("/transfers", summary="Transfers between books", tags=["trades"])
async def transfers(request: Request[Any, Any, Any], limit: Limit = LIMIT_DEFAULT, after: After = None) -> Response[Any]:
    """In the order in which they were booked."""
    return await _of_kind(request, "TRANSFER", limit, after)


@get("/allocations", summary="Allocations of blocks", tags=["trades"])
async def allocations(request: Request[Any, Any, Any], limit: Limit = LIMIT_DEFAULT, after: After = None) -> Response[Any]:
    """The children of blocks, in the order in which they were booked."""
    return await _of_kind(request, "ALLOCATION", limit, after)


@post("/transfers", opt=asks(Permission.BOOK), summary="Transfer lots to another book", tags=["trades"])
async def transfer(
    request: Request[Any, Any, Any], key: Annotated[str | None, HeaderParameter(name="Idempotency-Key", required=False)] = None
) -> Response[Any]:
    """The fields are those of the trade input's TRANSFER: trade_id, book, to_book, instrument, quantity, trade_time, at."""
    gateway: Gateway = request.app.state.gateway
    row, field = one_row(await request.body())
    _is_kind(row, "TRANSFER")
    return answer((await gateway.commands.book([row], request.user, key_of_command(key, field), address_of(request)))[0])


@post("/allocations", status_code=200, opt=asks(Permission.BOOK), summary="Allocate a block", tags=["trades"])
async def allocate(request: Request[Any, Any, Any]) -> Response[Any]:
    """A JSON array: the children of one block, which sum to it; all of them are booked or none. One object a row is answered."""
    gateway: Gateway = request.app.state.gateway
    rows = rows_of(await request.body(), "json")
    for row in rows:
        if isinstance(row, TradeRow):
            _is_kind(row, "ALLOCATION")
    said = await gateway.commands.book(rows, request.user, address=address_of(request))
    return Response(msgspec.json.encode(batch_answer(said)), media_type=JSON)


async def positions_at(
    request: Request[Any, Any, Any],
    form: str,
    books: Several,
    instruments: Several,
    with_flat: bool,
    as_of: str | None,
    known_at: int | None,
    limit: int,
    after: str | None,
    columns: tuple[str, ...],
) -> Response[Any]:
    """Positions of a moment, for `rest_positions`."""
    place = None
    if after:
        book, instrument, known = decode_cursor(after, 3)
        place, known_at = (str(book), str(instrument)), int(known or 0)
    question = past.PositionsAt(
        books=_books(request, books),
        instruments=tuple(instruments or ()),
        flat=with_flat,
        after=place,
        limit=min(limit, past.ROWS_MAX),
        as_of=_time("as_of", as_of),
        known_at=known_at,
    )
    return _listed(form, await _page(request, question), columns)


async def originals_of(gateway: Gateway, row: TradeRow) -> list[dict[str, Any]]:
    """Trades that a correction may mean: of its id, and of its source, account and leg where it names them."""
    found = await gateway.past.ask(past.TradeOf(trade_id=row.trade_id))
    rows = found.rows if isinstance(found, past.Page) else []
    return [
        one
        for one in rows
        if (not row.source or one["source"] == row.source)
        and (not row.account or one["account"] == row.account)
        and (not row.leg or str(one["leg"]) == row.leg)
    ]


async def _of_kind(request: Request[Any, Any, Any], kind: str, limit: int, after: str | None) -> Response[Any]:
    goes_on, known = _place(after, None)
    question = past.Trades(books=_sees(request.user), kinds=(kind,), after=goes_on, known_at=known, limit=min(limit, past.ROWS_MAX))
    return _listed(JSON, await _page(request, question), TRADE_COLUMNS)


def _is_kind(row: TradeRow, kind: str) -> None:
    if row.kind.strip().upper() not in ("", kind):
        raise refused(Code.UNKNOWN_KIND, "kind", row.kind, f"here it is {kind}")
    row.kind = kind


async def _page(request: Request[Any, Any, Any], question: past.AnyQuestion) -> past.Page:
    found = await _ask(request, question)
    assert isinstance(found, past.Page), "questions for rows are answered with rows"
    return found


async def _ask(request: Request[Any, Any, Any], question: past.AnyQuestion) -> past.AnyAnswer:
    """The answer. Raises Problem for what the question asks amiss, Retryable where nobody answers."""
    gateway: Gateway = request.app.state.gateway
    found = await gateway.past.ask(question)
    if isinstance(found, past.Failed):
        raise problem_of_failed(found)
    return found


def _listed(form: str, found: past.Page, columns: tuple[str, ...]) -> Response[Any]:
    """Rows and the cursor of the next page, which goes on at the same sequence."""
    following = None
    if found.next is not None:
        place = list(found.next) if isinstance(found.next, tuple | list) else [found.next]
        following = encode_cursor([*place, found.sequence])
    return list_response(form, Page(found.rows, following), columns, {"Pks-Sequence": str(found.sequence)})


def _place(after: str | None, known_at: int | None) -> tuple[int | None, int | None]:
    """(where the page begins, the sequence at which the pages are all of one picture)."""
    if not after:
        return None, known_at
    place, known = decode_cursor(after, 2)
    if not isinstance(place, int) or not isinstance(known, int):
        raise Problem(400, "BAD_PARAMETER", "not a cursor of this list: take `next` of the page before", field="after", value=after[:80])
    return place, known


def _sees(principal: Principal) -> tuple[str, ...] | None:
    return None if principal.books is None else tuple(sorted(principal.books))


def _books(request: Request[Any, Any, Any], books: Several) -> tuple[str, ...] | None:
    """The books that are asked for and may be seen. Raises Problem 404."""
    gateway: Gateway = request.app.state.gateway
    found = visible_books(gateway.live.host, request.user, books)
    return None if found is None else tuple(found)


def _must_see(request: Request[Any, Any, Any], book: str) -> None:
    if not request.user.sees(book):
        raise not_found("book", book)


def _time(field: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(text, field)
    except Refused as error:
        raise Problem(400, error.code.name, error.reason, field=field, value=text) from None


HANDLERS = [trades, trade, lots, history, held, whatif, transfers, allocations, transfer, allocate]
