"""Parameters that several commands share: times as people write them, and names completed in the shell.

Owns their reading. Light, since the shell asks it at every Tab: a system that runs is asked for its names, a journal never.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pks.base.clock import NS_PER_DAY, parse_date, parse_time
from pks.base.errors import PksError, Refused
from pks.cli.group import quiet_config
from pks.layouts.codes import Subject
from pks.running import find_running

DATE_CHARACTERS = len("2025-03-14")


class TimeParameter(click.ParamType[int]):
    """RFC 3339, or a date for its first (`end`: last) nanosecond in UTC; nanoseconds since 1970."""

    name = "time"

    def __init__(self, end: bool) -> None:
        self.end = end

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Nanoseconds of the text."""
        if isinstance(value, int):
            return value
        try:
            if len(value) == DATE_CHARACTERS:
                return (parse_date(value, "date") + self.end) * NS_PER_DAY - self.end
            return parse_time(value, "time")
        except Refused as error:
            self.fail(f"{value!r}: {error.reason}", param, ctx)


START, END = TimeParameter(end=False), TimeParameter(end=True)

SEQUENCE = click.IntRange(min=0)
"""Number of an event; 0 is before the first one."""


def complete_books(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Books of the running system for the shell."""
    return _complete(ctx, Subject.BOOK, incomplete)


def complete_instruments(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Instruments of the running system for the shell."""
    return _complete(ctx, Subject.INSTRUMENT, incomplete)


def complete_accounts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Accounts of the running system for the shell."""
    return _complete(ctx, Subject.ACCOUNT, incomplete)


def _complete(ctx: click.Context, subject: Subject, incomplete: str) -> list[str]:
    """Codes that begin so; none where no system runs, since a journal is too long to be read while somebody types."""
    from pks.client import attach

    given = ctx.params
    try:
        settings = quiet_config(given.get("config"), given.get("data_dir"), given.get("instance"))
        with attach(find_running(Path(settings.data_dir)).instance) as host:
            return sorted(code for code in host.names.codes(subject) if code.startswith(incomplete))
    except PksError:
        return []
