"""Definitions as REFDATA events: the group that books one, and taking a sequenced one into a catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import AnyDefinition, decode, encode, subject_of
from pks.layouts.codes import Kind, Subject
from pks.layouts.detail import group_at, text_of, with_text
from pks.layouts.event import EVENT


def definition_event(definition: AnyDefinition, row_id: int = 0) -> Any:
    """EVENT[n]: a REFDATA group that defines `definition`."""
    record = np.zeros(1, EVENT)[0]
    record["kind"], record["subject"], record["original"] = Kind.REFDATA, subject_of(definition), row_id
    return with_text(record, encode(definition))


def learn_definition(catalogue: Catalogue, group: Any) -> tuple[Subject, int, AnyDefinition]:
    """Take one sequenced REFDATA group into the catalogue; (subject, row id, definition)."""
    head = group[0]
    definition = decode(text_of(group))
    subject, row_id = Subject(int(head["subject"])), int(head["original"])
    catalogue.apply(subject, row_id, definition, int(head["sequence"]))
    return subject, row_id, definition


def definitions_of(records: Any, rows: Any) -> Iterator[tuple[Subject, int, int, AnyDefinition]]:
    """(subject, row id, sequence, definition) of every row of reference data, in the order of their events.

    records: EVENT[n], event n at records[n]; rows: REFDATA_SLOT[m], each naming the event that defines it.
    """
    for row in rows[np.argsort(rows["definition_sequence"], kind="stable")]:
        sequence = int(row["definition_sequence"])
        yield Subject(int(row["subject"])), int(row["row_id"]), sequence, decode(text_of(group_at(records, -1, sequence)))


def catalogue_of(records: Any, rows: Any) -> Catalogue:
    """The catalogue that the rows of reference data stand for; arguments as `definitions_of`."""
    catalogue = Catalogue()
    found = list(definitions_of(records, rows))
    for subject, row_id, _, definition in sorted(found, key=lambda row: row[:2]):  # what is named before what names it
        catalogue.apply(subject, row_id, definition, 0)
    for subject, row_id, sequence, definition in found:
        catalogue.apply(subject, row_id, definition, sequence)
    return catalogue
