"""Reference data over REST: what is known, new rows, changed rows. A definition is an event like any other: durable, in order, kept for
ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from litestar import Request, Response, get, patch, post
from litestar.params import FromPath, Parameter, QueryParameter

from pks.base.errors import CODES, Code
from pks.bff.access import Permission
from pks.bff.commands import body_of
from pks.bff.guards import asks
from pks.bff.lists import CSV, JSON, LIMIT_DEFAULT, LIMIT_MAX, form_of, list_response, order_of, page_of
from pks.bff.problems import Problem, not_found, refused
from pks.engine.instruments.definitions import Account, AnyDefinition, Book, Currency, Definition, Entity, Instrument, check, price_rules
from pks.engine.instruments.errors import BadDefinition
from pks.layouts.codes import Subject
from pks.layouts.event import FIELD_NAME

if TYPE_CHECKING:
    from pks.bff.access import Principal
    from pks.bff.gateway import Gateway
    from pks.engine.instruments.catalogue import Catalogue

KINDS: dict[str, tuple[Subject, type[Definition]]] = {
    "instruments": (Subject.INSTRUMENT, Instrument),
    "books": (Subject.BOOK, Book),
    "accounts": (Subject.ACCOUNT, Account),
    "entities": (Subject.ENTITY, Entity),
    "currencies": (Subject.CURRENCY, Currency),
}
"""Last part of the path -> what it holds."""

TEXTS_OF_RULES = ("price_scale", "qty_scale", "money_scale", "quote_factor", "negative_price", "zero_price", "cleared", "traded_asset")

Kind = Annotated[str, Parameter(description="instruments, books, accounts, entities or currencies")]


@get("/ref/{kind:str}", summary="What is known", tags=["reference data"])
async def rows(
    request: Request[Any, Any, Any],
    kind: Kind,
    sort: Annotated[str | None, QueryParameter(name="sort", required=False)] = None,
    limit: Annotated[int, QueryParameter(name="limit", ge=1, le=LIMIT_MAX, required=False)] = LIMIT_DEFAULT,
    after: Annotated[str | None, QueryParameter(name="after", required=False)] = None,
) -> Response[Any]:
    """Every row with all its fields. Of the books those that the user may see."""
    gateway: Gateway = request.app.state.gateway
    subject, made_of = _kind(kind)
    form = form_of(request, (JSON, CSV))
    columns = [name for name in made_of.__struct_fields__ if name != "extra"]
    found = _known(await gateway.booking.catalogue(), subject, request.user)
    order = order_of(sort, (name for name in columns if name != "code"), ("code",))
    return list_response(form, page_of(found.values(), order, limit, after), columns, {})


@get("/ref/{kind:str}/{code:str}", summary="One row", tags=["reference data"])
async def row(request: Request[Any, Any, Any], kind: Kind, code: FromPath[str]) -> dict[str, Any]:
    """One row by its code."""
    gateway: Gateway = request.app.state.gateway
    subject, _ = _kind(kind)
    return _one(_known(await gateway.booking.catalogue(), subject, request.user), subject, code)


@post("/ref/{kind:str}", opt=asks(Permission.REFDATA), summary="Define a row", tags=["reference data"])
async def define(request: Request[Any, Any, Any], kind: Kind) -> Response[Any]:
    """A new row; an instrument's scales and rules are its class's where they are left out. 409 where the code is taken."""
    gateway: Gateway = request.app.state.gateway
    subject, made_of = _kind(kind)
    fields = body_of(await request.body())
    catalogue = await gateway.booking.catalogue()
    if isinstance(fields.get("code"), str) and catalogue.id_of(subject, fields["code"]):
        raise Problem(409, "ALREADY_DEFINED", "this code is taken: PATCH changes what it stands for", field="code", value=fields["code"])
    if made_of is Instrument:
        fields = _with_class_rules(fields)
    return await _define(request, made_of, fields, 201)


@patch("/ref/{kind:str}/{code:str}", opt=asks(Permission.REFDATA), summary="Change a row", tags=["reference data"])
async def change(request: Request[Any, Any, Any], kind: Kind, code: FromPath[str]) -> Response[Any]:
    """The body has what changes. What is booked keeps what it was booked with."""
    gateway: Gateway = request.app.state.gateway
    subject, made_of = _kind(kind)
    known = _one(_known(await gateway.booking.catalogue(), subject, request.user), subject, code)
    fields = body_of(await request.body())
    if fields.get("code", code) != code:
        raise refused(Code.BAD_ROW, "code", fields["code"], "a code is for ever")
    return await _define(request, made_of, {**known, **fields}, 200)


async def _define(request: Request[Any, Any, Any], made_of: type[Definition], fields: dict[str, Any], status: int) -> Response[Any]:
    gateway: Gateway = request.app.state.gateway
    try:
        definition = msgspec.convert({name: value for name, value in fields.items() if name != "type"}, made_of)
        check(definition)
    except msgspec.ValidationError as error:
        raise Problem(422, Code.BAD_ROW.name, str(error), field=str(error).rpartition("$.")[2].rstrip("`")) from None
    except BadDefinition as error:
        raise refused(error.code, error.field, error.value, error.reason) from None
    if isinstance(definition, Book) and not request.user.sees(definition.code):
        raise refused(Code.UNKNOWN_BOOK, "code", definition.code)
    assert isinstance(definition, AnyDefinition), "one of the kinds"
    gateway.audit.check_room()
    reply = (await gateway.booking.define([definition]))[0]
    code = Code(int(reply["code"]))
    if code not in (Code.ACCEPTED, Code.DUPLICATE):
        raise refused(code, FIELD_NAME.get(int(reply["field"]), ""), None, CODES[code])
    gateway.note(request, "REFDATA", f"{made_of.__name__.lower()} {definition.code}", sequence=int(reply["sequence"]))
    sequence = {"Pks-Sequence": str(int(reply["sequence"]))}
    return Response(as_row(definition), status_code=status if code is Code.ACCEPTED else 200, headers=sequence)


def as_row(definition: Definition) -> dict[str, Any]:
    """A definition with every field."""
    return {name: getattr(definition, name) for name in definition.__struct_fields__}


def _kind(kind: str) -> tuple[Subject, type[Definition]]:
    if kind not in KINDS:
        raise not_found("kind of reference data", kind)
    return KINDS[kind]


def _known(catalogue: Catalogue, subject: Subject, principal: Principal) -> dict[str, dict[str, Any]]:
    found = {definition.code: as_row(definition) for _, definition in catalogue.rows(subject)}
    return {code: row for code, row in found.items() if subject is not Subject.BOOK or principal.sees(code)}


def _one(known: dict[str, dict[str, Any]], subject: Subject, code: str) -> dict[str, Any]:
    if code not in known:
        raise not_found(subject.name.lower(), code)
    return known[code]


def _with_class_rules(fields: dict[str, Any]) -> dict[str, Any]:
    """An instrument's fields with those of its class where they are not given."""
    given = {
        name: str(fields[name]).lower() if isinstance(fields[name], bool) else str(fields[name])
        for name in TEXTS_OF_RULES
        if name in fields
    }
    if isinstance(fields.get("contract_type"), str):
        given["contract_type"] = fields["contract_type"]
    try:
        rules = price_rules(str(fields.get("asset_class", "")), given)
    except BadDefinition as error:
        raise refused(error.code, error.field, error.value, error.reason) from None
    return {"settle_ccy": fields.get("currency", ""), **fields, **rules}


HANDLERS = [rows, row, define, change]
