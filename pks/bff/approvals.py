"""Four eyes: trades above a limit wait until a second person lets them go on.

Owns what a trade is worth for this purpose (quantity x price with the instrument's multiplier, in the currency of its cost), which limit
holds, and the life of what waits. The queue itself is in Postgres; without it nothing above a limit can be booked, and that is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pks.base.errors import Code, PksError
from pks.base.units import InexactNumber, parse_scaled
from pks.bff.lists import NUMBER_MAX
from pks.bff.problems import Problem, not_found, refused
from pks.edges.files.rows import TradeRow
from pks.edges.postgres import approvals as store
from pks.edges.postgres.approvals import Approval, NotWaiting
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import Instrument
from pks.layouts.codes import Contract

if TYPE_CHECKING:
    from pks.bff.access import Principal

ANY_CURRENCY = "*"
NOTIONAL_PLACES = 8

Connect = Callable[[], AbstractAsyncContextManager[Any]]
"""An asyncpg connection of the role `pks_gateway`; entering raises AccessUnavailable where there is none."""


class Over(NamedTuple):
    """Why a trade waits."""

    notional: Decimal
    currency: str
    allowed: Decimal


def notional_of(instrument: Instrument, quantity: str, price: str) -> Fraction | None:
    """|quantity x price| with multiplier and quote factor, inverse contracts |quantity x multiplier / price|; None for what is no number,
    which the border refuses.
    """
    try:
        amount = Fraction(parse_scaled(quantity, instrument.qty_scale), 10**instrument.qty_scale)
        at = Fraction(parse_scaled(price, instrument.price_scale), 10**instrument.price_scale)
        if instrument.contract is not Contract.INVERSE:
            return abs(amount * at * instrument.money_factor)
        return abs(amount * instrument.money_factor / at)
    except (InexactNumber, ZeroDivisionError):
        return None


def over_limit(catalogue: Catalogue, limits: dict[str, str], instrument_name: str, venue: str, quantity: str, price: str) -> Over | None:
    """Whether a trade is above its currency's limit; None also where the border will refuse it anyway."""
    if not limits:
        return None
    try:
        found = catalogue.find_instrument(instrument_name, venue)
    except PksError:
        return None  # ambiguous: refused where it is booked
    if not found:
        return None
    instrument = catalogue.instrument(found)
    allowed = limits.get(instrument.pnl_currency, limits.get(ANY_CURRENCY))
    notional = notional_of(instrument, quantity, price)
    if allowed is None or notional is None or notional <= Fraction(allowed):
        return None
    digits = Decimal(notional.numerator * 10**NOTIONAL_PLACES // notional.denominator).scaleb(-NOTIONAL_PLACES)
    return Over(digits, instrument.pnl_currency, Decimal(allowed))


def command_key(row: TradeRow, key: str) -> str:
    """Names a command of one user: by its Idempotency-Key, else by all that it says."""
    if key:
        return f"key {key}"
    return "row " + hashlib.blake2b(msgspec.json.encode(_words(row), order="deterministic"), digest_size=16).hexdigest()


def _words(row: TradeRow) -> dict[str, Any]:
    words = msgspec.to_builtins(row)
    return {name: value for name, value in words.items() if name not in ("line", "row")}


class Approvals:
    """The queue of one gateway."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def put(self, row: TradeRow, principal: Principal, key: str, over: Over) -> Approval:
        """Have it wait; the same one for a repeat. Raises Retryable without Postgres, Problem where the key has another command."""
        async with self._connect() as connection:
            found = await store.put(
                connection, principal.name, _words(row), command_key=command_key(row, key), idempotency_key=key,
                notional=over.notional, currency=over.currency, allowed=over.allowed,
            )  # fmt: skip
        if found.command != _words(row):
            raise refused(Code.IDEMPOTENCY_CONFLICT, "Idempotency-Key", key, f"under this key another command waits or waited: {found.id}")
        return found

    async def find(self, principal: Principal, states: tuple[str, ...], after: int, limit: int) -> list[Approval]:
        """What waits, or waited, in books that the user sees."""
        books = None if principal.books is None else sorted(principal.books)
        async with self._connect() as connection:
            return await store.find(connection, states=states, books=books, after=after, limit=limit)

    async def decide(self, number: int, principal: Principal, *, approved: bool, reason: str = "") -> Approval:
        """Raises Problem: there is none that this user sees (404), it is his own (403), it is decided (409)."""
        async with self._connect() as connection:
            found = await store.one(connection, number) if number <= NUMBER_MAX else None
            if found is None or not principal.sees(found.book):
                raise not_found("approval", str(number))
            if found.actor == principal.name:
                raise Problem(403, "FORBIDDEN", "a second person decides: this is your own", field="id", value=number)
            try:
                return await store.decide(connection, number, "APPROVED" if approved else "REJECTED", principal.name, reason)
            except NotWaiting as error:
                raise Problem(409, "NOT_WAITING", str(error), field="id", value=number) from None

    async def settle(self, number: int, sequence: int | None, reason: str) -> None:
        """What became of an approved one; sequence None: the core refused it."""
        async with self._connect() as connection:
            await store.settle(connection, number, "REFUSED" if sequence is None else "BOOKED", sequence, reason)


def row_of(approval: Approval) -> TradeRow:
    """The command as it was given."""
    return msgspec.convert({"line": 1, "row": 1, **approval.command}, TradeRow)
