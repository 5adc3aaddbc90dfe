"""`pks calc lots` by the oracle: one request object in, one answer object out (interfaces.md, "Trade input").

Turns the request into events of one key, lets `model` fold them, and words the result. Called by tests.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

from .key import Event, Lot
from .model import Key, Model, Position
from .money import Instrument, decimal, half_even, plain

BOOK, INSTRUMENT = "calc", "calc"
KEY: Key = (BOOK, INSTRUMENT)
NO_DATE = "0001-01-01"  # openings are folded before everything else
MONEY_SCALE_MIN = 18


def calc(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request. Refused events are listed under `errors`; the others go on."""
    model = Model()
    definition = _instrument_row(request)
    for sequence, row in enumerate((definition, _book_row(request)), start=1):
        model.apply(
            {"sequence": sequence, "kind": "REFDATA", "flags": [], "effective_date": NO_DATE, "trade_time_ns": 0, "definition": row}
        )
    originals: dict[str, int] = {}  # trade id or lot id -> sequence of its latest event
    lots: dict[str, tuple[int, int]] = {}  # lot id -> (sequence, leg) of its opening event
    errors: list[dict[str, Any]] = []
    contents: dict[int, Event] = {}
    sequence = 2

    opening_lots = request.get("opening_lots") or []
    for row in opening_lots:
        sequence += 1
        quantity = Fraction(str(row["quantity"]))
        event = _event(
            sequence,
            "OPENING",
            trade_id=row["lot_id"],
            side="BUY" if quantity > 0 else "SELL",
            quantity=str(abs(quantity)),
            price=row["price"],
            effective_date=NO_DATE,
            lot_date=row["date"],
            flags=["GROUP_LEG"],
        )
        originals[row["lot_id"]] = sequence
        lots[row["lot_id"]], lots[f"{row['lot_id']}/2"] = (sequence, 0), (sequence, 2)
        contents[sequence] = event
        model.apply(event)

    date = max((str(row["date"]) for row in opening_lots), default=NO_DATE)
    for row in request.get("events") or []:
        sequence += 1
        timed = row.get("time") is not None
        date = str(row["time"])[:10] if timed else date  # without a time: behind the event before it in the array
        kind, trade_id = row.get("type", "TRADE"), row.get("trade_id")
        if kind == "SPLIT":
            flags = (["WHOLE_UNITS"] if row.get("whole_units") else []) + (["HAS_CASH_PRICE"] if row.get("cash_price") is not None else [])
            event = _event(
                sequence,
                "ACTION",
                trade_id=trade_id or "",
                effective_date=date,
                flags=flags,
                numerator=int(row["numerator"]),
                denominator=int(row["denominator"]),
                cash_price=row.get("cash_price"),
                in_sequence=not timed,
            )
        elif kind == "TRADE":
            name = row.get("lot_id")
            known, leg = lots.get(name, (None, 0)) if name is not None else (None, 0)
            event = _event(
                sequence,
                "TRADE",
                trade_id=trade_id,
                side=row["side"],
                quantity=row["quantity"],
                price=row["price"],
                fee=row.get("fee"),
                fee_currency=row.get("fee_currency") or request["instrument"]["currency"],
                effective_date=date,
                lot=known,
                lot_leg=leg,
                lot_name=name if known is None else None,
            )
            originals[trade_id] = sequence
            lots.setdefault(trade_id, (sequence, 0))
            lots.setdefault(f"{trade_id}/2", (sequence, 2))
        elif trade_id not in originals:
            errors.append(_error(trade_id, "UNKNOWN_TRADE", "trade_id", trade_id))
            continue
        elif kind == "CANCEL":
            event = _event(sequence, "CANCEL", trade_id=trade_id, original=originals[trade_id])
        else:
            old = contents[originals[trade_id]]
            new = {name: row[name] for name in ("quantity", "price", "side", "fee") if row.get(name) is not None}
            event = {**old, **new, "sequence": sequence, "kind": "AMEND", "original": originals[trade_id], "flags": []}
        contents[sequence] = event
        model.apply(event)
        if sequence in model.refused:
            errors.append(_error(trade_id, model.refused[sequence], "quantity", row.get("quantity")))
        elif kind == "AMEND":
            contents[originals[trade_id]] = event
        elif kind == "TRADE" and event["lot_name"] is not None:
            lots[event["lot_name"]] = (sequence, 0)  # a lot id that nothing had names the lot that this trade opens
    return _answer(request, model, Instrument.of(definition), errors)


def _event(sequence: int, kind: str, **values: Any) -> Event:
    return {"sequence": sequence, "kind": kind, "flags": [], "book": BOOK, "instrument": INSTRUMENT, "trade_time_ns": 0, **values}


def _instrument_row(request: dict[str, Any]) -> dict[str, Any]:
    given = request["instrument"]
    rows = [*(request.get("opening_lots") or []), *(request.get("events") or [])]
    price_scale, qty_scale = given.get("price_scale"), given.get("qty_scale")
    if price_scale is None:
        price_scale = max((_places(row.get(name)) for row in rows for name in ("price", "cash_price")), default=0)
    if qty_scale is None:
        base = given.get("base_currency")
        in_asset = [row.get("fee") for row in rows if base is not None and row.get("fee_currency") == base]
        qty_scale = max([_places(row.get("quantity")) for row in rows] + [_places(fee) for fee in in_asset], default=0)
    multiplier = Fraction(str(given.get("multiplier", "1")))
    kind = given.get("kind", "linear").upper()
    return {
        "type": "instrument",
        "id": INSTRUMENT,
        "kind": kind,
        "asset_class": "",
        "currency": given["currency"],
        "pnl_currency": given.get("base_currency") or given["currency"] if kind == "INVERSE" else given["currency"],
        "base_currency": given.get("base_currency"),
        "multiplier_numerator": multiplier.numerator,
        "multiplier_denominator": multiplier.denominator,
        "price_scale": price_scale,
        "qty_scale": qty_scale,
        "money_scale": max(price_scale + qty_scale, MONEY_SCALE_MIN),
    }


def _book_row(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "book",
        "id": BOOK,
        "method": request.get("method", "FIFO").upper(),
        "oversell": request.get("oversell", "flip").upper(),
        "fees_in_cost": bool(request.get("fees_in_cost", False)),
    }


def _places(number: Any) -> int:
    """Decimal places that the number needs; trailing zeros do not count."""
    if number is None:
        return 0
    exponent = Decimal(str(number)).normalize().as_tuple().exponent
    assert isinstance(exponent, int), "a finite number"
    return max(0, -exponent)


def _error(trade_id: Any, code: str, field: str, value: Any) -> dict[str, Any]:
    return {"trade_id": trade_id, "code": code, "field": field, "value": value, "reason": code}


def _answer(request: dict[str, Any], model: Model, instrument: Instrument, errors: list[dict[str, Any]]) -> dict[str, Any]:
    position = model.positions().get(KEY)
    answer: dict[str, Any] = {"id": request.get("id")}
    if position is None:
        answer |= {
            "quantity": "0",
            "average_price": None,
            "cost": "0",
            "realised_gross": "0",
            "realised_net": "0",
            "fees": {},
            "lots": [],
            "matches": [],
            "errors": errors,
        }
        if request.get("mark") is not None:
            answer["unrealised"] = "0"
        return answer
    answer |= {
        "quantity": plain(position.quantity),
        "average_price": _price(position.average_price, instrument),
        "cost": plain(position.cost),
        "realised_gross": plain(position.realised_gross),
        "realised_net": plain(position.realised_net),
        "fees": {currency: plain(amount) for currency, amount in position.fees.items()},
    }
    if request.get("mark") is not None:
        answer["unrealised"] = plain(unrealised(position, instrument, Fraction(str(request["mark"]))))
    pooled = position.method == "AVERAGE"
    answer["lots"] = [_lot(lot, instrument, pooled) for lot in position.open_lots]
    answer["matches"] = [
        {
            "open_trade_id": model.entries[match.opening].trade_id,
            "close_trade_id": group.trade_id,
            "open_date": None if match.open_date == NO_DATE else match.open_date,
            "quantity": plain(abs(match.quantity)),
            "open_price": _price(_average(match.quantity, match.cost, instrument) if pooled else match.open_price, instrument),
            "close_price": _price(match.close_price, instrument),
            "realised_gross": plain(match.realised_gross),
            "cost": plain(match.cost),
        }
        for group in sorted(model.matches(), key=lambda group: group.closing)
        for match in group.matches
        if match.kind == "CLOSE"
    ]
    answer["errors"] = errors
    return answer


def unrealised(position: Position, instrument: Instrument, mark: Fraction) -> Decimal:
    """Gain of the open quantity at `mark`, with the multiplier."""
    value = instrument.value(Fraction(position.quantity), mark)
    return decimal(instrument.gain(Fraction(position.cost) / instrument.multiplier, value) * instrument.multiplier, instrument.money_scale)


def _average(quantity: Decimal, cost: Decimal, instrument: Instrument) -> Fraction:
    return instrument.price_of(Fraction(quantity), Fraction(cost) / instrument.multiplier)


def _lot(lot: Lot, instrument: Instrument, pooled: bool) -> dict[str, Any]:
    return {
        "lot_id": lot.lot_id,
        "date": None if lot.date == NO_DATE else lot.date,
        "quantity": plain(decimal(lot.quantity, instrument.qty_scale)),
        "price": _price(instrument.price_of(lot.quantity, lot.cost) if pooled else lot.price, instrument),
        "cost": plain(decimal(lot.cost * instrument.multiplier, instrument.money_scale)),
    }


def _price(price: Fraction | None, instrument: Instrument) -> str | None:
    """Shown with price_scale + 6 digits, half-even, zeros cut."""
    return None if price is None else plain(decimal(half_even(price, instrument.price_scale + 6), instrument.price_scale + 6))
