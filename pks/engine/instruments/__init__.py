"""Reference data: definitions, class defaults, the catalogue that folds them, their rows, and zones. Pure."""

from __future__ import annotations

from pks.base.zones import ZoneTables, local_date, zone_tables
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import (
    Account,
    AnyDefinition,
    Book,
    ClassMethod,
    Currency,
    Definition,
    Entity,
    Instrument,
    Route,
    Source,
    decode,
    encode,
    subject_of,
)
from pks.engine.instruments.errors import AmbiguousInstrument, BadDefinition, FixedField, IdTaken, UnknownReference
from pks.engine.instruments.rows import DATE_FIRST, book_policy, instrument_policy, method_change, to_policy, to_row

__all__ = [
    "DATE_FIRST",
    "Account",
    "AmbiguousInstrument",
    "AnyDefinition",
    "BadDefinition",
    "Book",
    "Catalogue",
    "ClassMethod",
    "Currency",
    "Definition",
    "Entity",
    "FixedField",
    "IdTaken",
    "Instrument",
    "Route",
    "Source",
    "UnknownReference",
    "ZoneTables",
    "book_policy",
    "decode",
    "encode",
    "instrument_policy",
    "local_date",
    "method_change",
    "subject_of",
    "to_policy",
    "to_row",
    "zone_tables",
]
