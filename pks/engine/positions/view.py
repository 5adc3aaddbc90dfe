"""A position as people read it: a slot's record and its reference data in, exact Decimals and the texts of `pks positions --json` out.

The one place where multiplier and quote factor are applied to a position, an average is made, and fees are taken from P&L. Client, command
line and terminal all show what it says. Pure: it takes a copied record and rows of reference data, and may not read a segment, a clock or a
file. Nothing here is a float.

What cannot be exact is rounded half-even: the average price at price_scale + 6 places; money, only where the multiplier has a prime
factor other than 2 and 5 below its line, at money_scale + 12.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from pks.base.clock import format_time
from pks.base.units import format_scaled, round_half_even, to_int
from pks.layouts.codes import PositionFlag, Subject
from pks.layouts.slots import FEE_SCALE, POSITION_SLOT

AVERAGE_EXTRA_DIGITS = 6
"""Places of an average beyond the price's own."""

MULTIPLIER_DIGITS = 12
"""Places that a multiplier may add to money before its result is rounded; one whose exact result needs more gets them."""

TEXT_FIELDS = (
    "book",
    "instrument",
    "quantity",
    "average_price",
    "cost",
    "realised_gross",
    "realised_net",
    "fees",
    "open_lots",
    "currency",
    "last_trade_time",
    "last_sequence",
)
"""The keys of `PositionView.as_dict`, in the order of interfaces.md, `pks positions --json`."""

_RECORD_BYTES = POSITION_SLOT.itemsize


@dataclass(frozen=True, slots=True)
class PositionTerms:
    """What a position needs of the reference data. multiplier: with the quote factor, as numerator and denominator (> 0)."""

    book: str
    instrument: str
    currency: str
    currency_id: int
    multiplier_numerator: int
    multiplier_denominator: int
    fees_in_cost: bool
    currency_codes: Mapping[int, str]

    @classmethod
    def from_rows(cls, instrument: Any, book: Any, currency_codes: Mapping[int, str]) -> PositionTerms:
        """From refdata.ROWs (or REFDATA_SLOTs) of the instrument and the book; currency_codes: id -> code, kept by reference."""
        assert (int(instrument["subject"]), int(book["subject"])) == (Subject.INSTRUMENT, Subject.BOOK), "rows of the two subjects"
        return cls(
            book=_text(book["code"]),
            instrument=_text(instrument["code"]),
            currency=_text(instrument["pnl_currency"]),
            currency_id=int(instrument["pnl_currency_id"]),
            multiplier_numerator=int(instrument["multiplier_numerator"]),
            multiplier_denominator=int(instrument["multiplier_denominator"]),
            fees_in_cost=bool(book["fees_in_cost"]),
            currency_codes=currency_codes,
        )


class PositionView:
    """One position at the moment its record was copied. Nothing of it changes; figures are worked out when they are asked for."""

    __slots__ = ("_raw", "terms")

    def __init__(self, raw: bytes, terms: PositionTerms) -> None:
        """raw: the bytes of one POSITION_SLOT (or of the head of a state.KEY, which are the same)."""
        self._raw, self.terms = raw, terms

    @classmethod
    def from_record(cls, record: Any, terms: PositionTerms) -> PositionView:
        """From a POSITION_SLOT, or a state.KEY, which begins with its bytes."""
        return cls(record.tobytes()[:_RECORD_BYTES], terms)

    @property
    def record(self) -> np.void:
        """The POSITION_SLOT, read-only: raw values, money without multiplier."""
        record: np.void = np.frombuffer(self._raw, POSITION_SLOT)[0]
        return record

    # names

    @property
    def book(self) -> str:
        return self.terms.book

    @property
    def instrument(self) -> str:
        return self.terms.instrument

    @property
    def currency(self) -> str:
        """Of cost and P&L: the price's, or where an inverse contract settles."""
        return self.terms.currency

    # figures

    @property
    def quantity(self) -> Decimal:
        """Signed; long is above zero."""
        record = self.record
        return _decimal(int(record["qty_raw"]), int(record["qty_scale"]))

    @property
    def is_flat(self) -> bool:
        return int(self.record["qty_raw"]) == 0

    @property
    def average_price(self) -> Decimal | None:
        """Of the open lots, in the price's terms (without multiplier); None when flat. Half-even at price_scale + 6."""
        record = self.record
        quantity, cost = int(record["qty_raw"]), _wide(record, "cost")
        if not quantity:
            return None
        digits = int(record["price_scale"]) + AVERAGE_EXTRA_DIGITS
        shift = int(record["qty_scale"]) + digits - int(record["money_scale"])
        if not self.is_inverse:
            return _decimal(_ratio(cost, quantity, shift), digits)
        return _decimal(_ratio(quantity, cost, 2 * digits - shift) if cost else 0, digits)

    @property
    def cost(self) -> Decimal:
        """Of the open lots, signed as the quantity, with multiplier and quote factor."""
        return self._money("cost")

    @property
    def realised_gross(self) -> Decimal:
        """Realised P&L since the opening lots, fees apart."""
        return self._money("realised")

    @property
    def realised_net(self) -> Decimal:
        """realised_gross less the fees in its currency; equal to it in a book that has fees in cost. Source: backoffice.md rule 7."""
        record = self.record
        fee = 0 if self.terms.fees_in_cost else sum(raw for currency, raw in _fees(record) if currency == self.terms.currency_id)
        return self._with_multiplier(record, _wide(record, "realised"), less=fee)

    @property
    def fees(self) -> dict[str, Decimal]:
        """Cumulative by currency; > 0 costs."""
        codes = self.terms.currency_codes
        return {codes.get(currency, f"#{currency}"): _decimal(raw, FEE_SCALE) for currency, raw in _fees(self.record)}

    @property
    def fee_unknown(self) -> bool:
        """True while the fee of some trade is not known: fees and realised_net lack it."""
        return bool(int(self.record["flags"]) & PositionFlag.FEE_UNKNOWN)

    @property
    def forced(self) -> bool:
        """True when some event was booked although the book's policy would now refuse it."""
        return bool(int(self.record["flags"]) & PositionFlag.FORCED)

    @property
    def is_inverse(self) -> bool:
        return bool(int(self.record["flags"]) & PositionFlag.INVERSE)

    @property
    def clearing_cost(self) -> Decimal:
        """Futures: cost since the last clearing."""
        return self._money("clearing_cost")

    @property
    def variation(self) -> Decimal:
        """Futures: variation margin, cumulative."""
        return self._money("variation")

    @property
    def last_price(self) -> Decimal | None:
        """Of the last trade; None before one."""
        record = self.record
        return _decimal(int(record["last_price_raw"]), int(record["price_scale"])) if int(record["trades_count"]) else None

    @property
    def open_lots(self) -> int:
        return int(self.record["open_lots"])

    @property
    def trades_count(self) -> int:
        return int(self.record["trades_count"])

    # when

    @property
    def last_trade_time_ns(self) -> int:
        """UTC, the venue's clock; 0 before a trade."""
        return int(self.record["event_time_ns"])

    @property
    def last_trade_time(self) -> str | None:
        """RFC 3339, UTC."""
        time_ns = self.last_trade_time_ns
        return format_time(time_ns) if time_ns else None

    @property
    def recorded_ns(self) -> int:
        """When capture took the last event, UTC."""
        return int(self.record["recorded_ns"])

    @property
    def last_sequence(self) -> int:
        """The event that this reflects."""
        return int(self.record["last_sequence"])

    @property
    def version(self) -> int:
        """How often the slot had been written."""
        return int(self.record["version"])

    # as a whole

    def as_dict(self) -> dict[str, Any]:
        """TEXT_FIELDS as `pks positions --json` has them: decimals in plain notation, average_price null when flat."""
        average = self.average_price
        return {
            "book": self.book,
            "instrument": self.instrument,
            "quantity": plain(self.quantity),
            "average_price": None if average is None else plain(average),
            "cost": plain(self.cost),
            "realised_gross": plain(self.realised_gross),
            "realised_net": plain(self.realised_net),
            "fees": {code: plain(fee) for code, fee in self.fees.items()},
            "open_lots": self.open_lots,
            "currency": self.currency,
            "last_trade_time": self.last_trade_time,
            "last_sequence": self.last_sequence,
        }

    def __repr__(self) -> str:
        average = self.average_price
        at = "flat" if average is None else f"{plain(self.quantity)} at {plain(average)}"
        net = f"{plain(self.realised_net)} {self.currency}"
        return f"<Position {self.book} {self.instrument}: {at}, realised {net}, event {self.last_sequence}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PositionView) and self._raw == other._raw and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self._raw)

    def _money(self, name: str) -> Decimal:
        record = self.record
        return self._with_multiplier(record, _wide(record, name))

    def _with_multiplier(self, record: Any, raw: int, less: int = 0) -> Decimal:
        """Money `raw` of the slot times multiplier and quote factor, less an amount at FEE_SCALE; rounded once, where at all."""
        scale, divisor = int(record["money_scale"]), self.terms.multiplier_denominator
        digits = scale + max(MULTIPLIER_DIGITS, FEE_SCALE - scale, places_of(divisor))
        amount = raw * self.terms.multiplier_numerator * 10 ** (digits - scale) - less * divisor * 10 ** (digits - FEE_SCALE)
        return _decimal(round_half_even(amount, divisor), digits)


def plain(value: Decimal) -> str:
    """A Decimal in plain notation, as it is made here: "101.25", "0", never an exponent."""
    return format(value, "f")


def places_of(divisor: int) -> int:
    """Decimal places that make every multiple of 1/divisor exact; 0 where none do."""
    twos = fives = 0
    while divisor % 2 == 0:
        divisor, twos = divisor // 2, twos + 1
    while divisor % 5 == 0:
        divisor, fives = divisor // 5, fives + 1
    return max(twos, fives) if divisor == 1 else 0


def total(values: Iterable[Decimal]) -> Decimal:
    """The exact sum, whatever the decimal context would round to."""
    pairs = [_as_scaled(value) for value in values]
    digits = max((scale for _, scale in pairs), default=0)
    return _decimal(sum(raw * 10 ** (digits - scale) for raw, scale in pairs), digits)


def _as_scaled(value: Decimal) -> tuple[int, int]:
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int) and exponent <= 0, "plain notation has no positive exponent"
    whole = int("".join(map(str, digits)) or "0")
    return (-whole if sign else whole), -exponent


def _decimal(raw: int, scale: int) -> Decimal:
    return Decimal(format_scaled(raw, scale))


def _wide(record: Any, name: str) -> int:
    return to_int(int(record[f"{name}_hi"]), int(record[f"{name}_lo"]))


def _fees(record: Any) -> list[tuple[int, int]]:
    """(currency id, fee at FEE_SCALE) of the currencies that the position has fees in."""
    currencies, high, low = record["fee_currency_id"].tolist(), record["fees_hi"].tolist(), record["fees_lo"].tolist()
    return [(currency, to_int(high[cell], low[cell])) for cell, currency in enumerate(currencies) if currency]


def _ratio(numerator: int, denominator: int, shift: int) -> int:
    """numerator / denominator x 10**shift, half-even."""
    return round_half_even(numerator * 10 ** max(shift, 0), denominator * 10 ** max(-shift, 0))


def _text(value: Any) -> str:
    return bytes(value).decode()
