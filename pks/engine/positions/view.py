"""A position as people read it: a slot's record and its reference data in, exact Decimals and the texts of `pks positions --json` out.

The one place where multiplier and quote factor are applied to a position, an average is made, and fees are taken from P&L. Client, command
line and terminal all show what it says. Pure: it takes a copied record and rows of reference data, and may not read a segment, a clock or a
file. Nothing here is a float.

What cannot be exact is rounded half-even: the average price at price_scale + 6 places; money, only where the multiplier has a prime
factor other than 2 and 5 below its line, at money_scale + 12.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
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
_CELLS = 4  # fee currencies of a slot


def _unpacker() -> tuple[struct.Struct, dict[str, int]]:
    """A slot's bytes as one tuple (much quicker than numpy, field by field), and the place of each field's first value in it."""
    letters = {"i8": "q", "u8": "Q", "u4": "I", "u1": "B"}
    form, places, count = "<", {}, 0
    assert POSITION_SLOT.fields is not None, "structured"
    for name, (dtype, *_) in POSITION_SLOT.fields.items():
        length = dtype.shape[0] if dtype.shape else 1
        form, places[name] = f"{form}{length}{letters[dtype.base.str[1:]]}", count
        count += length
    return struct.Struct(form), places


_SLOT, _PLACES = _unpacker()
assert _SLOT.size == _RECORD_BYTES, "no gaps between fields"
_QTY, _COST, _REALISED, _SEQUENCE = (_PLACES[name] for name in ("qty_raw", "cost_hi", "realised_hi", "last_sequence"))
_TIME, _RECORDED, _TRADES, _LOTS = (_PLACES[name] for name in ("event_time_ns", "recorded_ns", "trades_count", "open_lots"))
_CLEARING, _VARIATION, _LAST_PRICE = (_PLACES[name] for name in ("clearing_cost_hi", "variation_hi", "last_price_raw"))
_PRICE_SCALE, _QTY_SCALE, _MONEY_SCALE = (_PLACES[name] for name in ("price_scale", "qty_scale", "money_scale"))
_FLAGS, _CURRENCIES, _FEES_HI, _FEES_LO = (_PLACES[name] for name in ("flags", "fee_currency_id", "fees_hi", "fees_lo"))
_FORCED, _FEE_UNKNOWN, _INVERSE = int(PositionFlag.FORCED), int(PositionFlag.FEE_UNKNOWN), int(PositionFlag.INVERSE)

Scaled = tuple[int, int]
"""A figure as (raw, decimal places)."""


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

    __slots__ = ("_raw", "_unpacked", "terms")

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

    @property
    def _values(self) -> tuple[int, ...]:
        try:
            return self._unpacked
        except AttributeError:  # asked for the first time
            self._unpacked: tuple[int, ...] = _SLOT.unpack(self._raw)
            return self._unpacked

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
        return _decimal(self._quantity())

    @property
    def is_flat(self) -> bool:
        return self._values[_QTY] == 0

    @property
    def average_price(self) -> Decimal | None:
        """Of the open lots, in the price's terms (without multiplier); None when flat. Half-even at price_scale + 6."""
        average = self._average()
        return None if average is None else _decimal(average)

    @property
    def cost(self) -> Decimal:
        """Of the open lots, signed as the quantity, with multiplier and quote factor."""
        return _decimal(self._money(_COST))

    @property
    def realised_gross(self) -> Decimal:
        """Realised P&L since the opening lots, fees apart."""
        return _decimal(self._money(_REALISED))

    @property
    def realised_net(self) -> Decimal:
        """realised_gross less the fees in its currency; equal to it in a book that has fees in cost. Source: backoffice.md rule 7."""
        return _decimal(self._net())

    @property
    def fees(self) -> dict[str, Decimal]:
        """Cumulative by currency; > 0 costs."""
        return {code: _decimal(fee) for code, fee in self._fees_by_code()}

    @property
    def fee_unknown(self) -> bool:
        """True while the fee of some trade is not known: fees and realised_net lack it."""
        return bool(self._values[_FLAGS] & _FEE_UNKNOWN)

    @property
    def forced(self) -> bool:
        """True when some event was booked although the book's policy would now refuse it."""
        return bool(self._values[_FLAGS] & _FORCED)

    @property
    def is_inverse(self) -> bool:
        return bool(self._values[_FLAGS] & _INVERSE)

    @property
    def clearing_cost(self) -> Decimal:
        """Futures: cost since the last clearing."""
        return _decimal(self._money(_CLEARING))

    @property
    def variation(self) -> Decimal:
        """Futures: variation margin, cumulative."""
        return _decimal(self._money(_VARIATION))

    @property
    def last_price(self) -> Decimal | None:
        """Of the last trade; None before one."""
        values = self._values
        return _decimal((values[_LAST_PRICE], values[_PRICE_SCALE])) if values[_TRADES] else None

    @property
    def open_lots(self) -> int:
        return self._values[_LOTS]

    @property
    def trades_count(self) -> int:
        return self._values[_TRADES]

    # when

    @property
    def last_trade_time_ns(self) -> int:
        """UTC, the venue's clock; 0 before a trade."""
        return self._values[_TIME]

    @property
    def last_trade_time(self) -> str | None:
        """RFC 3339, UTC."""
        time_ns = self._values[_TIME]
        return format_time(time_ns) if time_ns else None

    @property
    def recorded_ns(self) -> int:
        """When capture took the last event, UTC."""
        return self._values[_RECORDED]

    @property
    def last_sequence(self) -> int:
        """The event that this reflects."""
        return self._values[_SEQUENCE]

    @property
    def version(self) -> int:
        """How often the slot had been written."""
        return self._values[0]

    # as a whole

    def as_dict(self) -> dict[str, Any]:
        """TEXT_FIELDS as `pks positions --json` has them: decimals in plain notation, average_price null when flat."""
        average = self._average()
        return {
            "book": self.terms.book,
            "instrument": self.terms.instrument,
            "quantity": format_scaled(*self._quantity()),
            "average_price": None if average is None else format_scaled(*average),
            "cost": format_scaled(*self._money(_COST)),
            "realised_gross": format_scaled(*self._money(_REALISED)),
            "realised_net": format_scaled(*self._net()),
            "fees": {code: format_scaled(*fee) for code, fee in self._fees_by_code()},
            "open_lots": self.open_lots,
            "currency": self.terms.currency,
            "last_trade_time": self.last_trade_time,
            "last_sequence": self.last_sequence,
        }

    def __repr__(self) -> str:
        average = self._average()
        at = "flat" if average is None else f"{format_scaled(*self._quantity())} at {format_scaled(*average)}"
        net = f"{format_scaled(*self._net())} {self.currency}"
        return f"<Position {self.book} {self.instrument}: {at}, realised {net}, event {self.last_sequence}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PositionView) and self._raw == other._raw and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self._raw)

    # the arithmetic

    def _quantity(self) -> Scaled:
        values = self._values
        return values[_QTY], values[_QTY_SCALE]

    def _average(self) -> Scaled | None:
        values = self._values
        quantity, cost = values[_QTY], to_int(values[_COST], values[_COST + 1])
        if not quantity:
            return None
        digits = values[_PRICE_SCALE] + AVERAGE_EXTRA_DIGITS
        shift = values[_QTY_SCALE] + digits - values[_MONEY_SCALE]
        if not values[_FLAGS] & _INVERSE:
            return _ratio(cost, quantity, shift), digits
        return (_ratio(quantity, cost, 2 * digits - shift) if cost else 0), digits

    def _net(self) -> Scaled:
        terms = self.terms
        fee = 0 if terms.fees_in_cost else sum(raw for currency, raw in self._fees() if currency == terms.currency_id)
        return self._money(_REALISED, less=fee)

    def _money(self, place: int, less: int = 0) -> Scaled:
        """The money at `place` times multiplier and quote factor, less an amount at FEE_SCALE; rounded once, where at all."""
        values, terms = self._values, self.terms
        scale, divisor, raw = values[_MONEY_SCALE], terms.multiplier_denominator, to_int(values[place], values[place + 1])
        if divisor == 1 and not less:
            return raw * terms.multiplier_numerator, scale
        digits = scale + max(MULTIPLIER_DIGITS, FEE_SCALE - scale, places_of(divisor))
        amount = raw * terms.multiplier_numerator * 10 ** (digits - scale) - less * divisor * 10 ** (digits - FEE_SCALE)
        return round_half_even(amount, divisor), digits

    def _fees(self) -> list[tuple[int, int]]:
        """(currency id, fee at FEE_SCALE) of the currencies that the position has fees in."""
        values = self._values
        return [
            (values[_CURRENCIES + cell], to_int(values[_FEES_HI + cell], values[_FEES_LO + cell]))
            for cell in range(_CELLS)
            if values[_CURRENCIES + cell]
        ]

    def _fees_by_code(self) -> list[tuple[str, Scaled]]:
        codes = self.terms.currency_codes
        return [(codes.get(currency, f"#{currency}"), (raw, FEE_SCALE)) for currency, raw in self._fees()]


def plain(value: Decimal) -> str:
    """A Decimal in plain notation, as it is made here: "101.25", "0", never an exponent."""
    return format(value, "f")


@lru_cache(maxsize=1 << 10)
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
    return _decimal((sum(raw * 10 ** (digits - scale) for raw, scale in pairs), digits))


def _as_scaled(value: Decimal) -> Scaled:
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int) and exponent <= 0, "plain notation has no positive exponent"
    whole = int("".join(map(str, digits)) or "0")
    return (-whole if sign else whole), -exponent


def _decimal(scaled: Scaled) -> Decimal:
    return Decimal(format_scaled(*scaled))


def _ratio(numerator: int, denominator: int, shift: int) -> int:
    """numerator / denominator x 10**shift, half-even."""
    return round_half_even(numerator * 10 ** max(shift, 0), denominator * 10 ** max(-shift, 0))


def _text(value: Any) -> str:
    return bytes(value).decode()
