"""`pks calc`: the engine's pure functions from the shell; JSON in, JSON out, no running system."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from pks.base.errors import PksError, Refused
from pks.cli.group import EXIT_REFUSED

BOM = b"\xef\xbb\xbf"
BLANKS = " \t\r\n"


class BadRequest(PksError):
    """What was given is no request at all; nothing behind it is read."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line, self.reason = line, reason


@click.group()
def calc() -> None:
    """The engine's pure functions: JSON on stdin, JSON on stdout. No running system is needed."""


@calc.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path), default="-")
def lots(file: Path) -> None:
    """Lots, matches and P&L of opening lots and events; FILE or stdin.

    \b
    pks calc lots < request.json
    echo '{"method": "FIFO", "events": [
      {"type": "TRADE", "trade_id": "a", "side": "BUY", "quantity": "10", "price": "1.5"},
      {"type": "TRADE", "trade_id": "b", "side": "SELL", "quantity": "4", "price": "2"}]}' | pks calc lots

    One object, or one a line (NDJSON), or an array; as many answers come back in the same form and order. The words of the request and of
    the answer are in the documentation, "pks calc lots". A refused event is listed under `errors`, and the others go on; the exit code is
    1 if any was refused.
    """
    from pks.engine.lots.calc import calc_lots

    if str(file) == "-" and sys.stdin.isatty():
        click.echo("pks: reading from the terminal; end with Ctrl-D (pks calc lots --help shows a request)", err=True)
    with click.open_file(str(file), "rb") as stream:
        sys.exit(EXIT_REFUSED if answer_all(stream, calc_lots) else 0)


def answer_all(stream: IO[bytes], answer: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Answer every request of the stream on stdout as it comes; whether any had errors."""
    refused, count = False, 0
    for line, value in read_values(stream):
        requests = value if isinstance(value, list) else [value]
        answers = [_answered(request, line, answer) for request in requests]
        refused = refused or any(one.get("errors") for one in answers)
        texts = [json.dumps(one, ensure_ascii=False) for one in answers]
        click.echo(("[" + ",\n ".join(texts) + "]" if isinstance(value, list) else texts[0]).encode("utf-8", "backslashreplace"))
        count += 1
    if not count:
        raise BadRequest(1, "there is no request; one JSON object is wanted, or one a line")
    return refused


def _answered(request: Any, line: int, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(request, dict):
        raise BadRequest(line, f"a request is a JSON object, not {json.dumps(request)[:60]}")
    try:
        return answer(request)
    except Refused as error:
        found = {"trade_id": "", "code": error.code.name, "field": error.field, "value": _shown(error.value), "reason": error.reason}
        return {"id": request.get("id"), "errors": [found]}


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def read_values(stream: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """(line, value) of each JSON value of the stream: one a line is given out at once, others once all is read.

    Numbers with a point come as their own text, so that no digit is lost. Raises BadRequest at what is not JSON, with its line.
    """
    decoder = json.JSONDecoder(parse_float=str, parse_constant=str)
    number = 0
    for number, raw in enumerate(stream, start=1):
        text = _decoded(raw.removeprefix(BOM) if number == 1 else raw, number)
        if not text.strip(BLANKS):
            continue
        try:
            value = decoder.decode(text.strip(BLANKS))
        except json.JSONDecodeError:
            rest = text + _decoded(stream.read(), number + 1)
            yield from _values_of(rest, decoder, number)
            return
        yield number, value


def _values_of(text: str, decoder: json.JSONDecoder, line: int) -> Iterator[tuple[int, Any]]:
    """The values of a text that begins on `line`."""
    place = _skip(text, 0)
    while place < len(text):
        try:
            value, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise BadRequest(line + error.lineno - 1, f"not JSON: {error.msg} (column {error.colno})") from None
        yield line + text.count("\n", 0, place), value
        place = _skip(text, end)


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in BLANKS:
        place += 1
    return place


def _decoded(raw: bytes, line: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(line + raw.count(b"\n", 0, error.start), f"not UTF-8 ({error.reason})") from None
