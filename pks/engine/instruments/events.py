"""Definitions as REFDATA events: the group that books one, and taking a sequenced one into a catalogue."""

from __future__ import annotations

from typing import Any

import numpy as np

from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import AnyDefinition, decode, encode, subject_of
from pks.layouts.codes import Kind, Subject
from pks.layouts.detail import text_of, with_text
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
