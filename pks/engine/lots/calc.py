"""`pks calc lots`: one request of opening lots and events in, the position, its lots and matches out. No running system.

The request's words are `interfaces.md`'s. The same shard that keeps the live positions folds it, over a history of a few records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from pks.base.clock import NS_PER_DAY, format_date, parse_date, parse_time
from pks.base.errors import CODES, Code, Refused
from pks.base.units import InexactNumber, NotANumber, NotExact, digits_of, format_scaled, parse_scaled, round_half_even, to_int
from pks.engine.lots.shard import Shard, new_shard
from pks.engine.lots.state import KEYS_COUNT, MATCHES, VERDICTS, Results
from pks.engine.lots.tables import pair_find
from pks.layouts.codes import Contract, Flag, Kind, LotFlag, MatchKind, Method, Oversell, Side
from pks.layouts.event import EVENT
from pks.layouts.slots import FEE_SCALE

BOOK, INSTRUMENT, ACCOUNT = 1, 1, 1
AVERAGE_EXTRA_DIGITS = 6
SCALE_MAX = 18
MULTIPLIER_DIGITS = 12  # decimal places that a multiplier may add to money
NO_SUCH_LOT = 2**40  # a sequence that no event of a request has
Request = Mapping[str, Any]


@dataclass
class Job:
    """A request being answered: its scales, its names, and what was refused."""

    request: Request
    contract: Contract
    multiplier: Fraction
    price_scale: int
    qty_scale: int
    money_scale: int
    currencies: list[str]
    errors: list[dict[str, str]] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)  # trade id -> sequence of its opening event
    names: dict[int, str] = field(default_factory=dict)  # sequence -> trade id
    lots: dict[str, tuple[int, int]] = field(default_factory=dict)  # lot id -> sequence and leg of its opening
    lot_names: dict[int, str] = field(default_factory=dict)  # sequence of an opening -> the lot id that it gave
    dates: dict[int, str | None] = field(default_factory=dict)  # rank -> ISO date
    sets: dict[int, Any] = field(default_factory=dict)  # closing event -> its latest match set

    def refuse(self, trade_id: str, code: Code, field_name: str = "", value: object = "", reason: str = "") -> None:
        """List the event under `errors`."""
        self.errors.append(
            {"trade_id": trade_id, "code": code.name, "field": field_name, "value": str(value), "reason": reason or CODES[code]}
        )

    def currency_id(self, currency: str) -> int:
        """Number of a currency, from 1."""
        if currency not in self.currencies:
            self.currencies.append(currency)
        return self.currencies.index(currency) + 1


def calc_lots(request: Request) -> dict[str, Any]:
    """Answer one request. Raises Refused when the request itself cannot be understood; an event that cannot be is listed."""
    job = _open(request)
    openings = _rows(request, "opening_lots")
    events = _rows(request, "events")
    rows = [(row, True) for row in openings] + [(row, False) for row in events]
    records = np.zeros(len(rows) + 1, EVENT)
    shard = _shard(job, records)
    sequence, last_trade, last_action = 0, 0, 0
    for (row, is_opening), (rank, lot_rank) in zip(rows, _ranks(job, openings, events), strict=True):
        trade_id = str(row.get("trade_id") or row.get("lot_id") or "")
        try:
            record = _opening(job, row) if is_opening else _event(job, row)
        except Refused as refused:
            job.refuse(trade_id, refused.code, refused.field, refused.value, refused.reason)
            continue
        sequence += 1
        record["sequence"], record["effective_date"], record["lot_date"] = sequence, rank, lot_rank
        record["flags"] = int(record["flags"]) | Flag.END_OF_BATCH
        if record["kind"] == Kind.ACTION:
            record["previous_other"], last_action = last_action, sequence
        else:
            record["previous"], last_trade = last_trade, sequence
        if record["kind"] in (Kind.TRADE, Kind.OPENING):
            job.ids[trade_id], job.names[sequence] = sequence, trade_id
            job.lots.setdefault(trade_id, (sequence, 0))
            job.lots.setdefault(f"{trade_id}/2", (sequence, 2))
        if record["kind"] == Kind.AMEND:
            _complete(shard, record, records, int(record["original"]), sequence)
        records[sequence] = record
        verdicts = _apply(job, shard, records, sequence)
        for code in verdicts:
            job.refuse(trade_id, Code(code), *_reason(job, shard, record, row, Code(code)))
        if record["kind"] == Kind.TRADE and record["lot"] == NO_SUCH_LOT and not verdicts:
            job.lots[str(row["lot_id"])], job.lot_names[sequence] = (sequence, 0), str(row["lot_id"])
    return _answer(job, shard)


def _rows(request: Request, name: str) -> list[Mapping[str, Any]]:
    rows = request.get(name) or []
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise Refused(Code.BAD_ROW, name, rows, "a list of objects is wanted")
    return rows


def _choice(kind: Any, value: object, field_name: str, code: Code) -> Any:
    """The member of enumeration `kind` that is named `value`, in any case."""
    try:
        return kind[str(value).strip().upper()]
    except KeyError:
        raise Refused(code, field_name, value, f"one of {', '.join(member.name for member in kind)} is wanted") from None


def _texts(rows: Sequence[Mapping[str, Any]], *names: str) -> list[str]:
    return [str(row[name]) for row in rows for name in names if row.get(name) not in (None, "")]


def _scale(given: object, texts: Sequence[str], name: str) -> int:
    """The scale asked for, else the digits that the values themselves have."""
    if given is not None:
        if not isinstance(given, int) or not 0 <= given <= SCALE_MAX:
            raise Refused(Code.OUT_OF_RANGE, name, given, f"0 to {SCALE_MAX} is wanted")
        return given
    found = 0
    for text in texts:
        try:
            found = max(found, digits_of(text))
        except ValueError:
            continue  # the row that it stands in is refused by name
    return min(found, SCALE_MAX)


def _open(request: Request) -> Job:
    """Read what the request says of the instrument and the policies."""
    instrument = request.get("instrument") or {}
    if not isinstance(instrument, Mapping):
        raise Refused(Code.BAD_ROW, "instrument", instrument, "an object is wanted")
    contract = _choice(Contract, instrument.get("kind", "linear"), "instrument.kind", Code.BAD_ROW)
    try:
        multiplier = Fraction(str(instrument.get("multiplier", "1")))
    except (ValueError, ZeroDivisionError):
        raise Refused(Code.NOT_A_NUMBER, "instrument.multiplier", instrument.get("multiplier")) from None
    if multiplier <= 0:
        raise Refused(Code.NOT_POSITIVE, "instrument.multiplier", instrument.get("multiplier"))
    openings, events = _rows(request, "opening_lots"), _rows(request, "events")
    base = instrument.get("base_currency")
    base_fees = [row for row in events if base and row.get("fee_currency") == base]
    prices = _texts([*openings, *events], "price") + _texts(events, "cash_price")
    price_scale = _scale(instrument.get("price_scale"), prices, "instrument.price_scale")
    quantities = _texts([*openings, *events], "quantity") + _texts(base_fees, "fee")
    qty_scale = _scale(instrument.get("qty_scale"), quantities, "instrument.qty_scale")
    money_scale = max(price_scale + qty_scale, 18)
    currency = str(instrument.get("currency") or "USD")
    job = Job(request, contract, multiplier, price_scale, qty_scale, money_scale, [currency])
    if base:
        job.currency_id(str(base))
    return job


def _shard(job: Job, records: Any) -> Shard:
    """A shard with one book and one instrument by the request's words."""
    shard = new_shard(records, keys=2, lots=max(16, 2 * len(records)), instruments=2, books=2)
    policy = shard.state.instruments[INSTRUMENT]
    base = job.request.get("instrument", {}).get("base_currency")
    inverse = job.contract is Contract.INVERSE
    policy["known"], policy["contract"], policy["asset_class_id"] = 1, int(job.contract), 1
    policy["price_scale"], policy["qty_scale"], policy["money_scale"] = job.price_scale, job.qty_scale, job.money_scale
    policy["base_currency_id"] = job.currency_id(str(base)) if base else 0
    policy["pnl_currency_id"] = job.currency_id(str(base)) if base and inverse else 1
    policy["value_digits"] = job.money_scale - job.qty_scale + (job.price_scale if inverse else -job.price_scale)
    policy["multiplier_numerator"], policy["multiplier_denominator"] = job.multiplier.numerator, job.multiplier.denominator
    book = shard.state.books[BOOK]
    book["known"] = 1
    book["oversell"] = _choice(Oversell, job.request.get("oversell", "flip"), "oversell", Code.BAD_ROW)
    book["fees_in_cost"] = bool(job.request.get("fees_in_cost", False))
    method = _choice(Method, job.request.get("method", "FIFO"), "method", Code.METHOD_UNKNOWN)
    shard.change_method(BOOK, 0, method, 0, 0)
    return shard


def _day(job: Job, row: Mapping[str, Any]) -> int | None:
    """Date of a row, or None when it says none or one that cannot be read (the row is refused for that later)."""
    text = row.get("date") or row.get("time")
    if text in (None, ""):
        return None
    try:
        return parse_time(str(text), "time", assume_utc=True) // NS_PER_DAY if "T" in str(text) else parse_date(str(text), "date")
    except Refused:
        return None


def _ranks(job: Job, openings: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """(effective date, lot date) of each row as small numbers that order as the request means it.

    An event without a time has the date of what is before it in the array. A split without one keeps its place, though actions of a date
    come first: what follows it on that date gets a later number.
    """
    lot_days = [(-1 if day is None else day, 0) for day in (_day(job, row) for row in openings)]
    current: int | None = max((day for day, _ in lot_days if day >= 0), default=None)
    bumps: dict[int | None, int] = {}
    places: list[tuple[int, int]] = []
    for row in events:
        day = _day(job, row)
        current = current if day is None else day
        is_split = str(row.get("type", "TRADE")).upper() == "SPLIT"
        if day is None and is_split:
            bumps[current] = bumps.get(current, 0) + 1
        places.append((-1 if current is None else current, 0 if day is not None and is_split else bumps.get(current, 0)))
    lowest = (-2, 0)
    order = {place: rank for rank, place in enumerate(sorted({lowest, *lot_days, *places}), start=1)}
    job.dates = {rank: format_date(day) if day >= 0 else None for (day, _), rank in order.items()}
    return [(order[lowest], order[lot]) for lot in lot_days] + [(order[place], order[place]) for place in places]


def _number(job: Job, row: Mapping[str, Any], name: str, scale: int) -> int:
    """A field of a row as a raw value."""
    text = row.get(name)
    if text in (None, ""):
        raise Refused(Code.MISSING_FIELD, name, text)
    try:
        return parse_scaled(str(text), scale)
    except NotANumber as error:
        raise Refused(Code.NOT_A_NUMBER, name, text, error.reason) from None
    except NotExact as error:
        raise Refused(Code.OVER_PRECISE, name, text, error.reason) from None
    except InexactNumber as error:
        raise Refused(Code.OUT_OF_RANGE, name, text, error.reason) from None


def _price(job: Job, row: Mapping[str, Any]) -> int:
    price_raw = _number(job, row, "price", job.price_scale)
    if job.contract is Contract.INVERSE and price_raw <= 0:
        code = Code.ZERO_PRICE if price_raw == 0 else Code.NEGATIVE_PRICE
        raise Refused(code, "price", row["price"], "an inverse contract needs a price > 0")
    return price_raw


def _blank(job: Job) -> Any:
    record = np.zeros((), EVENT)
    record["book_id"], record["instrument_id"], record["account_id"] = BOOK, INSTRUMENT, ACCOUNT
    record["price_scale"], record["qty_scale"], record["money_scale"] = job.price_scale, job.qty_scale, job.money_scale
    record["group_count"] = 1
    return record


def _opening(job: Job, row: Mapping[str, Any]) -> Any:
    record = _blank(job)
    qty_raw = _number(job, row, "quantity", job.qty_scale)
    if not row.get("lot_id"):
        raise Refused(Code.MISSING_FIELD, "lot_id", "")
    if row["lot_id"] in job.ids:
        raise Refused(Code.IDEMPOTENCY_CONFLICT, "lot_id", row["lot_id"])
    if qty_raw == 0:
        raise Refused(Code.NOT_POSITIVE, "quantity", row["quantity"], "a lot of nothing")
    record["kind"], record["side"] = Kind.OPENING, Side.BUY if qty_raw > 0 else Side.SELL
    record["qty_raw"], record["price_raw"] = abs(qty_raw), _price(job, row)
    return record


def _event(job: Job, row: Mapping[str, Any]) -> Any:
    record = _blank(job)
    name = str(row.get("type", "TRADE")).upper()
    if row.get("time") not in (None, "") and _day(job, row) is None:
        raise Refused(Code.BAD_TIME, "time", row["time"])
    if name == "SPLIT":
        return _split(job, record, row)
    trade_id = row.get("trade_id")
    if name not in ("TRADE", "CANCEL", "AMEND"):
        raise Refused(Code.UNKNOWN_KIND, "type", row.get("type"))
    if trade_id in (None, ""):
        raise Refused(Code.MISSING_FIELD, "trade_id", "")
    record["kind"] = Kind[name]
    if name == "TRADE":
        if trade_id in job.ids:
            raise Refused(Code.IDEMPOTENCY_CONFLICT, "trade_id", trade_id)
        return _trade(job, record, row)
    if trade_id not in job.ids:
        raise Refused(Code.UNKNOWN_TRADE, "trade_id", trade_id)
    record["original"] = job.ids[str(trade_id)]
    return _changes(job, record, row) if name == "AMEND" else record


def _trade(job: Job, record: Any, row: Mapping[str, Any]) -> Any:
    if row.get("side") in (None, ""):
        raise Refused(Code.MISSING_FIELD, "side", "")
    for name in ("quantity", "price"):
        if row.get(name) in (None, ""):
            raise Refused(Code.MISSING_FIELD, name, "")
    _changes(job, record, row)
    lot_id = row.get("lot_id")
    if lot_id not in (None, ""):
        record["lot"], record["lot_leg"] = job.lots.get(str(lot_id), (NO_SUCH_LOT, 0))
    return record


def _changes(job: Job, record: Any, row: Mapping[str, Any]) -> Any:
    """Side, quantity, price and fee of a trade, or those that an amend names; `subject` has a bit for each that is there."""
    given = 0
    if row.get("side") not in (None, ""):
        record["side"], given = _choice(Side, row["side"], "side", Code.WRONG_SIDE), given | 1
        if record["side"] == Side.NONE:
            raise Refused(Code.WRONG_SIDE, "side", row["side"])
    if row.get("quantity") not in (None, ""):
        record["qty_raw"], given = _number(job, row, "quantity", job.qty_scale), given | 2
        if record["qty_raw"] <= 0:
            raise Refused(Code.NOT_POSITIVE, "quantity", row["quantity"])
    if row.get("price") not in (None, ""):
        record["price_raw"], given = _price(job, row), given | 4
    if row.get("fee") not in (None, ""):
        currency = str(row.get("fee_currency") or job.currencies[0])
        record["fee_currency_id"] = job.currency_id(currency)
        scale = min(FEE_SCALE, _scale(None, [str(row["fee"])], "fee"))
        record["fee_raw"], record["fee_scale"] = _number(job, row, "fee", scale), scale
        record["flags"] = int(record["flags"]) | Flag.HAS_FEE
        given |= 8
    record["subject"] = given
    return record


def _complete(shard: Shard, record: Any, records: Any, original: int, sequence: int) -> None:
    """An amend carries the whole new trade: what it does not name comes from the version before it that was not refused."""
    before = records[original]
    for n in range(sequence - 1, original, -1):
        is_version = records[n]["kind"] == Kind.AMEND and records[n]["original"] == original
        if is_version and pair_find(shard.state.refused, n) < 0:
            before = records[n]
            break
    given = int(record["subject"])
    for bit, names in ((1, ("side",)), (2, ("qty_raw",)), (4, ("price_raw",)), (8, ("fee_raw", "fee_scale", "fee_currency_id"))):
        if not given & bit:
            for name in names:
                record[name] = before[name]
    if not given & 8:
        record["flags"] = int(record["flags"]) | (int(before["flags"]) & Flag.HAS_FEE)
    record["lot"], record["lot_leg"] = before["lot"], before["lot_leg"]
    record["effective_date"], record["lot_date"] = before["effective_date"], before["lot_date"]
    record["subject"] = 0


def _split(job: Job, record: Any, row: Mapping[str, Any]) -> Any:
    record["kind"] = Kind.ACTION
    for name, into in (("numerator", "qty_raw"), ("denominator", "price_raw")):
        value = row.get(name)
        if value in (None, ""):
            raise Refused(Code.MISSING_FIELD, name, "")
        try:
            number = parse_scaled(str(value), 0)
        except InexactNumber:
            raise Refused(Code.BAD_RATIO, name, value) from None
        if not 0 < number < 2**31:
            raise Refused(Code.BAD_RATIO, name, value)
        record[into] = number
    if row.get("whole_units"):
        record["flags"] = int(record["flags"]) | Flag.WHOLE_UNITS
    if row.get("cash_price") not in (None, ""):
        record["fee_raw"] = _number(job, row, "cash_price", job.price_scale)
        record["flags"] = int(record["flags"]) | Flag.HAS_CASH_PRICE
    return record


def _apply(job: Job, shard: Shard, records: Any, sequence: int) -> list[int]:
    """Apply one event, keep the match sets that it makes or changes; the codes of what was refused by it."""
    codes: list[int] = []

    def take(out: Results) -> None:
        codes.extend(int(code) for code in out.verdicts["code"][: out.counts[VERDICTS]])
        matches = out.matches[: out.counts[MATCHES]].copy()
        for closing in dict.fromkeys(matches["sequence"].tolist()):
            job.sets[closing] = matches[matches["sequence"] == closing]

    shard.taken = take
    shard.apply(records, -1, sequence, sequence)
    return codes


def _reason(job: Job, shard: Shard, record: Any, row: Mapping[str, Any], code: Code) -> tuple[str, str]:
    """(field, value) at fault, for a verdict that the position gave."""
    held = format_scaled(int(shard.state.keys[0]["qty_raw"]), job.qty_scale)
    if code in (Code.UNKNOWN_LOT, Code.LOT_EXCEEDED, Code.LOT_REQUIRED):
        return "lot_id", str(row.get("lot_id") or "")
    if code is Code.OVERSELL:
        return "quantity", f"{format_scaled(int(record['qty_raw']), job.qty_scale)} against {held} held"
    if code is Code.QUANTITY_OVERFLOW:
        return "quantity", format_scaled(int(record["qty_raw"]), job.qty_scale)
    return "trade_id", job.names.get(int(record["original"]) or int(record["sequence"]), "")


def _money(job: Job, hi: Any, lo: Any) -> Fraction:
    return Fraction(to_int(int(hi), int(lo)), 10**job.money_scale) * job.multiplier


def plain(value: Fraction, digits: int) -> str:
    """`value` in plain notation, exact where `digits` places allow, else half-even to them, without trailing zeros."""
    return format_scaled(round_half_even(value.numerator * 10**digits, value.denominator), digits)


def _answer(job: Job, shard: Shard) -> dict[str, Any]:
    """The position, its lots and matches in the request's words."""
    digits = job.money_scale + MULTIPLIER_DIGITS
    has_key = int(shard.state.meta[KEYS_COUNT]) > 0
    key = shard.state.keys[0]
    quantity = Fraction(int(key["qty_raw"]), 10**job.qty_scale)
    cost = _money(job, key["cost_hi"], key["cost_lo"])
    gross = _money(job, key["realised_hi"], key["realised_lo"])
    fees, net = {}, gross
    pnl_id = int(shard.state.instruments[INSTRUMENT]["pnl_currency_id"])
    for cell in range(4):
        currency_id = int(key["fee_currency_id"][cell])
        if currency_id:
            fee = Fraction(to_int(int(key["fees_hi"][cell]), int(key["fees_lo"][cell])), 10**FEE_SCALE)
            fees[job.currencies[currency_id - 1]] = plain(fee, FEE_SCALE)
            if currency_id == pnl_id and not job.request.get("fees_in_cost"):
                net -= fee
    answer: dict[str, Any] = {
        "id": job.request.get("id"),
        "quantity": plain(quantity, job.qty_scale),
        "average_price": _average(job, quantity, cost) if quantity else None,
        "cost": plain(cost, digits),
        "realised_gross": plain(gross, digits),
        "realised_net": plain(net, digits),
        "fees": fees,
    }
    if job.request.get("mark") not in (None, ""):
        answer["unrealised"] = plain(_unrealised(job, quantity, cost), digits)
    answer["lots"] = [_lot(job, shard, row, digits) for row in _lot_rows(shard)] if has_key else []
    matches = [record for _, records in sorted(job.sets.items()) for record in records if record["kind"] == MatchKind.MATCH]
    answer["matches"] = [_match(job, record, digits) for record in matches]
    answer["errors"] = job.errors
    return answer


def _average(job: Job, quantity: Fraction, cost: Fraction) -> str:
    cost /= job.multiplier
    if cost == 0:
        return "0"
    return plain(quantity / cost if job.contract is Contract.INVERSE else cost / quantity, job.price_scale + AVERAGE_EXTRA_DIGITS)


def _unrealised(job: Job, quantity: Fraction, cost: Fraction) -> Fraction:
    try:
        mark = Fraction(str(job.request["mark"]))
    except ValueError:
        raise Refused(Code.NOT_A_NUMBER, "mark", job.request["mark"]) from None
    if job.contract is Contract.INVERSE:
        if mark <= 0:
            raise Refused(Code.NOT_POSITIVE, "mark", job.request["mark"])
        exact = quantity / mark * 10**job.money_scale
        value = Fraction(round_half_even(exact.numerator, exact.denominator), 10**job.money_scale)
        return cost - value * job.multiplier  # as a close would: quantity / price half-even at money_scale
    return quantity * job.multiplier * mark - cost


def _lot_rows(shard: Shard) -> list[Any]:
    rows, row = [], int(shard.state.keys[0]["oldest"])
    while row >= 0:
        rows.append(shard.state.lots[row])
        row = int(shard.state.lots[row]["newer"])
    return rows


def _lot_id(job: Job, sequence: int, leg: int) -> str:
    return f"{job.names[sequence]}/{leg}" if leg else job.lot_names.get(sequence, job.names[sequence])


def _lot(job: Job, shard: Shard, lot: Any, digits: int) -> dict[str, Any]:
    quantity = Fraction(int(lot["qty_raw"]), 10**job.qty_scale)
    cost = _money(job, lot["cost_hi"], lot["cost_lo"])
    shown = format_scaled(int(lot["price_raw"]), job.price_scale)
    averaged = lot["flags"] & LotFlag.POOL and not lot["flags"] & LotFlag.EXACT
    return {
        "lot_id": _lot_id(job, int(lot["open_sequence"]), int(lot["open_leg"])),
        "date": job.dates[int(lot["open_date"])],
        "quantity": plain(quantity, job.qty_scale),
        "price": _average(job, quantity, cost) if averaged else shown,
        "cost": plain(cost, digits),
    }


def _match(job: Job, record: Any, digits: int) -> dict[str, Any]:
    cost = _money(job, record["cost_hi"], record["cost_lo"])
    averaged = record["flags"] & LotFlag.POOL and not record["flags"] & LotFlag.EXACT
    open_price = format_scaled(int(record["open_price_raw"]), job.price_scale)
    return {
        "open_trade_id": job.names[int(record["open_sequence"])],
        "close_trade_id": job.names.get(int(record["sequence"])),
        "open_date": job.dates[int(record["open_date"])],
        "quantity": format_scaled(abs(int(record["qty_raw"])), job.qty_scale),
        "open_price": _average(job, Fraction(int(record["qty_raw"]), 10**job.qty_scale), cost) if averaged else open_price,
        "close_price": format_scaled(int(record["close_price_raw"]), job.price_scale),
        "realised_gross": plain(_money(job, record["realised_hi"], record["realised_lo"]), digits),
        "cost": plain(cost, digits),
    }
