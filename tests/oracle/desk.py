"""The demo desk's files as the events a journal would hold for them.

Knows the CSV headers of the desk and nothing of lots. The folder is PKS_DESK_DIR, else pks/desk_data, else ../shared/desk
beside the repository.
"""

from __future__ import annotations

import csv
import os
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from .key import Event

REPOSITORY = Path(__file__).resolve().parents[2]
PRICE_SCALE, QTY_SCALE, MONEY_SCALE = 9, 9, 18
LOADED = "1970-01-01"  # first definitions hold since ever


def desk_dir() -> Path:
    """The folder with trades.csv and the rest."""
    tried = (
        [Path(os.environ["PKS_DESK_DIR"])]
        if "PKS_DESK_DIR" in os.environ
        else [REPOSITORY / "pks" / "desk_data", REPOSITORY.parent / "shared" / "desk"]
    )
    for folder in tried:
        if (folder / "trades.csv").exists():
            return folder
    raise FileNotFoundError(f"no desk files in {[str(folder) for folder in tried]}")


def rows(name: str) -> list[dict[str, str]]:
    """All rows of one file."""
    with (desk_dir() / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def nanoseconds(time: str) -> int:
    """RFC 3339 UTC with whole seconds to nanoseconds since 1970."""
    return int(datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone(UTC).timestamp()) * 10**9


def definitions() -> list[dict[str, Any]]:
    """REFDATA rows of books, class overrides and instruments."""
    result: list[dict[str, Any]] = []
    zones = {row["entity_id"]: row["timezone"] for row in rows("entities.csv")}
    for row in rows("books.csv"):
        result.append(
            {
                "type": "book",
                "id": row["book_id"],
                "entity": row["entity_id"],
                "method": row["lot_method"],
                "fees_in_cost": False,
                "oversell": "FLIP" if row["allow_short"] == "true" else "REJECT",
                "zone": zones[row["entity_id"]],
            }
        )
        for override in filter(None, row["class_overrides"].split(";")):
            asset_class, method = override.split(":")
            result.append({"type": "class_method", "book": row["book_id"], "asset_class": asset_class, "method": method})
    for row in rows("instruments.csv"):
        multiplier = Fraction(row["multiplier"]) / (100 if row["asset_class"] == "BOND" else 1)  # bonds are quoted in % of face
        inverse = row["contract_type"] == "INVERSE"
        result.append(
            {
                "type": "instrument",
                "id": row["instrument_id"],
                "kind": "INVERSE" if inverse else "LINEAR",
                "asset_class": row["asset_class"],
                "currency": row["currency"],
                "pnl_currency": row["settle_ccy"] if inverse else row["currency"],
                "base_currency": row["base_currency"] or None,
                "multiplier_numerator": multiplier.numerator,
                "multiplier_denominator": multiplier.denominator,
                "price_scale": PRICE_SCALE,
                "qty_scale": QTY_SCALE,
                "money_scale": MONEY_SCALE,
                "negative_price": False,
            }
        )
    return result


def journal() -> list[Event]:
    """Reference data, opening lots, the trades of the day in the order of their times, allocations behind their block."""
    events: list[Event] = []
    sequences: dict[str, int] = {}

    def add(kind: str, **values: Any) -> None:
        empty = dict.fromkeys(
            (
                "book",
                "to_book",
                "instrument",
                "account",
                "to_account",
                "side",
                "quantity",
                "price",
                "fee",
                "fee_currency",
                "lot_date",
                "settle_date",
                "original",
                "lot",
                "lot_leg",
                "cash_price",
            )
        )
        events.append(
            {
                **empty,
                "sequence": len(events) + 1,
                "kind": kind,
                "flags": [],
                "trade_id": "",
                "source": "DESK",
                "leg": 0,
                "recorded_ns": len(events) + 1,
                **values,
            }
        )
        sequences.setdefault(events[-1]["trade_id"], len(events))

    for definition in definitions():
        add("REFDATA", definition=definition, effective_date=LOADED, trade_time_ns=nanoseconds(LOADED + "T00:00:00Z"))
    for row in rows("opening_lots.csv"):
        quantity = Fraction(row["qty"])
        add(
            "OPENING",
            trade_id=row["lot_id"],
            book=row["book_id"],
            account=row["account_id"],
            instrument=row["instrument_id"],
            side="BUY" if quantity > 0 else "SELL",
            quantity=row["qty"].lstrip("-"),
            price=row["open_price"],
            lot_date=row["open_date"],
            effective_date=row["as_of"],
            trade_time_ns=nanoseconds(row["as_of"] + "T20:59:59Z"),
        )
    children = rows("allocations.csv")
    for row in sorted(rows("trades.csv"), key=lambda row: row["trade_time_utc"]):
        add(
            "TRADE",
            flags=["BLOCK"] if row["source"] == "BLOCK" else [],
            trade_id=row["trade_id"],
            book=row["book_id"] or None,
            account=row["account_id"],
            instrument=row["instrument_id"],
            side=row["side"],
            quantity=row["qty"],
            price=row["price"],
            fee=row["fee"],
            fee_currency=row["fee_ccy"],
            effective_date=row["business_date"],
            trade_time_ns=nanoseconds(row["trade_time_utc"]),
        )
        for child in children:
            if child["block_trade_id"] == row["trade_id"]:
                add(
                    "ALLOCATION",
                    flags=["GROUP_LEG"],
                    trade_id=child["child_trade_id"],
                    original=sequences[row["trade_id"]],
                    book=child["book_id"],
                    instrument=row["instrument_id"],
                    quantity=child["qty"],
                    price=child["price"],
                    fee=child["fee"],
                    fee_currency=row["fee_ccy"],
                    account=row["account_id"],
                    side=row["side"],
                    effective_date=row["business_date"],
                    trade_time_ns=nanoseconds(row["trade_time_utc"]),
                )
    return events
