"""The engine's positions beside the oracle's, number by number.

Owns the words in which both are compared: plain dicts of exact fractions, so that a difference reads as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from pks.base.clock import format_date
from pks.base.errors import Code
from pks.base.units import to_int
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.lots.apply import shown_price
from pks.layouts.codes import LotFlag, MatchKind, Method, Subject
from pks.layouts.slots import FEE_SCALE
from tests.harness import Fold
from tests.oracle.key import KeyState, Taken, rank
from tests.oracle.model import Snapshot

Told = dict[str, Any]
KINDS = {"CLOSE": MatchKind.MATCH, "MOVE": MatchKind.MOVED, "CASH_IN_LIEU": MatchKind.CASH, "CUT": MatchKind.CASH}


def scaled(row: Any, name: str, scale: int) -> Fraction:
    """A 128-bit field of a record as an exact number."""
    return Fraction(to_int(int(row[f"{name}_hi"]), int(row[f"{name}_lo"])), 10**scale)


def differences(fold: Fold, catalogue: Catalogue, snapshot: Snapshot, refused: dict[int, str] | None = None) -> list[str]:
    """What differs between the engine's live state and the oracle's, a line each; [] when nothing does."""
    lines: list[str] = []
    ours = {key_name(key, catalogue): (position.shard.state, k) for position, k, key in _rows(fold)}
    for name, last in snapshot.last_sequences.items():
        if name not in ours:
            lines.append(f"{name}: the engine has no such key")
            continue
        state, k = ours[name]
        told = our_key(state, k, catalogue)
        if told["last_sequence"] != last:
            lines.append(f"{name} last_sequence: engine {told['last_sequence']}, oracle {last}")
        lines += _compare(name, told, their_key(snapshot.states[name], told))
    for name in ours.keys() - snapshot.last_sequences.keys():
        told = our_key(*ours[name], catalogue)
        if told["quantity"] or told["lots"] or told["realised"] or told["fees"]:
            lines.append(f"{name}: only the engine has it: {told}")
    lines += _compare("matches", our_matches(fold.matches, catalogue), their_matches(snapshot))
    if refused is not None:
        codes = {sequence: Code(code).name for sequence, code in fold.verdicts.items()}
        lines += _compare("refused", codes, refused)
    return lines + fold.unshown()


def _compare(what: Any, ours: Told, theirs: Told) -> Iterable[str]:
    for name in sorted(ours.keys() | theirs.keys(), key=str):
        if ours.get(name) != theirs.get(name) and name != "last_sequence":
            yield f"{what} {name}: engine {_plain(ours.get(name))}, oracle {_plain(theirs.get(name))}"


def _plain(value: Any) -> str:
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(part) for part in value) + "]"
    return str(value)


def _rows(fold: Fold) -> Iterable[tuple[Any, int, Any]]:
    for position in fold.positions:
        for k in range(int(position.shard.state.meta[0])):
            yield position, k, position.shard.state.keys[k]


def key_name(key: Any, catalogue: Catalogue) -> tuple[str, str]:
    """(book, instrument) by their codes."""
    return catalogue.book(int(key["book_id"])).code, catalogue.instrument(int(key["instrument_id"])).code


def our_key(state: Any, k: int, catalogue: Catalogue) -> Told:
    """One key of the engine."""
    key = state.keys[k]
    instrument = catalogue.instrument(int(key["instrument_id"]))
    money, qty, price = instrument.money_scale, instrument.qty_scale, instrument.price_scale
    lots, row = [], int(key["oldest"])
    while row >= 0:
        lot = state.lots[row]
        averaged = int(lot["flags"]) & (LotFlag.POOL | LotFlag.EXACT) == LotFlag.POOL
        price_raw = int(shown_price(state, k, row)) if averaged else int(lot["price_raw"])
        lots.append(
            (
                int(lot["open_sequence"]),
                int(lot["open_leg"]),
                format_date(int(lot["open_date"])),
                Fraction(int(lot["qty_raw"]), 10**qty),
                Fraction(price_raw, 10**price),
                scaled(lot, "cost", money),
            )
        )
        row = int(lot["newer"])
    accounts, row = {}, int(key["accounts"])
    while row >= 0:
        account = state.accounts[row]
        definition = catalogue.get(Subject.ACCOUNT, int(account["account_id"]))
        if account["qty_raw"]:
            accounts[definition.code if definition else ""] = Fraction(int(account["qty_raw"]), 10**qty)
        row = int(account["next"])
    fees = {}
    for cell in range(4):
        currency = catalogue.get(Subject.CURRENCY, int(key["fee_currency_id"][cell]))
        amount = Fraction(to_int(int(key["fees_hi"][cell]), int(key["fees_lo"][cell])), 10**FEE_SCALE)
        if currency is not None and amount:
            fees[currency.code] = amount
    told: Told = {
        "quantity": Fraction(int(key["qty_raw"]), 10**qty),
        "cost": scaled(key, "cost", money),
        "realised": scaled(key, "realised", money),
        "fees": fees,
        "lots": lots,
        "accounts": accounts,
        "method": Method(int(key["method"])).name,
        "last_sequence": int(key["last_sequence"]),
    }
    if instrument.cleared:
        told["clearing_cost"], told["variation"] = scaled(key, "clearing_cost", money), scaled(key, "variation", money)
    return told


def their_key(state: KeyState, ours: Told) -> Told:
    """The same key of the oracle. Clearing is compared where the engine has it."""
    lots = sorted(state.lots, key=rank)
    told: Told = {
        "quantity": state.quantity,
        "cost": state.cost,
        "realised": state.realised,
        "fees": {currency: amount for currency, amount in state.fees.items() if amount},
        "lots": [(lot.opening, lot.leg, lot.date, lot.quantity, state.price_of(lot), lot.cost) for lot in lots],
        "accounts": {name: quantity for name, quantity in state.accounts.items() if quantity},
        "method": state.method,
    }
    if "clearing_cost" in ours:
        told["clearing_cost"], told["variation"] = state.clearing_cost, state.variation_margin
    return told


def our_matches(matches: dict[tuple[int, int, int], Any], catalogue: Catalogue) -> Told:
    """The current match sets of the engine by (closing, book, instrument). What a kept transfer lacked is no match."""
    told: Told = {}
    for (closing, book_id, instrument_id), records in matches.items():
        instrument = catalogue.instrument(instrument_id)
        rows = [_our_match(record) for record in records if not _is_missing(record)]
        if rows:
            told[closing, catalogue.book(book_id).code, instrument.code] = rows
    return told


def _is_missing(record: Any) -> bool:
    return bool(record["kind"] == MatchKind.MOVED and record["open_sequence"] == record["sequence"] and record["open_leg"] == 2)


def _our_match(record: Any) -> tuple[Any, ...]:
    price, qty, money = (int(record[name]) for name in ("price_scale", "qty_scale", "money_scale"))
    kind = MatchKind(int(record["kind"]))
    return (
        int(record["open_sequence"]),
        int(record["open_leg"]),
        format_date(int(record["open_date"])),
        format_date(int(record["effective_date"])),
        Fraction(int(record["qty_raw"]), 10**qty) if kind != MatchKind.CASH else Fraction(0),
        Fraction(int(record["open_price_raw"]), 10**price) if kind != MatchKind.CASH else Fraction(0),
        Fraction(int(record["close_price_raw"]), 10**price) if kind == MatchKind.MATCH else Fraction(0),
        scaled(record, "cost", money),
        scaled(record, "realised", money),
        kind == MatchKind.CASH,
    )


def their_matches(snapshot: Snapshot) -> Told:
    """The same of the oracle."""
    told: Told = {}
    for (book, instrument), state in snapshot.states.items():
        givers = set(state.given)
        for taken in state.taken:
            told.setdefault((taken.closing, book, instrument), []).append(_their_match(taken, taken.closing in givers))
    return told


def _their_match(taken: Taken, gives: bool) -> tuple[Any, ...]:
    part, cash = taken.part, KINDS[taken.kind] == MatchKind.CASH
    return (
        part.opening,
        part.leg,
        part.date,
        taken.date,
        Fraction(0) if cash else part.quantity,
        Fraction(0) if cash else part.price,
        Fraction(0) if cash or gives or taken.kind == "MOVE" else taken.price,
        part.cost,
        taken.realised,
        cash,
    )
