"""Positions over REST: the live ones out of the slots, one, their lots and history, and any moment of the past.

What is live is read in place; what is past is asked of the worker `past`. A book that a user may not see reads as one that does not exist,
in lists, in filters and alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter

from pks.bff.lists import ARROW, LIMIT_DEFAULT, LIMIT_MAX, Page, form_of, list_response, order_of, page_of
from pks.bff.rest_past import positions_at
from pks.bff.sight import instrument_code, one_position, visible_books

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway
    from pks.engine.positions.view import PositionView

FIELDS = (
    "book", "instrument", "quantity", "average_price", "cost", "realised_gross", "realised_net", "fees", "open_lots", "currency",
    "last_trade_time", "last_sequence",
)  # fmt: skip
KEY = ("book", "instrument")

Books = Annotated[list[str] | None, QueryParameter(name="book", required=False, description="only this one; may be given again")]
Instruments = Annotated[
    list[str] | None,
    QueryParameter(name="instrument", required=False, description="only this one, by code, ISIN, FIGI, RIC or symbol"),
]
Flat = Annotated[bool, QueryParameter(name="all", required=False, description="flat positions too")]
Sort = Annotated[str | None, QueryParameter(name="sort", required=False, description="fields, with commas; - before one for falling")]
AsOf = Annotated[str | None, QueryParameter(name="as_of", required=False, description="only trades up to this time, RFC 3339 in UTC")]
KnownAt = Annotated[int | None, QueryParameter(name="known_at", ge=0, required=False, description="only events up to this sequence")]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=LIMIT_MAX, required=False, description="rows a page")]
After = Annotated[str | None, QueryParameter(name="after", required=False, description="`next` of the page before")]


@get("/positions", summary="Positions", tags=["positions"])
async def positions(
    request: Request[Any, Any, Any],
    books: Books = None,
    instruments: Instruments = None,
    with_flat: Flat = False,
    sort: Sort = None,
    as_of: Annotated[str | None, QueryParameter(name="as_of", required=False, description="only trades up to this time, RFC 3339")] = None,
    known_at: Annotated[
        int | None, QueryParameter(name="known_at", ge=0, required=False, description="only events up to this sequence")
    ] = None,
    limit: Limit = LIMIT_DEFAULT,
    after: After = None,
) -> Response[Any]:
    """Positions as they are now: quantity, average price, cost and realised P&L with multiplier, fees, open lots.

    With `as_of` or `known_at` as they were then, by book and instrument. `Pks-Sequence` is the last event that they reflect, `Pks-State`
    says whether they are of now. `ETag` and `If-None-Match` spare what has not changed. CSV and Arrow by `Accept`.
    """
    gateway: Gateway = request.app.state.gateway
    form, order = form_of(request), order_of(sort, (name for name in FIELDS if name != "fees"), KEY)
    if as_of is not None or known_at is not None:
        return await positions_at(request, form, books, instruments, with_flat, as_of, known_at, limit, after, FIELDS)
    freshness = gateway.live.freshness()
    host, principal = gateway.live.host, request.user
    chosen = visible_books(host, principal, books)
    named = None if instruments is None else [instrument_code(host, name) for name in instruments]
    asked = (gateway.live.attachments, freshness.applied, form, chosen, named, with_flat, sort, limit, after)
    tag = etag(*asked)
    headers = freshness.headers | {"ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(None, status_code=304, headers=headers)
    found = host.positions.find(chosen, named, flat=with_flat)
    if form == ARROW:
        return list_response(form, Page((), None), FIELDS, headers, lambda: _table(found))
    page = page_of([one.as_dict() for one in found], order, limit, after)
    return list_response(form, page, FIELDS, headers)


@get("/positions/{book:str}/{instrument:str}", summary="One position", tags=["positions"])
async def position(request: Request[Any, Any, Any], book: FromPath[str], instrument: FromPath[str]) -> Response[dict[str, Any]]:
    """One position as it is now; 404 where nothing was ever booked."""
    gateway: Gateway = request.app.state.gateway
    freshness = gateway.live.freshness()
    found = one_position(gateway.live.host, request.user, book, instrument)
    return Response(found.as_dict(), headers=freshness.headers)


def etag(*parts: object) -> str:
    """A weak tag of all that an answer depends on."""
    return f'W/"{hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()}"'


def _table(found: list[PositionView]) -> Any:
    from pks.client.arrow import positions_table

    return positions_table(found)


HANDLERS = [positions, position]
