"""Definitions of reference data: what a currency, entity, book, account, instrument, source, lot method or routing rule is.

Owns the structs, their checks, and the canonical JSON in which a REFDATA event carries them. Loaders make them, capture and the
catalogue read them back. A definition is whole: every scale, factor and rule is in it, so a later change of defaults does not change
what an old event means. It may not look at another definition, a file or a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Final

import msgspec

from pks.base.clock import parse_date, zone_date
from pks.base.errors import Code, Refused
from pks.base.limits import NOTE_BYTES_MAX
from pks.base.units import INT64_MAX, NotANumber, digits_of, parse_scaled
from pks.engine.instruments.class_defaults import defaults_of
from pks.engine.instruments.errors import BadDefinition
from pks.engine.instruments.identifiers import cusip_fault, figi_fault, isin_fault
from pks.layouts.codes import Contract, Method, Oversell, Recurs, Subject
from pks.layouts.refdata import ROW

SCALE_MAX: Final = 18
"""The finest price or quantity scale: 10**18 is the largest power of ten in an int64."""

MONEY_SCALE_MAX: Final = 36
"""The finest money scale: two scales of 18."""

VALUE_DIGITS_MAX: Final = 36
"""The largest power of ten that value kernels apply (base.units)."""

ANY: Final = "*"
"""In a routing rule: whatever stands there."""

CONTRACTS: dict[str, Contract] = {"LINEAR": Contract.LINEAR, "NDF": Contract.LINEAR, "INVERSE": Contract.INVERSE}
"""contract_type -> how a price turns into money. An NDF is linear, and delivers nothing."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"):
    """What all definitions share. `code` is the id that people use, unique per subject; `extra` keeps text fields we do not know."""

    code: str
    extra: dict[str, str] = {}


class Currency(Definition, frozen=True, kw_only=True, tag="currency"):
    """Money or a coin. minor_digits: decimal places of what is posted."""

    name: str = ""
    minor_digits: int


class Entity(Definition, frozen=True, kw_only=True, tag="entity"):
    """A legal entity that owns books and accounts."""

    name: str = ""
    lei: str = ""
    country: str = ""
    functional_currency: str
    gaap: str = ""
    timezone: str
    calendar: str = ""


class Book(Definition, frozen=True, kw_only=True, tag="book"):
    """An accounting unit with its lot method, oversell policy and zone."""

    entity: str
    name: str = ""
    desk: str = ""
    method: str
    oversell: str
    fees_in_cost: bool = False
    report_currency: str
    zone: str
    daily_loss_limit: str = ""


class ClassMethod(Definition, frozen=True, kw_only=True, tag="class_method"):
    """A book's lot method for one asset class; an empty method takes the override back. `code` is BOOK:CLASS."""

    book: str
    asset_class: str
    method: str


class Account(Definition, frozen=True, kw_only=True, tag="account"):
    """Where cash, securities or margin are held."""

    entity: str
    account_type: str = ""
    currency: str = ""
    custodian: str = ""
    bic: str = ""
    purpose: str = ""


class Instrument(Definition, frozen=True, kw_only=True, tag="instrument"):
    """What is traded. Decimals are text; money = quantity x price x multiplier x quote_factor (INVERSE: quantity x multiplier / price)."""

    asset_class: str
    symbol: str = ""
    name: str = ""
    isin: str = ""
    cusip: str = ""
    figi: str = ""
    ric: str = ""
    other_id: str = ""
    mic: str = ""
    base_currency: str = ""
    currency: str
    settle_ccy: str
    contract_type: str = "LINEAR"
    multiplier: str = "1"
    quote_factor: str
    price_scale: int
    qty_scale: int
    money_scale: int
    negative_price: bool
    zero_price: bool
    cleared: bool
    traded_asset: bool
    lot_size: str = ""
    tick_size: str = ""
    tick_value: str = ""
    underlying: str = ""
    strike: str = ""
    right: str = ""
    expiry: str = ""
    issue_date: str = ""
    maturity: str = ""
    coupon_pct: str = ""
    coupon_freq: str = ""
    day_count: str = ""
    settle_cycle: str = ""
    calendar: str = ""
    notes: str = ""

    @property
    def contract(self) -> Contract:
        """How a price turns into money."""
        return CONTRACTS[self.contract_type]

    @property
    def pnl_currency(self) -> str:
        """Currency of cost and realised P&L: where an inverse contract settles, else that of the price."""
        return self.settle_ccy if self.contract is Contract.INVERSE else self.currency

    @property
    def traded_currency(self) -> str:
        """The asset that changes hands, where it is a currency or coin: a fee in it changes the quantity. "" if there is none."""
        return self.base_currency if self.traded_asset else ""

    @property
    def money_factor(self) -> Fraction:
        """multiplier x quote factor, exact; applied when money leaves the position."""
        return rational(self.multiplier, "multiplier") * rational(self.quote_factor, "quote_factor")

    @property
    def value_digits(self) -> int:
        """The power of ten of base.units.value_128 (linear) or inverse_value_128."""
        if self.contract is Contract.INVERSE:
            return self.money_scale - self.qty_scale + self.price_scale
        return self.money_scale - self.qty_scale - self.price_scale


class Source(Definition, frozen=True, kw_only=True, tag="source"):
    """Where trades come from. recurs: bits of layouts.codes.Recurs, over what its trade ids recur."""

    name: str = ""
    recurs: int = 0


class Route(Definition, frozen=True, kw_only=True, tag="route"):
    """Books a trade without a book: the first that fits of the most specific. An empty book takes the rule back."""

    venue: str = ANY
    account: str = ANY
    source: str = ANY
    book: str
    priority: int = 0


AnyDefinition = Currency | Entity | Book | ClassMethod | Account | Instrument | Source | Route

SUBJECTS: dict[type[Definition], Subject] = {
    Currency: Subject.CURRENCY,
    Entity: Subject.ENTITY,
    Book: Subject.BOOK,
    Account: Subject.ACCOUNT,
    Instrument: Subject.INSTRUMENT,
    Source: Subject.SOURCE,
    ClassMethod: Subject.CLASS_METHOD,
    Route: Subject.ROUTE,
}
assert set(SUBJECTS.values()) == set(Subject), "every subject has a definition"

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER: msgspec.json.Decoder[AnyDefinition] = msgspec.json.Decoder(AnyDefinition)


def subject_of(definition: Definition) -> Subject:
    """The kind of row that `definition` defines."""
    return SUBJECTS[type(definition)]


def encode(definition: Definition) -> bytes:
    """Canonical JSON: keys sorted, defaults left out, so that equal definitions are equal bytes."""
    return _ENCODER.encode(definition)


def decode(data: bytes) -> AnyDefinition:
    """The definition in `data`, checked. Raises BadDefinition for what is not one."""
    try:
        definition = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadDefinition(Code.BAD_ROW, "definition", data[:80], str(error)) from error
    check(definition)
    return definition


def check(definition: Definition) -> None:
    """Raises BadDefinition for the first field that is not what it must be."""
    _check_code(definition)
    for name, value in msgspec.structs.asdict(definition).items():
        if isinstance(value, str):
            _check_text(name, value)
    for name, value in definition.extra.items():
        _check_text("extra", name)
        _check_text(name, value)
    checker = _CHECKERS.get(type(definition))
    if checker is not None:
        checker(definition)


def rational(text: str, field: str) -> Fraction:
    """The exact number in "0.1", "1000" or "1/100", > 0. Raises BadDefinition."""
    numerator, slash, denominator = text.partition("/")
    value = _decimal(numerator, field, text)
    if slash:
        divisor = _decimal(denominator, field, text)
        if divisor <= 0:
            raise BadDefinition(Code.NOT_POSITIVE, field, text, "must be greater than zero")
        value /= divisor
    if value <= 0:
        raise BadDefinition(Code.NOT_POSITIVE, field, text, "must be greater than zero")
    return value


def identifier_warnings(instrument: Instrument) -> list[tuple[str, str, str]]:
    """(field, value, reason) of identifiers in the right form whose check digit is wrong: accepted, but worth a line."""
    faults = (("isin", instrument.isin, isin_fault), ("cusip", instrument.cusip, cusip_fault), ("figi", instrument.figi, figi_fault))
    return [(field, value, "the check digit is wrong") for field, value, fault in faults if value and fault(value)]


def price_rules(asset_class: str, fields: dict[str, str]) -> dict[str, object]:
    """The figures that every Instrument carries, from `fields` where given there (text, may be empty) and from the class else.

    Takes price_scale, qty_scale, money_scale, quote_factor, negative_price, zero_price, cleared, traded_asset and contract_type.
    Returns keyword arguments of Instrument. Raises BadDefinition.
    """
    defaults = defaults_of(asset_class)
    price_scale = _scale_field(fields, "price_scale", defaults.price_scale)
    qty_scale = _scale_field(fields, "qty_scale", defaults.qty_scale)
    money_scale = _scale_field(fields, "money_scale", max(price_scale + qty_scale, 18), MONEY_SCALE_MAX)
    delivers = defaults.traded_asset and fields.get("contract_type", "") != "NDF"
    return {
        "price_scale": price_scale,
        "qty_scale": qty_scale,
        "money_scale": money_scale,
        "quote_factor": fields.get("quote_factor") or defaults.quote_factor,
        "negative_price": truth(fields.get("negative_price", ""), "negative_price", defaults.negative_price),
        "zero_price": truth(fields.get("zero_price", ""), "zero_price", defaults.zero_price),
        "cleared": truth(fields.get("cleared", ""), "cleared", defaults.cleared),
        "traded_asset": truth(fields.get("traded_asset", ""), "traded_asset", delivers),
    }


def text_fault(value: str, allowed: str = "") -> tuple[Code, str] | None:
    """Why `value` may not stand in a record: bytes that were not UTF-8 (surrogates), or a control character not in `allowed`."""
    if value.isprintable():
        return None
    for character in _CONTROL.findall(value):
        if "\ud800" <= character <= "\udfff":
            return Code.BAD_ENCODING, "not UTF-8"
        if character not in allowed:
            return Code.BAD_TEXT, f"has the control character U+{ord(character):04X}"
    return None


def truth(text: str, field: str, default: bool) -> bool:
    """true or false, in any case; `default` where `text` is empty. Raises BadDefinition."""
    match text.lower():
        case "":
            return default
        case "true" | "yes" | "1":
            return True
        case "false" | "no" | "0":
            return False
    raise BadDefinition(Code.BAD_TEXT, field, text, "must be true or false")


def _scale_field(fields: dict[str, str], name: str, default: int, largest: int = SCALE_MAX) -> int:
    text = fields.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and int(text) <= largest):
        raise BadDefinition(Code.OUT_OF_RANGE, name, text, f"a scale is a whole number from 0 to {largest}")
    return int(text)


# --- checks ---------------------------------------------------------------------------------------------------------------


def _bytes_of(name: str) -> int:
    assert ROW.fields is not None, "structured"
    return ROW.fields[name][0].itemsize


def _check_code(definition: Definition) -> None:
    if not definition.code:
        raise BadDefinition(Code.MISSING_FIELD, "code", "", "a definition needs an id")
    if not isinstance(definition, Route | ClassMethod):
        _check_length("code", definition.code, _bytes_of("code"))


def _check_text(name: str, value: str) -> None:
    fault = text_fault(value)
    if fault is not None:
        raise BadDefinition(fault[0], name, value, fault[1])
    if value != value.strip():
        raise BadDefinition(Code.BAD_TEXT, name, value, "begins or ends with a blank")
    _check_length(name, value, NOTE_BYTES_MAX)


def _check_length(name: str, value: str, largest: int) -> None:
    count = len(value.encode())
    if count > largest:
        raise BadDefinition(Code.BAD_TEXT, name, value, f"{count} bytes, at most {largest} are allowed")


def _require(definition: Definition, *names: str) -> None:
    for name in names:
        if not getattr(definition, name):
            raise BadDefinition(Code.MISSING_FIELD, name, "", f"{definition.code} needs it")


def _check_zone(field: str, zone: str) -> None:
    _check_length(field, zone, _bytes_of("zone"))
    try:
        zone_date(0, zone)
    except Refused as refused:
        raise BadDefinition(refused.code, field, zone, refused.reason) from refused


def _decimal(text: str, field: str, whole: str) -> Fraction:
    try:
        digits = digits_of(text)
        return Fraction(parse_scaled(text, digits, 128), 10**digits)
    except ValueError as error:
        code = Code.NOT_A_NUMBER if isinstance(error, NotANumber) else Code.OUT_OF_RANGE
        raise BadDefinition(code, field, whole, str(error)) from error


def _check_method(field: str, text: str) -> None:
    if text not in Method.__members__:
        raise BadDefinition(Code.METHOD_UNKNOWN, field, text, f"must be one of {', '.join(Method.__members__)}")


def _check_currency(currency: Currency) -> None:
    _check_length("code", currency.code, _bytes_of("currency"))
    if not 0 <= currency.minor_digits <= SCALE_MAX:
        raise BadDefinition(Code.OUT_OF_RANGE, "minor_digits", currency.minor_digits, f"must be from 0 to {SCALE_MAX}")


def _check_entity(entity: Entity) -> None:
    _require(entity, "functional_currency", "timezone")
    _check_length("functional_currency", entity.functional_currency, _bytes_of("currency"))
    _check_zone("timezone", entity.timezone)


def _check_book(book: Book) -> None:
    _require(book, "entity", "method", "oversell", "report_currency", "zone")
    _check_method("method", book.method)
    if book.oversell not in Oversell.__members__:
        raise BadDefinition(Code.BAD_TEXT, "oversell", book.oversell, "must be FLIP or REJECT")
    _check_length("desk", book.desk, _bytes_of("group"))
    _check_zone("zone", book.zone)
    if book.daily_loss_limit and _decimal(book.daily_loss_limit, "daily_loss_limit", book.daily_loss_limit) < 0:
        raise BadDefinition(Code.NOT_POSITIVE, "daily_loss_limit", book.daily_loss_limit, "must not be negative")


def _check_class_method(override: ClassMethod) -> None:
    _require(override, "book", "asset_class")
    _check_length("asset_class", override.asset_class, _bytes_of("asset_class"))
    if override.method:
        _check_method("method", override.method)
    if override.code != f"{override.book}:{override.asset_class}":
        raise BadDefinition(Code.BAD_TEXT, "code", override.code, "must be BOOK:CLASS")


def _check_account(account: Account) -> None:
    _require(account, "entity")
    _check_length("currency", account.currency, _bytes_of("currency"))


def _check_source(source: Source) -> None:
    if not 0 <= source.recurs <= int(sum(Recurs)):
        raise BadDefinition(Code.OUT_OF_RANGE, "recurs", source.recurs, "not bits of ACCOUNT 1, INSTRUMENT 2, SIDE 4, DATE 8")


def _check_route(route: Route) -> None:
    _require(route, "venue", "account", "source")
    if not -(2**31) <= route.priority < 2**31:
        raise BadDefinition(Code.OUT_OF_RANGE, "priority", route.priority, "does not fit 32 bits")


def _check_instrument(instrument: Instrument) -> None:
    _require(instrument, "asset_class", "currency", "settle_ccy", "contract_type", "multiplier", "quote_factor")
    for field in ("symbol", "ric", "asset_class", "currency", "base_currency", "underlying"):
        _check_length(field, getattr(instrument, field), _bytes_of(field))
    _check_length("settle_ccy", instrument.settle_ccy, _bytes_of("currency"))
    for field, fault in (("isin", isin_fault), ("cusip", cusip_fault), ("figi", figi_fault)):
        value = getattr(instrument, field)
        reason = fault(value) if value else ""
        if reason.startswith("not "):
            raise BadDefinition(Code.BAD_TEXT, field, value, reason)
    if instrument.contract_type not in CONTRACTS:
        raise BadDefinition(Code.BAD_TEXT, "contract_type", instrument.contract_type, f"must be one of {', '.join(CONTRACTS)}")
    _check_scales(instrument)
    factor = instrument.money_factor
    if max(factor.numerator, factor.denominator) > INT64_MAX:
        raise BadDefinition(Code.OUT_OF_RANGE, "multiplier", instrument.multiplier, "multiplier x quote factor does not fit 64 bits")
    for field in ("lot_size", "tick_size", "strike", "tick_value", "coupon_pct"):
        value = getattr(instrument, field)
        if value:
            _decimal(value, field, value)
    for field in ("expiry", "issue_date", "maturity"):
        value = getattr(instrument, field)
        if value:
            _check_date(field, value)


def _check_date(field: str, value: str) -> None:
    try:
        parse_date(value, field)
    except Refused as refused:
        raise BadDefinition(refused.code, field, value, refused.reason) from refused


def _check_scales(instrument: Instrument) -> None:
    for field, largest in (("price_scale", SCALE_MAX), ("qty_scale", SCALE_MAX), ("money_scale", MONEY_SCALE_MAX)):
        scale = getattr(instrument, field)
        if not 0 <= scale <= largest:
            raise BadDefinition(Code.OUT_OF_RANGE, field, scale, f"must be from 0 to {largest}")
    least = instrument.price_scale + instrument.qty_scale
    if instrument.money_scale < least:
        raise BadDefinition(Code.OUT_OF_RANGE, "money_scale", instrument.money_scale, f"price and quantity scale together need {least}")
    if instrument.value_digits > VALUE_DIGITS_MAX:
        reason = f"quantity / price would need {instrument.value_digits} digits, at most {VALUE_DIGITS_MAX} are there"
        raise BadDefinition(Code.OUT_OF_RANGE, "money_scale", instrument.money_scale, reason)


_CHECKERS: dict[type[Definition], Callable[..., None]] = {
    Currency: _check_currency,
    Entity: _check_entity,
    Book: _check_book,
    ClassMethod: _check_class_method,
    Account: _check_account,
    Instrument: _check_instrument,
    Source: _check_source,
    Route: _check_route,
}
assert _CHECKERS.keys() == SUBJECTS.keys(), "every definition is checked"
