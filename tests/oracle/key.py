"""The lots of one (book, instrument) while its events are folded in order.

Owns the open lots, realised P&L, fees, clearing cost and account quantities of one key, and the rules that change them; each method is one
sentence group of design.md section 4. Called by `model` only. Knows no other key, no sequence of the journal beyond what an event carries.

Signs: a long lot has quantity and cost > 0, a short lot < 0. A *part* is a Lot that holds what was taken from a lot:
its quantity and its share of cost.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from .money import FEE_SCALE, ZERO, Instrument, exact, half_even, sign, truncated

Event = Mapping[str, Any]

FEE_CURRENCIES_MAX = 4  # a slot has room for four
QUANTITY_RAW_BITS = 63  # int64
MONEY_RAW_BITS = 127  # 128-bit integer

OVERSELL = "OVERSELL"
INSUFFICIENT_POSITION = "INSUFFICIENT_POSITION"
UNKNOWN_LOT = "UNKNOWN_LOT"
LOT_EXCEEDED = "LOT_EXCEEDED"
LOT_REQUIRED = "LOT_REQUIRED"
CASH_PRICE_REQUIRED = "CASH_PRICE_REQUIRED"
QUANTITY_OVERFLOW = "QUANTITY_OVERFLOW"
MONEY_OVERFLOW = "MONEY_OVERFLOW"
FEE_CURRENCY_LIMIT = "FEE_CURRENCY_LIMIT"


@dataclass(frozen=True)
class Lot:
    """An open piece of a position. (opening, leg) is its identity, (date, order, leg) its rank among the lots of the key."""

    lot_id: str
    opening: int  # sequence of the event that opened it
    leg: int  # 0; 2 when a flip opened it
    date: str
    order: int  # the opening's sequence; after a transfer the transfer's
    quantity: Fraction
    price: Fraction  # open price, for display, HIFO and transfers
    cost: Fraction  # before the multiplier, at money_scale


@dataclass(frozen=True)
class Taken:
    """One lot part that left: a row of the match set of event `closing`."""

    closing: int
    trade_id: str
    kind: str  # CLOSE, MOVE (transfer at cost), CASH_IN_LIEU, CUT (a split left nothing of the position)
    leg: int  # 1 when the closing fill also opened the other side, else 0
    date: str
    part: Lot
    price: Fraction
    realised: Fraction


class KeyState:
    """One key. The policy of its book (method, oversell, fees_in_cost) is state too: REFDATA changes it in the same order."""

    def __init__(self, book: str, instrument: Instrument) -> None:
        self.book = book
        self.instrument = instrument
        self.book_method = "FIFO"
        self.class_method: str | None = None  # override for the instrument's asset class
        self.reject_oversell = False
        self.fees_in_cost = False
        self.lots: list[Lot] = []
        self.quantity = ZERO  # of all lots
        self.realised = ZERO  # before the multiplier
        self.clearing_cost = ZERO  # cost since the last clearing (linear instruments)
        self.variation_margin = ZERO
        self.fees: dict[str, Fraction] = {}
        self.fees_in_lots = ZERO  # the part of the P&L currency's fees that sits in cost or proceeds
        self.accounts: dict[str, Fraction] = {}
        self.taken: list[Taken] = []
        self.given: dict[int, list[Lot]] = {}  # transfer sequence -> the lots it took from this key

    def copy(self) -> KeyState:
        """A state that goes its own way from here."""
        other = copy.copy(self)  # lots and match rows are immutable; the containers are not
        other.lots, other.taken = list(self.lots), list(self.taken)
        other.fees, other.accounts, other.given = dict(self.fees), dict(self.accounts), dict(self.given)
        return other

    # -- what is held ------------------------------------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        return self.class_method or self.book_method

    @property
    def cost(self) -> Fraction:
        return sum((lot.cost for lot in self.lots), ZERO)

    def price_of(self, lot: Lot) -> Fraction:
        """A pool's price is its average, half-even at price_scale, any other lot's the price it was opened at."""
        return self._shown(self.instrument.price_of(lot.quantity, lot.cost)) if self.method == "AVERAGE" else lot.price

    def _shown(self, price: Fraction) -> Fraction:
        return half_even(price, self.instrument.price_scale)

    def in_method_order(self, named: tuple[int, int] | None = None) -> list[Lot]:
        """The open lots as a close takes them. SPECIFIC: the named lot, then (only where the verdict is kept) the rest FIFO."""
        fifo = sorted(self.lots, key=rank)
        if self.method == "LIFO":
            return fifo[::-1]
        if self.method == "HIFO":  # long: highest open price first, short: lowest; sorted() keeps ties oldest first
            return sorted(fifo, key=lambda lot: -lot.price if lot.quantity > 0 else lot.price)
        if self.method == "SPECIFIC":
            return sorted(fifo, key=lambda lot: (lot.opening, lot.leg) != named)
        return fifo

    # -- a fill ------------------------------------------------------------------------------------------------------------------------

    def trade(self, sequence: int, trade_id: str, event: Event, fees: Mapping[str, Fraction], strict: bool) -> str | None:
        """A TRADE, OPENING or ALLOCATION. `fees`: its own and what FEE events added, by currency. Returns a refusal or None.

        strict: judge it by the book's policy; otherwise the verdict is kept (or it is a group's leg) and it is booked whatever it does.
        """
        price = exact(event["price"])
        filled = exact(event["quantity"]) * (1 if event["side"] == "BUY" else -1)
        change = filled - self._fee_in_asset(fees)  # a buy opens quantity - fee, a sell closes quantity + fee
        if strict:
            refusal = self._trade_refusal(change, event)
            if refusal:
                return refusal
        held = self.quantity
        closing = min(abs(change), abs(held)) if sign(change) == -sign(held) else ZERO
        opening = abs(change) - closing

        closing_fee = opening_fee = ZERO  # in money, as they change a cost
        self._charge(fees)
        if self.fees_in_cost and change:
            fee = fees.get(self.instrument.pnl_currency, ZERO)
            closing_fee = self.instrument.fee_as_cost(half_even(fee * closing / abs(change), FEE_SCALE))
            opening_fee = self.instrument.fee_as_cost(fee) - closing_fee  # the remainder is on the last part
            self.fees_in_lots += fee

        leg = 1 if closing and opening else 0
        date = event["effective_date"]
        self._close(self._take(closing, _named(event)), price, sequence, trade_id, leg, date, closing_fee)
        if opening:
            signed = opening * sign(change)
            self._open(
                Lot(
                    lot_id=f"{trade_id}/2" if closing else event.get("lot_name") or trade_id,
                    opening=sequence,
                    leg=2 if closing else 0,
                    date=event.get("lot_date") or date,
                    order=sequence,
                    quantity=signed,
                    price=price,
                    cost=self.instrument.value(signed, price),
                ),
                opening_fee,
            )
        self._add_to_account(event.get("account"), change)
        return None

    def _trade_refusal(self, change: Fraction, event: Event) -> str | None:
        held = self.quantity
        if self.reject_oversell and ((change < 0 and held + change < 0) or (held < 0 and held + change > 0)):
            return OVERSELL
        closes = sign(change) == -sign(held) != 0
        return self._lot_refusal(abs(change), -sign(change), closes, event)

    def _lot_refusal(self, quantity: Fraction, side: int, closes: bool, event: Event) -> str | None:
        """SPECIFIC: a close without lot id, or for more than that lot (of `side`) has, is refused; nothing spills over."""
        if self.method != "SPECIFIC" or not closes:
            return None
        named = _named(event)
        if named is None:
            return UNKNOWN_LOT if event.get("lot_name") else LOT_REQUIRED
        has = sum((abs(lot.quantity) for lot in self.lots if (lot.opening, lot.leg) == named and sign(lot.quantity) == side), ZERO)
        if not has:
            return UNKNOWN_LOT
        return LOT_EXCEEDED if quantity > has else None

    def _fee_in_asset(self, fees: Mapping[str, Fraction]) -> Fraction:
        base = self.instrument.base_currency
        return fees.get(base, ZERO) if base is not None and base != self.instrument.pnl_currency else ZERO

    def _charge(self, fees: Mapping[str, Fraction]) -> None:
        for currency, amount in fees.items():  # a currency counts once a fee was charged in it, also where fees cancel out
            self.fees[currency] = self.fees.get(currency, ZERO) + amount

    def _add_to_account(self, account: str | None, change: Fraction) -> None:
        name = account or ""
        self.accounts[name] = self.accounts.get(name, ZERO) + change

    # -- lots leave and come -----------------------------------------------------------------------------------------------------------

    def _take(self, quantity: Fraction, named: tuple[int, int] | None) -> list[Lot]:
        """Remove `quantity` >= 0 of what is held, in method order; the parts with their share of cost."""
        parts: list[Lot] = []
        for lot in self.in_method_order(named):
            if not quantity:
                break
            size = min(quantity, abs(lot.quantity)) * sign(lot.quantity)
            cost = share(lot.cost, size, lot.quantity, self.instrument)
            parts.append(replace(lot, quantity=size, cost=cost, price=self.price_of(lot)))
            at = self.lots.index(lot)
            if size == lot.quantity:
                del self.lots[at]
            else:
                self.lots[at] = replace(lot, quantity=lot.quantity - size, cost=lot.cost - cost)
            self.quantity -= size
            quantity -= abs(size)
        assert not quantity, "more was asked for than is held"
        return parts

    def _close(self, parts: list[Lot], price: Fraction, sequence: int, trade_id: str, leg: int, date: str, fee: Fraction = ZERO) -> None:
        """Realise `parts` at `price`. `fee` (fees_in_cost) lowers the proceeds, split by quantity; the last part takes the rest."""
        total = sum((part.quantity for part in parts), ZERO)
        fee_left = fee
        for part in parts:
            fee_part = fee_left if part is parts[-1] else half_even(fee * part.quantity / total, self.instrument.money_scale)
            fee_left -= fee_part
            self._realise(part, price, self.instrument.value(part.quantity, price), sequence, trade_id, leg, date, fee_part)

    def _realise(
        self, part: Lot, price: Fraction, value: Fraction, sequence: int, trade_id: str, leg: int, date: str, fee: Fraction = ZERO
    ) -> None:
        """One part leaves for `value`. (`fee` is signed for the cost side of the gain: it joins the cost on both kinds of instrument.)"""
        gain = self.instrument.gain(part.cost + fee, value)
        self.realised += gain
        self.clearing_cost -= value
        self.taken.append(Taken(sequence, trade_id, "CLOSE", leg, date, part, price, gain))

    def _open(self, lot: Lot, fee: Fraction = ZERO) -> None:
        """Add a lot; AVERAGE: into the one pool, which keeps the id and date of the opening that started it."""
        self.clearing_cost += lot.cost
        self.quantity += lot.quantity
        lot = replace(lot, cost=lot.cost + fee)
        if self.method == "AVERAGE" and self.lots:
            (pool,) = self.lots
            self.lots = [replace(pool, quantity=pool.quantity + lot.quantity, cost=pool.cost + lot.cost)]
        else:
            self.lots.append(lot)

    # -- transfers ---------------------------------------------------------------------------------------------------------------------

    def give(self, sequence: int, trade_id: str, event: Event, fees: Mapping[str, Fraction], strict: bool) -> str | None:
        """The giver's side of a TRANSFER; the lots that move are left in `given[sequence]`. Its fees are the giver's."""
        quantity = exact(event["quantity"])
        held = self.quantity
        if strict:
            if quantity > abs(held):
                return INSUFFICIENT_POSITION
            refusal = self._lot_refusal(quantity, sign(held), True, event)
            if refusal:
                return refusal
        self._charge(fees)
        side = sign(held) or 1  # nothing held (kept verdict only): as if long
        date = event["effective_date"]
        parts = self._take(min(quantity, abs(held)), _named(event))
        price = exact(event["price"]) if event.get("price") is not None else None
        if "AT_MARKET" in event["flags"]:
            assert price is not None, "a transfer at market has a price"
            self._close(parts, price, sequence, trade_id, 0, date)
            moved = [replace(part, order=sequence, price=price, cost=self.instrument.value(part.quantity, price)) for part in parts]
        else:
            for part in parts:
                self.clearing_cost -= part.cost
                self.taken.append(Taken(sequence, trade_id, "MOVE", 0, date, part, part.price, ZERO))
            moved = [replace(part, order=sequence) for part in parts]
        missing = quantity - min(quantity, abs(held))
        if missing:  # kept verdict: the rest opens the opposite side here
            rest_price = price if price is not None else moved[-1].price if moved else ZERO
            for_receiver = Lot(
                f"{trade_id}/2", sequence, 2, date, sequence, side * missing, rest_price, self.instrument.value(side * missing, rest_price)
            )
            self._open(replace(for_receiver, quantity=-for_receiver.quantity, cost=-for_receiver.cost))
            moved.append(for_receiver)
        self._add_to_account(event.get("account"), -side * quantity)
        self.given[sequence] = moved
        return None

    def receive(self, sequence: int, trade_id: str, event: Event, moved: Iterable[Lot]) -> None:
        """The receiver's side: moved lots close opposite ones at their own cost, of which each part takes its share, else they open."""
        for lot in moved:
            held = self.quantity
            closing = min(abs(lot.quantity), abs(held)) if sign(lot.quantity) == -sign(held) else ZERO
            leg = 1 if closing and closing < abs(lot.quantity) else 0
            signed = closing * sign(lot.quantity)
            paid = used = share(lot.cost, signed, lot.quantity, self.instrument)
            left = signed
            for part in self._take(closing, None):
                value = share(paid, -part.quantity, left, self.instrument)
                self._realise(part, lot.price, -value, sequence, trade_id, leg, event["effective_date"])
                paid, left = paid - value, left + part.quantity
            if closing < abs(lot.quantity):
                self._open(replace(lot, quantity=lot.quantity - signed, cost=lot.cost - used))
            self._add_to_account(event.get("to_account") or event.get("account"), lot.quantity)

    def give_up(self, event: Event, fees: Mapping[str, Fraction], strict: bool) -> str | None:
        """A transfer inside one book: lots stay, only the account quantities move."""
        quantity, held = exact(event["quantity"]), self.quantity
        if strict and quantity > abs(held):
            return INSUFFICIENT_POSITION
        self._charge(fees)
        signed = quantity * (sign(held) or 1)
        self._add_to_account(event.get("account"), -signed)
        self._add_to_account(event.get("to_account") or event.get("account"), signed)
        return None

    # -- events of the instrument ------------------------------------------------------------------------------------------------------

    def split(self, sequence: int, event: Event, strict: bool) -> str | None:
        """An ACTION new:old. Lot i gets trunc C(i) - trunc C(i-1); C(i) is the exact new quantity of the first i in method order."""
        ratio = Fraction(int(event["numerator"]), int(event["denominator"]))
        whole = "WHOLE_UNITS" in event["flags"]
        unit = Fraction(1) if whole else Fraction(1, 10 ** event.get("qty_scale", self.instrument.qty_scale))
        new_quantity = self.quantity * ratio
        fraction = new_quantity - truncated(new_quantity, unit)
        cash_price = exact(event["cash_price"]) if event.get("cash_price") is not None else None
        if strict and whole and fraction and cash_price is None:
            return CASH_PRICE_REQUIRED

        position = {id(lot): at for at, lot in enumerate(self.lots)}
        places: list[int] = []  # of the kept lots in self.lots
        kept: list[Lot] = []
        before = so_far = carried = ZERO
        ordered = self.in_method_order()
        for lot in ordered:
            so_far += lot.quantity * ratio
            quantity = truncated(so_far, unit) - truncated(before, unit)
            before = so_far
            cost, carried = lot.cost + carried, ZERO
            if whole and fraction and lot is ordered[-1]:  # the fraction leaves the last lot with its share of cost
                gone = share(cost, fraction, quantity + fraction, self.instrument)
                cost -= gone
                self._cash_in_lieu(sequence, event, "CASH_IN_LIEU", fraction, gone, cash_price if cash_price is not None else ZERO)
            if quantity:
                kept.append(replace(lot, quantity=quantity, price=self._shown(lot.price / ratio), cost=cost))
                places.append(position[id(lot)])
            else:
                carried = cost  # a lot cut to 0 gives its cost to the next
        if carried and kept:  # there is no next: to the previous that remains
            kept[-1] = replace(kept[-1], cost=kept[-1].cost + carried)
        elif carried:  # nothing remains and nothing is paid
            self._cash_in_lieu(sequence, event, "CUT", fraction, carried, ZERO)

        self.lots = [lot for _, lot in sorted(zip(places, kept, strict=True), key=lambda pair: pair[0])]
        self.quantity = truncated(new_quantity, unit)
        self._split_accounts(ratio, unit)
        return None

    def _cash_in_lieu(self, sequence: int, event: Event, kind: str, quantity: Fraction, cost: Fraction, price: Fraction) -> None:
        last = self.in_method_order()[-1]
        value = self.instrument.value(quantity, price)
        gain = self.instrument.gain(cost, value)
        self.realised += gain
        self.clearing_cost -= value
        part = replace(last, quantity=quantity, cost=cost)
        self.taken.append(Taken(sequence, event.get("trade_id") or "", kind, 0, event["effective_date"], part, price, gain))

    def _split_accounts(self, ratio: Fraction, unit: Fraction) -> None:
        """Account totals add up to the key's quantity: cumulative truncation in ascending account name order."""
        before = so_far = ZERO
        for name in sorted(self.accounts):
            so_far += self.accounts[name] * ratio
            self.accounts[name] = truncated(so_far, unit) - truncated(before, unit)
            before = so_far

    def fixing(self, event: Event) -> None:
        """Clearing of a future: variation margin is paid for what the price moved since the last one."""
        if event.get("price") is None or self.instrument.inverse:
            return
        value = self.instrument.value(self.quantity, exact(event["price"]))
        self.variation_margin += value - self.clearing_cost
        self.clearing_cost = value

    def set_policy(self, definition: Mapping[str, Any]) -> None:
        """A REFDATA row of the book or of (book, class). A changed method re-bases the open lots and never restates realised P&L."""
        old = self.method
        if definition["type"] == "book":
            self.book_method = definition["method"]
            self.reject_oversell = definition["oversell"] == "REJECT"
            self.fees_in_cost = bool(definition["fees_in_cost"])
        else:
            self.class_method = definition["method"] or None  # "": back to the book's own
        if self.method == old or not self.lots:
            return
        if self.method == "AVERAGE":  # pool them: id and date of the earliest
            earliest = min(self.lots, key=rank)
            self.lots = [replace(earliest, quantity=self.quantity, cost=self.cost)]
        elif old == "AVERAGE":  # one lot at the average
            (pool,) = self.lots
            self.lots = [replace(pool, price=self._shown(self.instrument.price_of(pool.quantity, pool.cost)))]

    # -- what must hold ----------------------------------------------------------------------------------------------------------------

    def overflow(self) -> str | None:
        """The refusal for a number that its field cannot hold, or None."""
        quantities = [self.quantity, *(lot.quantity for lot in self.lots), *self.accounts.values()]
        if any(not _fits(number, self.instrument.qty_scale, QUANTITY_RAW_BITS) for number in quantities):
            return QUANTITY_OVERFLOW
        amounts = [self.cost, self.realised, *(lot.cost for lot in self.lots)]
        if any(not _fits(number, self.instrument.money_scale, MONEY_RAW_BITS) for number in amounts):
            return MONEY_OVERFLOW
        return None

    def too_many_fees(self) -> str | None:
        """The refusal for a fifth fee currency, or None."""
        return FEE_CURRENCY_LIMIT if len(self.fees) > FEE_CURRENCIES_MAX else None

    def check_state(self) -> None:
        """Laws of one key; broken means the oracle is wrong."""
        assert len({sign(lot.quantity) for lot in self.lots}) <= 1, "long and short are never pooled"
        assert sum((lot.quantity for lot in self.lots), ZERO) == self.quantity, "open lots sum to the position"
        assert all(lot.quantity for lot in self.lots), "an empty lot is no lot"
        assert sum(self.accounts.values(), ZERO) == self.quantity, "accounts add up to the key"
        assert self.method != "AVERAGE" or len(self.lots) <= 1, "one pool"


def rank(lot: Lot) -> tuple[str, int, int, int]:
    """Oldest first: (lot date, sequence); lots that one transfer moved are ranked by their ids."""
    return lot.date, lot.order, lot.opening, lot.leg


def share(cost: Fraction, quantity: Fraction, whole: Fraction, instrument: Instrument) -> Fraction:
    """Cost of `quantity` out of a lot of `whole`, half-even at money_scale; all of it when all is taken.

    For a lot whose cost is quantity x price this is exactly quantity x price, which money_scale always holds: nothing is rounded.
    """
    return cost if quantity == whole else half_even(cost * quantity / whole, instrument.money_scale)


def _named(event: Event) -> tuple[int, int] | None:
    lot = event.get("lot")
    return None if lot is None else (int(lot), int(event.get("lot_leg") or 0))


def _fits(number: Fraction, scale: int, bits: int) -> bool:
    return bool(-(2**bits) <= number * 10**scale < 2**bits)
