"""What can be wrong with a definition of reference data, one class per mistake.

Owns the classes; all are `Refused`: the definition changes nothing and the next one is read. Any room above may catch them.
"""

from __future__ import annotations

from collections.abc import Sequence

from pks.base.errors import Code, Refused


class BadDefinition(Refused):
    """A field of a definition is missing, malformed or out of its bounds."""


class UnknownReference(Refused):
    """A definition names another one that does not exist."""


class FixedField(Refused):
    """A change of a field that positions were built on, and that therefore stays as it is."""

    def __init__(self, code: str, field: str, old: object, new: object, why: str) -> None:
        super().__init__(Code.INVALID_TRANSITION, field, new, f"{code} has {old!r} since its first definition: {why}")
        self.definition, self.old, self.new = code, old, new


class IdTaken(Refused):
    """A row id or a code is in use by another definition; ids are given once and never reused."""


class AmbiguousInstrument(Refused):
    """A symbol or identifier fits more than one instrument. `candidates` are their codes."""

    def __init__(self, text: str, kind: str, candidates: Sequence[str]) -> None:
        listed = ", ".join(candidates)
        super().__init__(Code.UNKNOWN_INSTRUMENT, "instrument", text, f"the {kind} fits {listed}: give the instrument id")
        self.candidates = tuple(candidates)
