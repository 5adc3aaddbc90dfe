"""`pks calc lots`: JSON in, JSON out, in the form and order in which it came; what is no JSON is named by its line."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.conftest import Run, json_of

pytestmark = pytest.mark.timeout(600)  # the kernels compile at their first call, on a busy machine for minutes

BUY = {"type": "TRADE", "trade_id": "a", "side": "BUY", "quantity": "10", "price": "1.5", "time": "2025-03-14T10:00:00Z"}
SELL = {"type": "TRADE", "trade_id": "b", "side": "SELL", "quantity": "4", "price": "2.25", "time": "2025-03-15T10:00:00Z"}
REQUEST = {"id": "one", "method": "FIFO", "events": [BUY, SELL]}
OVERSOLD = {"id": "two", "method": "FIFO", "oversell": "reject", "events": [SELL]}


def test_one_object(pks_run: Run) -> None:
    answer = json_of(pks_run(None, "calc", "lots", stdin=json.dumps(REQUEST)))
    assert (answer["id"], answer["quantity"], answer["realised_gross"], answer["cost"]) == ("one", "6", "3", "9")
    assert answer["lots"] == [{"lot_id": "a", "date": "2025-03-14", "quantity": "6", "price": "1.5", "cost": "9"}]
    assert [match["close_trade_id"] for match in answer["matches"]] == ["b"]
    assert answer["errors"] == []


@pytest.mark.parametrize("text", [json.dumps(REQUEST, indent=2), "\ufeff" + json.dumps(REQUEST), "\n\n " + json.dumps(REQUEST) + "\n\n"])
def test_one_object_in_any_shape(pks_run: Run, text: str) -> None:
    result = pks_run(None, "calc", "lots", stdin=text)
    assert json_of(result)["quantity"] == "6"
    assert result.stdout.count("\n") == 1


def test_a_request_a_line(pks_run: Run) -> None:
    result = pks_run(None, "calc", "lots", stdin=json.dumps(REQUEST) + "\n\n" + json.dumps(REQUEST | {"id": 2}))
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["one", 2]
    assert result.exit_code == 0


def test_array_gives_array(pks_run: Run) -> None:
    answers = json_of(pks_run(None, "calc", "lots", stdin=json.dumps([REQUEST, REQUEST | {"id": "x"}])))
    assert [answer["id"] for answer in answers] == ["one", "x"]
    assert json_of(pks_run(None, "calc", "lots", stdin="[]")) == []


def test_refused_event_is_listed_and_the_others_go_on(pks_run: Run) -> None:
    result = pks_run(None, "calc", "lots", stdin=json.dumps([OVERSOLD, REQUEST]))
    assert result.exit_code == 1
    refused, good = json.loads(result.stdout)
    assert [(error["trade_id"], error["code"]) for error in refused["errors"]] == [("b", "OVERSELL")]
    assert good["quantity"] == "6"


def test_request_that_cannot_be_read_is_answered_in_its_place(pks_run: Run) -> None:
    result = pks_run(None, "calc", "lots", stdin=json.dumps(REQUEST | {"method": "MAGIC"}) + "\n" + json.dumps(REQUEST))
    first, second = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 1
    assert first["id"] == "one"
    assert (first["errors"][0]["code"], first["errors"][0]["field"], first["errors"][0]["value"]) == ("METHOD_UNKNOWN", "method", "MAGIC")
    assert second["errors"] == []


def test_numbers_keep_their_digits(pks_run: Run) -> None:
    text = json.dumps(REQUEST).replace('"1.5"', "1.10000000000000001").replace('"10"', "10")
    answer = json_of(pks_run(None, "calc", "lots", stdin=text))
    assert answer["average_price"] == "1.10000000000000001"


def test_nan_is_no_number(pks_run: Run) -> None:
    result = pks_run(None, "calc", "lots", stdin=json.dumps(REQUEST).replace('"1.5"', "NaN"))
    assert result.exit_code == 1
    errors = json.loads(result.stdout)["errors"]
    assert [(error["code"], error["field"], error["value"]) for error in errors] == [("NOT_A_NUMBER", "price", "NaN")]


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (b"", "line 1: there is no request"),
        (b" \n \n", "line 1: there is no request"),
        (b'{"method": FIFO}', "line 1: not JSON: Expecting value (column 12)"),
        (json.dumps(REQUEST).encode() + b"\n{oops}\n", "line 2: not JSON"),
        (b'{\n "method": "FIFO",\n "events": [}\n', "line 3: not JSON"),
        (b'{"id": "\xff"}', "line 1: not UTF-8"),
        (json.dumps(REQUEST).encode() + b"\n{\n\xff", "line 3: not UTF-8"),
        (b"5", "line 1: a request is a JSON object, not 5"),
        (b'[{}, "x"]', 'line 1: a request is a JSON object, not "x"'),
    ],
)
def test_what_is_no_request_is_one_line(pks_run: Run, stdin: bytes, said: str) -> None:
    result = pks_run(None, "calc", "lots", stdin=stdin)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"pks: {said}")
    assert result.stderr.count("\n") == 1
