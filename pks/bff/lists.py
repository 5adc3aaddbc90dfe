"""Lists as REST answers them: `{"items", "next"}`, sorted, page by page, as JSON, CSV or Arrow by Accept.

A page begins behind the last row of the one before by what that row is (its key and the values that it is sorted by), so rows that come
and go meanwhile are neither told twice nor left out.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import msgspec
from litestar import Request, Response

from pks.bff.problems import Problem

JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
FORMS = (JSON, CSV, ARROW)
LIMIT_DEFAULT, LIMIT_MAX = 1000, 10_000
CURSOR_CHARACTERS_MAX = 2048
NUMBER_MAX = 2**63 - 1
"""What the number of a row in the database may be."""

Row = Mapping[str, Any]


class Page(NamedTuple):
    """Rows of one page, and the cursor of the next one, None behind the last."""

    rows: Sequence[Row]
    next: str | None


class Order(NamedTuple):
    """By which fields, and which of them falling; `key` fields make each row's place its own."""

    fields: tuple[tuple[str, bool], ...]  # (name, falling)
    key: tuple[str, ...]

    def place(self, row: Row) -> list[Any]:
        """What a row is sorted by, as it stands in a cursor."""
        return [row[name] for name, _ in self.fields] + [row[name] for name in self.key]


def order_of(sort: str | None, allowed: Iterable[str], key: tuple[str, ...]) -> Order:
    """sort: "book,-quantity". Raises Problem for a field that the rows do not have."""
    fields = []
    names = set(allowed)
    for part in filter(None, (sort or "").split(",")):
        name = part.removeprefix("-")
        if name not in names:
            raise Problem(400, "BAD_PARAMETER", f"rows are sorted by {', '.join(sorted(names))}", field="sort", value=part)
        fields.append((name, part.startswith("-")))
    return Order(tuple(fields), key)


def page_of(rows: Iterable[Row], order: Order, limit: int, after: str | None) -> Page:
    """One page of rows in their order. Raises Problem for a cursor that is none of ours."""
    place = decode_cursor(after, len(order.fields) + len(order.key)) if after else None
    falling = [down for _, down in order.fields] + [False] * len(order.key)

    def rank(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(_Falling(_comparable(value)) if down else _comparable(value) for value, down in zip(values, falling, strict=True))

    ranked = sorted(((rank(order.place(row)), row) for row in rows), key=lambda pair: pair[0])
    if place is not None:
        behind = rank(place)
        ranked = [pair for pair in ranked if pair[0] > behind]
    found = [row for _, row in ranked[:limit]]
    return Page(found, encode_cursor(order.place(found[-1])) if len(ranked) > limit else None)


class _Falling:
    """Compares the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Falling) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Falling) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


def _comparable(value: Any) -> tuple[int, Any]:
    """None first, then numbers (also those in texts) by size, then texts."""
    if value is None:
        return (0, 0)
    if isinstance(value, int | float):
        return (1, Decimal(value))
    try:
        return (1, Decimal(value))
    except (InvalidOperation, TypeError, ValueError):
        return (2, str(value))


def encode_cursor(place: Sequence[Any]) -> str:
    """A row's place as text for a URL."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def decode_cursor(text: str, length: int) -> list[Any]:
    """The place of `encode_cursor`. Raises Problem."""
    wrong = Problem(400, "BAD_PARAMETER", "not a cursor of this list: take `next` of the page before", field="after", value=text[:80])
    if len(text) > CURSOR_CHARACTERS_MAX:
        raise wrong
    try:
        place = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=list[str | int | None])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise wrong from None
    if len(place) != length:
        raise wrong
    return place


def form_of(request: Request[Any, Any, Any], forms: Sequence[str] = FORMS) -> str:
    """The first of our forms that Accept allows, JSON where it says nothing. Raises Problem 406."""
    accept = request.headers.get("accept", "")
    if not accept:
        return JSON
    chosen = request.accept.best_match(list(forms))
    if chosen is None:
        raise Problem(406, "NOT_ACCEPTABLE", f"this can be had as {', '.join(forms)}", field="Accept", value=accept[:80])
    return chosen


def list_response(
    form: str, page: Page, columns: Sequence[str], headers: Mapping[str, str], to_arrow: Callable[[], Any] | None = None
) -> Response[Any]:
    """A page in the wanted form. columns: of a CSV, in order. to_arrow: makes the pyarrow.Table."""
    if form == JSON:
        return Response(msgspec.json.encode({"items": page.rows, "next": page.next}), media_type=JSON, headers=dict(headers))
    more = {"Pks-Next": page.next} if page.next else {}
    if form == CSV:
        return Response(as_csv(page.rows, columns), media_type=f"{CSV}; charset=utf-8", headers={**headers, **more})
    assert to_arrow is not None, "lists without a table do not offer Arrow"
    return Response(as_arrow(to_arrow()), media_type=ARROW, headers={**headers, **more})


def as_csv(rows: Iterable[Row], columns: Sequence[str]) -> bytes:
    """Rows under a header; maps as JSON, None as nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value


def as_arrow(table: Any) -> bytes:
    """A pyarrow.Table as an IPC stream."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
