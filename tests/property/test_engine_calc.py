"""`pks calc lots` against the independent model, over random requests."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pks.engine.lots.calc import calc_lots
from tests.oracle.calc import calc

METHODS = ("FIFO", "LIFO", "HIFO", "AVERAGE", "SPECIFIC")


def random_request(chance: random.Random) -> dict[str, Any]:
    """A request with every kind of event; trade ids, lot ids and corrections often meet, some are wrong."""
    kind = chance.choice(("linear", "linear", "inverse"))
    timed = chance.random() < 0.7
    splits = chance.random() < 0.5
    openings = [
        {
            "lot_id": f"L{n}",
            "date": f"2025-01-{chance.randint(10, 20)}",
            "quantity": _quantity(chance, signed=True),
            "price": _price(chance),
        }
        for n in range(chance.randrange(4))
    ]
    if len({row["quantity"].startswith("-") for row in openings}) > 1 and chance.random() < 0.7:
        openings = [{**row, "quantity": row["quantity"].lstrip("-")} for row in openings]
    names = [row["lot_id"] for row in openings]
    events: list[dict[str, Any]] = []
    for n in range(chance.randint(1, 25)):
        roll = chance.random()
        if roll < 0.72 or not names:
            event = {"type": "TRADE", "trade_id": f"t{n}", "side": chance.choice(("BUY", "SELL"))}
            event |= {"quantity": _quantity(chance), "price": _price(chance), **_fee(chance)}
            if chance.random() < 0.4:
                event["lot_id"] = chance.choice([*names, "MINE", "OTHER", *(f"{name}/2" for name in names[-3:])])
            names.append(event["trade_id"])
        elif roll < 0.8:
            event = {"type": "CANCEL", "trade_id": chance.choice([*names, "nobody"])}
        elif roll < 0.93 or not splits:
            event = {"type": "AMEND", "trade_id": chance.choice(names)}
            for name, value in (("quantity", _quantity(chance)), ("price", _price(chance)), ("side", chance.choice(("BUY", "SELL")))):
                if chance.random() < 0.5:
                    event[name] = value
        else:
            numerator, denominator = chance.choice(((2, 1), (3, 1), (1, 7), (2, 3)))
            event = {"type": "SPLIT", "numerator": numerator, "denominator": denominator, "whole_units": chance.random() < 0.5}
            if chance.random() < 0.6:
                event["cash_price"] = _price(chance)
        if timed and (event["type"] != "SPLIT" or chance.random() < 0.5):
            day = min(9, n // 3) if chance.random() < 0.8 else chance.randrange(10)
            event["time"] = f"2025-03-0{day + 1 if day < 9 else 1}T10:00:0{n % 10}Z" if day < 9 else "2025-03-10T10:00:00Z"
        events.append(event)
    instrument: dict[str, Any] = {"kind": kind, "multiplier": chance.choice(("1", "10", "0.01", "100")), "currency": "USD"}
    if kind == "inverse" or chance.random() < 0.4:
        instrument["base_currency"] = "BTC"
    if chance.random() < 0.3:
        instrument |= {"price_scale": 4, "qty_scale": 3}
    request = {
        "id": chance.randrange(1000),
        "method": chance.choice(METHODS),
        "instrument": instrument,
        "oversell": chance.choice(("flip", "flip", "reject")),
        "fees_in_cost": chance.random() < 0.3,
        "opening_lots": openings,
        "events": events,
    }
    if chance.random() < 0.5:
        request["mark"] = _price(chance)
    return request


def _quantity(chance: random.Random, *, signed: bool = False) -> str:
    text = chance.choice((str(chance.randint(1, 20)), f"{chance.randint(0, 9)}.{chance.randint(1, 9)}"))
    return f"-{text}" if signed and chance.random() < 0.4 else text


def _price(chance: random.Random) -> str:
    return chance.choice(("10", "12.5", f"{chance.randint(5, 15)}.{chance.randint(0, 99):02d}"))


def _fee(chance: random.Random) -> dict[str, str]:
    if chance.random() < 0.4:
        return {}
    return {"fee": chance.choice(("0.1", "1", "-0.02", "0")), "fee_currency": chance.choice(("USD", "BTC", "BNB"))}


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without what each side words in its own way: the field, value and reason of a refusal; fees of nothing."""
    kept = dict(answer)
    kept["errors"] = [(error["trade_id"] or "", error["code"]) for error in answer["errors"]]
    kept["fees"] = {currency: fee for currency, fee in sorted(answer["fees"].items()) if fee != "0"}
    return kept


@pytest.mark.parametrize("number", range(300))
def test_random_requests(number: int, seed: int) -> None:
    request = random_request(random.Random(f"{seed}/{number}"))
    ours, theirs = comparable(calc_lots(request)), comparable(calc(request))
    assert ours == theirs, request
