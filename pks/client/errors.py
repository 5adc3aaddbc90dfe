"""What a reader can get wrong, beside what `segments.errors` says of the system itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pks.base.errors import Fatal, PksError

SUGGESTIONS_MAX = 3
"""Names that are offered for one that is not known."""


class UnknownName(PksError, KeyError):
    """No book, instrument or account has this name; a KeyError, so that look-ups read as with a dict."""

    def __init__(self, what: str, name: object, known: Iterable[str] = ()) -> None:
        near = difflib.get_close_matches(str(name), list(known), SUGGESTIONS_MAX)
        super().__init__(f"no {what} {name!r}" + (f"; is it {' or '.join(near)}?" if near else ""))
        self.what, self.name, self.near = what, name, near

    def __str__(self) -> str:
        return str(self.args[0])


class AmbiguousName(UnknownName):
    """Several instruments have this symbol or number; one of the codes is to be given."""

    def __init__(self, what: str, name: str, codes: list[str]) -> None:
        super().__init__(what, name)
        self.args = (f"{what} {name!r} is one of {', '.join(sorted(codes))}: give the code",)
        self.codes = codes


class NoPosition(UnknownName):
    """Book and instrument are known, but nothing was ever booked there."""

    def __init__(self, book: str, instrument: str) -> None:
        super().__init__("position", (book, instrument))
        self.args = (f"book {book} never had a position in {instrument}",)
        self.book, self.instrument = book, instrument


class NotInThisBuild(Fatal):
    """The segment is part of the design, and of no system of this version."""

    def __init__(self, what: str, segment: str) -> None:
        super().__init__(f"{what} are not published: this version of PKS has no segment {segment} yet")
        self.what, self.segment = what, segment
