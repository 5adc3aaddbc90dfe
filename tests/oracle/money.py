"""Exact numbers of the oracle: every quantity, price and amount is a Fraction; rounding happens in one function only.

May be called by the oracle alone. Knows no lot and no event.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, Rounded
from fractions import Fraction
from functools import cache
from typing import Any

ZERO = Fraction(0)
FEE_SCALE = 18
_EXACT = Context(prec=400, traps=[Inexact, Rounded])


@cache
def exact(text: str) -> Fraction:
    """The number that was typed."""
    return Fraction(text)


def half_even(number: Fraction, scale: int) -> Fraction:
    """`number` rounded to `scale` decimal places, ties to the even digit (design.md section 3)."""
    unit = 10**scale
    if unit % number.denominator == 0:
        return number  # it has no more places than that
    return Fraction(round(number * unit), unit)


def truncated(number: Fraction, unit: Fraction) -> Fraction:
    """The multiple of `unit` nearest to `number` on the side of zero."""
    return int(number / unit) * unit  # int() of a Fraction cuts towards zero


def sign(number: Fraction) -> int:
    """-1, 0 or 1."""
    return (number.numerator > 0) - (number.numerator < 0)


def decimal(number: Fraction, scale: int) -> Decimal:
    """`number` as a Decimal: exact where it is a finite decimal, else half-even at `scale` places."""
    rest, places = number.denominator, 0
    while rest % 10 == 0:
        rest, places = rest // 10, places + 1
    while rest % 2 == 0:
        rest, places = rest // 2, places + 1
    while rest % 5 == 0:
        rest, places = rest // 5, places + 1
    if rest != 1:
        number, places = half_even(number, scale), scale
    digits = number * 10**places
    assert digits.denominator == 1, "all decimal places are taken along"
    return _EXACT.scaleb(Decimal(digits.numerator), -places)


def plain(number: Decimal) -> str:
    """Text without exponent and without trailing zeros after the point."""
    if number == 0:
        return "0"
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class Instrument:
    """What of an instrument's definition touches a number of a lot."""

    id: str
    inverse: bool
    asset_class: str
    pnl_currency: str
    base_currency: str | None
    multiplier: Fraction  # with the quote factor; applied only when money leaves the position
    price_scale: int
    qty_scale: int
    money_scale: int

    @classmethod
    def of(cls, definition: dict[str, Any]) -> Instrument:
        """From the `definition` of a REFDATA event. P&L currency: the price currency, for inverse contracts the coin."""
        inverse = definition["kind"] == "INVERSE"
        pnl_currency = definition.get("pnl_currency")
        if pnl_currency is None:
            pnl_currency = definition.get("base_currency") if inverse else None
        return cls(
            id=definition["id"],
            inverse=inverse,
            asset_class=definition.get("asset_class") or "",
            pnl_currency=pnl_currency or definition["currency"],
            base_currency=definition.get("base_currency") or None,
            multiplier=Fraction(int(definition["multiplier_numerator"]), int(definition["multiplier_denominator"])),
            price_scale=int(definition["price_scale"]),
            qty_scale=int(definition["qty_scale"]),
            money_scale=int(definition["money_scale"]),
        )

    def value(self, quantity: Fraction, price: Fraction) -> Fraction:
        """Signed money of `quantity` at `price`, without multiplier: quantity x price, inverse quantity / price (0 at price 0)."""
        if self.inverse:
            return half_even(quantity / price, self.money_scale) if price else ZERO
        return half_even(quantity * price, self.money_scale)  # exact for every price that was ever typed in

    def price_of(self, quantity: Fraction, cost: Fraction) -> Fraction:
        """The average open price that `cost` stands for; the reverse of `value`, unrounded."""
        if self.inverse:
            return quantity / cost if cost else ZERO
        return cost / quantity

    def gain(self, cost: Fraction, value: Fraction) -> Fraction:
        """What is realised when a lot part of `cost` is closed at `value`, both signed like the part; gain > 0."""
        return cost - value if self.inverse else value - cost

    def fee_as_cost(self, fee: Fraction) -> Fraction:
        """What a fee adds to the cost of an opening so that the later gain is smaller by it, in money before the multiplier."""
        raw = half_even(fee / self.multiplier, self.money_scale)
        return -raw if self.inverse else raw
