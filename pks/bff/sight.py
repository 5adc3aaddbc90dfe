"""What a user sees of the host: a book that is not granted reads exactly as one that does not exist, in every filter and every answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pks.bff.problems import not_found
from pks.client.errors import UnknownName

if TYPE_CHECKING:
    from pks.bff.access import Principal
    from pks.client.host import Host
    from pks.engine.positions.view import PositionView


def one_position(host: Host, principal: Principal, book: str, instrument: str) -> PositionView:
    """A position that the user may see. Raises Problem 404."""
    if not principal.sees(book):
        raise not_found("book", book)
    try:
        return host.positions[book, instrument]
    except UnknownName as error:
        what = {"instrument": ("instrument", instrument), "book": ("book", book)}.get(error.what, ("position", f"{book}/{instrument}"))
        raise not_found(*what) from None


def visible_books(host: Host, principal: Principal, books: list[str] | None) -> list[str] | None:
    """Codes of the books that are asked for and may be seen, None for all there are. Raises Problem 404."""
    if books is None:
        return None if principal.books is None else sorted(principal.books & set(host.positions.books))
    known = set(host.positions.books)
    for book in books:
        if book not in known or not principal.sees(book):
            raise not_found("book", book)
    return list(books)


def instrument_code(host: Host, name: str) -> str:
    """A name by which an instrument can be found. Raises Problem 404."""
    try:
        host.names.instrument_id(name)
    except UnknownName:
        raise not_found("instrument", name) from None
    return name
