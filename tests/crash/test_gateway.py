"""REST of a whole system: people log in, book, read and correct; what a user may not see does not exist for him."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow as pa
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import wait_until
from tests.crash.gateway import Gateway, a_gateway, a_trade, told
from tests.crash.keep_servers import why_missing
from tests.crash.system import SECONDS

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_missing("postgres")), reason=why_missing("postgres") or "it is there"),
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    limits = {"gateway.four_eyes": json.dumps({"RUB": "1000000"})}
    with a_gateway(tmp_path_factory.mktemp("gateway"), "gateway", **limits) as made:
        yield made


@pytest.fixture(scope="module")
def ann(gateway: Gateway) -> httpx.Client:
    return gateway.client("ann")


@pytest.fixture(scope="module")
def bob(gateway: Gateway) -> httpx.Client:
    return gateway.client("bob")


@pytest.fixture(scope="module")
def root(gateway: Gateway) -> httpx.Client:
    return gateway.client("root")


def test_those_who_watch_need_no_user(gateway: Gateway) -> None:
    anybody = gateway.client()
    health = anybody.get("/health")
    assert (health.status_code, health.json()["state"]) == (200, "live")
    metrics = anybody.get("/metrics").text
    assert 'pks_worker_ready{worker="capture"} 1.0' in metrics
    assert anybody.get("/docs").text.startswith("<!doctype html>")
    assert "http" not in anybody.get("/docs").text.replace(gateway.endpoints["rest"], ""), "nothing comes from elsewhere"


def test_nobody_else_is_let_in(gateway: Gateway) -> None:
    anybody = gateway.client()
    document = anybody.get("/docs/openapi.json").json()
    for path, item in document["paths"].items():
        for method in item.keys() & {"get", "post", "patch", "delete"}:
            if path.startswith("/api/"):
                for headers in ({}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic YTpi"}):
                    answer = anybody.request(method, re.sub(r"{.*?}", "1", path), headers=headers)
                    assert answer.status_code == 401, (method, path)
                    assert told(answer)["code"] == "NOT_AUTHENTICATED"
                    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_trade_is_booked_once(ann: httpx.Client) -> None:
    body = a_trade("G-1", fee="1.5", fee_currency="RUB")
    first = ann.post("/api/v1/trades/book", json=body, headers={"Idempotency-Key": "key-1"})
    assert first.status_code == 201, first.text
    again = ann.post("/api/v1/trades/book", json=body, headers={"Idempotency-Key": "key-1"})
    by_body = ann.post("/api/v1/trades/book", json=body | {"idempotency_hash": "key-1"})
    bare = ann.post("/api/v1/trades/book", json=body)
    for repeat in (again, by_body, bare):
        assert (repeat.status_code, repeat.json()["sequence"]) == (200, first.json()["sequence"]), repeat.text
    other_id = ann.post("/api/v1/trades/book", json=a_trade("G-other", quantity="11"), headers={"Idempotency-Key": "key-1"})
    other_content = ann.post("/api/v1/trades/book", json=body | {"quantity": "11"})
    for conflict in (other_id, other_content):
        assert (conflict.status_code, told(conflict)["code"]) == (409, "IDEMPOTENCY_CONFLICT"), conflict.text
    two_keys = ann.post("/api/v1/trades/book", json=body | {"idempotency_hash": "b"}, headers={"Idempotency-Key": "a"})
    assert (two_keys.status_code, told(two_keys)["code"]) == (400, "IDEMPOTENCY_KEYS_DIFFER")


def test_a_key_is_its_users_own(ann: httpx.Client, root: httpx.Client) -> None:
    mine = ann.post("/api/v1/trades/book", json=a_trade("G-2"), headers={"Idempotency-Key": "same"})
    theirs = root.post("/api/v1/trades/book", json=a_trade("G-3"), headers={"Idempotency-Key": "same"})
    assert (mine.status_code, theirs.status_code) == (201, 201), theirs.text


BAD = {
    "no number": (a_trade("B-1", quantity="ten"), 422, "NOT_A_NUMBER", "quantity"),
    "not a number": (a_trade("B-2", quantity="NaN"), 422, "NOT_A_NUMBER", "quantity"),
    "a JSON number": (a_trade("B-3", quantity=10.1), 422, "NOT_A_NUMBER", "quantity"),
    "huge": (a_trade("B-4", quantity="9" * 40), 422, "OUT_OF_RANGE", "quantity"),
    "negative": (a_trade("B-5", quantity="-1"), 422, "NOT_POSITIVE", "quantity"),
    "over precise": (a_trade("B-6", price="1.00000000001"), 422, "OVER_PRECISE", "price"),
    "no instrument": (a_trade("B-7", instrument="NOPE"), 422, "UNKNOWN_INSTRUMENT", "instrument"),
    "no side": (a_trade("B-8", side="HOLD"), 422, "WRONG_SIDE", "side"),
    "no id": (a_trade(""), 422, "MISSING_FIELD", "trade_id"),
    "no time": (a_trade("B-9", trade_time=""), 422, "MISSING_FIELD", "trade_time"),
    "a time that is none": (a_trade("B-10", trade_time="yesterday"), 422, "BAD_TIME", "trade_time"),
    "a book that is not there": (a_trade("B-11", book="NOWHERE"), 422, "UNKNOWN_BOOK", "book"),
    "a book of others": (a_trade("B-12", book="CR-PERP"), 422, "UNKNOWN_BOOK", "book"),
    "control characters": (a_trade("B-13", note="a\x00b"), 422, "BAD_TEXT", "note"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_booked_is_told_by_field(ann: httpx.Client, name: str) -> None:
    body, status, code, field = BAD[name]
    answer = ann.post("/api/v1/trades/book", json=body)
    problem = told(answer)
    assert (answer.status_code, problem["code"], problem["field"]) == (status, code, field), problem


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"a": 1' * 2000, b"[" * 100_000, b'{"trade_id": 1e999}']
)
def test_what_is_no_trade_is_told(ann: httpx.Client, body: bytes) -> None:
    answer = ann.post("/api/v1/trades/book", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    told(answer)


def test_a_body_is_no_longer_than_allowed(ann: httpx.Client) -> None:
    answer = ann.post("/api/v1/batch/trades", content=b" " * (17 << 20), headers={"Content-Type": "text/csv"})
    assert (answer.status_code, told(answer)["code"]) == (413, "TOO_LARGE")


def test_a_batch_is_answered_row_by_row(ann: httpx.Client) -> None:
    rows = [a_trade("C-1"), a_trade("C-2", quantity="x"), a_trade("C-3", book="CR-PERP"), a_trade("C-1")]
    said = ann.post("/api/v1/batch/trades", json=rows)
    assert said.status_code == 200, said.text
    answers = said.json()
    assert [one["status"] for one in answers] == ["ACCEPTED", "REFUSED", "REFUSED", "DUPLICATE"]
    assert [one["code"] for one in answers] == ["", "NOT_A_NUMBER", "UNKNOWN_BOOK", ""]
    assert list(answers[0]) == ["line", "trade_id", "status", "sequence", "code", "field", "value", "reason"]
    text = "trade_id,book,instrument,side,quantity,price,trade_time\nC-4,RU-EQ,SBER.MOEX,SELL,1,301,2026-11-02T10:01:00Z\n"
    as_csv = ann.post("/api/v1/batch/trades", content=text, headers={"Content-Type": "text/csv"})
    assert [one["status"] for one in as_csv.json()] == ["ACCEPTED"], as_csv.text
    assert ann.post("/api/v1/batch/trades", content=b"", headers={"Content-Type": "image/png"}).status_code == 415


def test_children_of_a_block_are_booked_together_in_a_batch(ann: httpx.Client, root: httpx.Client) -> None:
    filler = [a_trade(f"Y-{n}", quantity="1") for n in range(511)]
    block = a_trade("BLK-1", source="BLOCK", quantity="10")
    del block["book"]
    children = [{"trade_id": f"CH-{n}", "parent_id": "BLK-1", "book": "RU-EQ", "quantity": "5"} for n in (1, 2)]
    said = root.post("/api/v1/batch/trades", json=[block, *filler[:-1], *children]).json()
    assert {one["status"] for one in said} == {"ACCEPTED"}, [one for one in said if one["status"] != "ACCEPTED"]
    assert len(said) == 513
    newest: list[dict[str, Any]] = []

    def noted() -> bool:
        newest[:] = root.get("/api/v1/batch/trades", params={"limit": 1}).json()["items"]
        return bool(newest) and newest[0]["rows"] == 513

    wait_until(noted, SECONDS, "the batch is in the audit")
    assert (newest[0]["actor"], newest[0]["accepted"]) == ("root", 513)
    assert all(one["actor"] == "ann" for one in ann.get("/api/v1/batch/trades").json()["items"])


def test_a_correction_is_repeated_under_its_key(ann: httpx.Client) -> None:
    ann.post("/api/v1/trades/book", json=a_trade("Z-1", quantity="2"))
    first = ann.patch("/api/v1/trades/Z-1/amend", json={"quantity": "3"}, headers={"Idempotency-Key": "amend-1"})
    again = ann.patch("/api/v1/trades/Z-1/amend", json={"quantity": "3"}, headers={"Idempotency-Key": "amend-1"})
    other = ann.patch("/api/v1/trades/Z-1/amend", json={"quantity": "4"}, headers={"Idempotency-Key": "amend-1"})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409), (first.text, again.text, other.text)
    assert again.json()["sequence"] == first.json()["sequence"]


def test_positions_are_what_was_booked(ann: httpx.Client) -> None:
    ann.post("/api/v1/trades/book", json=a_trade("P-1", instrument="GAZP.MOEX", quantity="30", price="120.5"))
    one = ann.get("/api/v1/positions/RU-EQ/GAZP.MOEX")
    assert one.status_code == 200, one.text
    assert one.headers["pks-state"] == "live"
    listed = ann.get("/api/v1/positions", params={"book": "RU-EQ", "instrument": "GAZP.MOEX"}).json()
    assert listed == {"items": [one.json()], "next": None}
    assert ann.get("/api/v1/positions/RU-EQ/GAZP").json() == one.json(), "by any of its names"


def test_an_answer_that_did_not_change_is_spared(ann: httpx.Client) -> None:
    first = ann.get("/api/v1/positions")
    tag = first.headers["etag"]
    assert ann.get("/api/v1/positions", headers={"If-None-Match": tag}).status_code == 304
    ann.post("/api/v1/trades/book", json=a_trade("E-1"))
    fresh = ann.get("/api/v1/positions", headers={"If-None-Match": tag})
    assert fresh.status_code == 200
    assert fresh.headers["etag"] != tag


def test_pages_have_every_row_once(root: httpx.Client) -> None:
    whole = root.get("/api/v1/positions", params={"all": True, "sort": "-quantity"}).json()["items"]
    quantities = [float(row["quantity"]) for row in whole]
    assert quantities == sorted(quantities, reverse=True)
    seen, after = [], None
    while True:
        page = root.get("/api/v1/positions", params={"all": True, "sort": "-quantity", "limit": 3, **({"after": after} if after else {})})
        seen += page.json()["items"]
        after = page.json()["next"]
        if after is None:
            break
    assert seen == whole
    for wrong in ({"sort": "nothing"}, {"after": "x"}, {"after": "!" * 3000}, {"limit": 0}, {"limit": "many"}):
        assert root.get("/api/v1/positions", params=wrong).status_code == 400, wrong


def test_positions_as_csv_and_arrow(ann: httpx.Client) -> None:
    listed = ann.get("/api/v1/positions").json()["items"]
    rows = list(csv.DictReader(io.StringIO(ann.get("/api/v1/positions", headers={"Accept": "text/csv"}).text)))
    assert [(row["book"], row["instrument"], row["quantity"]) for row in rows] == [
        (row["book"], row["instrument"], row["quantity"]) for row in listed
    ]
    arrow = ann.get("/api/v1/positions", headers={"Accept": "application/vnd.apache.arrow.stream"}).content
    assert pa.ipc.open_stream(arrow).read_all().num_rows == len(listed)
    assert ann.get("/api/v1/positions", headers={"Accept": "image/png"}).status_code == 406


def test_what_a_user_may_not_see_is_not_there(ann: httpx.Client, bob: httpx.Client, root: httpx.Client) -> None:
    every = {row["book"] for row in root.get("/api/v1/positions", params={"all": True}).json()["items"]}
    assert every > {"RU-EQ"}
    assert {row["book"] for row in bob.get("/api/v1/positions", params={"all": True}).json()["items"]} == {"RU-EQ"}
    assert [row["code"] for row in bob.get("/api/v1/ref/books").json()["items"]] == ["RU-EQ"]
    hidden, absent = (bob.get("/api/v1/positions", params={"book": book}) for book in ("CR-PERP", "CR-PERQ"))
    assert hidden.status_code == absent.status_code == 404
    assert told(hidden) | {"value": ""} == told(absent) | {"value": ""}
    for path in ("/api/v1/positions/{}/SBER.MOEX", "/api/v1/ref/books/{}"):
        hidden, absent = (bob.get(path.format(book)) for book in ("CR-PERP", "CR-PERQ"))
        assert hidden.status_code == absent.status_code == 404
        assert told(hidden) | {"value": ""} == told(absent) | {"value": ""}
    assert told(bob.post("/api/v1/trades/book", json=a_trade("V-1")))["code"] == "FORBIDDEN"
    for path in ("/api/v1/admin/workers", "/api/v1/admin/alerts", "/api/v1/admin/dlq"):
        assert ann.get(path).status_code == 403
        assert root.get(path).status_code == 200, root.get(path).text


def test_reference_data_is_defined_and_changed(ann: httpx.Client, root: httpx.Client) -> None:
    body = {"code": "NEW.XETR", "asset_class": "EQUITY", "symbol": "NEW", "currency": "EUR"}
    assert ann.post("/api/v1/ref/instruments", json=body).status_code == 403
    made = root.post("/api/v1/ref/instruments", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["price_scale"] >= 2
    assert root.post("/api/v1/ref/instruments", json=body).status_code == 409
    changed = root.patch("/api/v1/ref/instruments/NEW.XETR", json={"name": "New one"})
    assert (changed.status_code, changed.json()["name"]) == (200, "New one"), changed.text
    assert root.get("/api/v1/ref/instruments/NEW.XETR").json() == changed.json()
    assert root.patch("/api/v1/ref/instruments/NEW.XETR", json={"code": "OTHER"}).status_code == 422
    assert root.post("/api/v1/ref/instruments", json=body | {"code": "X", "price_scale": "many"}).status_code == 422
    assert root.post("/api/v1/ref/nothing", json={}).status_code == 404
    booked = ann.post("/api/v1/trades/book", json=a_trade("R-1", instrument="NEW.XETR"))
    assert booked.status_code == 201, booked.text


def test_a_second_person_decides_above_the_limit(gateway: Gateway, ann: httpx.Client, bob: httpx.Client, root: httpx.Client) -> None:
    cat = gateway.client("cat")
    body = a_trade("F-1", quantity="10000", price="300")
    waits = ann.post("/api/v1/trades/book", json=body)
    assert (waits.status_code, waits.json()["status"]) == (202, "WAITING"), waits.text
    number = waits.json()["approval"]
    assert ann.post("/api/v1/trades/book", json=body).json()["approval"] == number, "a repeat waits under the same number"
    queue = bob.get("/api/v1/approvals").json()["items"]
    assert [(one["id"], one["actor"], one["currency"]) for one in queue] == [(number, "ann", "RUB")]
    assert bob.post(f"/api/v1/approvals/{number}/approve").status_code == 403
    assert ann.post(f"/api/v1/approvals/{number}/approve").status_code == 403
    before = ann.get("/api/v1/positions/RU-EQ/SBER.MOEX").json()["quantity"]
    done = cat.post(f"/api/v1/approvals/{number}/approve")
    assert done.status_code == 201, done.text
    assert ann.get("/api/v1/positions/RU-EQ/SBER.MOEX").json()["quantity"] == str(int(before) + 10000)
    repeat = ann.post("/api/v1/trades/book", json=body)
    assert (repeat.status_code, repeat.json()["sequence"]) == (200, done.json()["sequence"])
    assert cat.post(f"/api/v1/approvals/{number}/approve").status_code == 409
    assert cat.post(f"/api/v1/approvals/{2**63}/approve").status_code == 404, "no row of the database has such a number"
    assert cat.get(f"/api/v1/approvals?after={2**63}").status_code == 400
    other = ann.post("/api/v1/trades/book", json=a_trade("F-2", quantity="10001", price="300")).json()["approval"]
    assert cat.post(f"/api/v1/approvals/{other}/reject", json={"reason": "too much"}).status_code == 200
    refused = ann.post("/api/v1/trades/book", json=a_trade("F-2", quantity="10001", price="300"))
    assert (refused.status_code, told(refused)["detail"]) == (422, "too much")
    own = root.post("/api/v1/trades/book", json=a_trade("F-3", quantity="10000", price="300")).json()["approval"]
    assert root.post(f"/api/v1/approvals/{own}/approve").status_code == 403, "nobody decides his own"


def test_every_command_is_in_the_audit(gateway: Gateway, ann: httpx.Client) -> None:
    ann.post("/api/v1/trades/book", json=a_trade("A-1"))
    ann.post("/api/v1/trades/book", json=a_trade("A-2", quantity="none"))
    rows: list[dict[str, object]] = []

    def there() -> bool:
        rows[:] = gateway.ask(
            "select actor, action, subject, outcome, code, detail from auth.audit where subject in ('A-1', 'A-2') order by id"
        )
        return len(rows) == 2

    wait_until(there, SECONDS, "both rows")
    assert [(row["actor"], row["action"], row["outcome"], row["code"]) for row in rows] == [
        ("ann", "BOOK", "OK", ""), ("ann", "BOOK", "REFUSED", "NOT_A_NUMBER"),
    ]  # fmt: skip
    assert json.loads(str(rows[0]["detail"]))["status"] == "ACCEPTED"


def test_the_gateway_is_killed_and_comes_back_where_it_was(gateway: Gateway, ann: httpx.Client) -> None:
    where = gateway.endpoints["rest"]
    gateway.system.kill("bff")
    wait_until(lambda: _answers(where), SECONDS, "it answers again")
    assert gateway.endpoints["rest"] == where
    assert ann.get("/api/v1/positions").status_code == 200, "the token is still good"


def _answers(where: str) -> bool:
    try:
        return httpx.get(f"{where}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_trades_and_lots_are_read_back(ann: httpx.Client, bob: httpx.Client, root: httpx.Client) -> None:
    ann.post(
        "/api/v1/trades/book", json=a_trade("T-1", instrument="LKOH.MOEX", quantity="5", price="7000", trade_time="2026-11-02T10:00:00Z")
    )
    sold = ann.post(
        "/api/v1/trades/book",
        json=a_trade("T-2", instrument="LKOH.MOEX", side="SELL", quantity="2", price="7100", trade_time="2026-11-02T11:00:00Z"),
    ).json()["sequence"]
    listed = ann.get("/api/v1/trades", params={"instrument": "LKOH", "trade_id": ["T-1", "T-2"]}).json()
    assert [(row["trade_id"], row["state"], row["quantity"]) for row in listed["items"]] == [("T-1", "BOOKED", "5"), ("T-2", "BOOKED", "2")]
    one = ann.get("/api/v1/trades/T-2").json()["items"]
    assert [row["sequence"] for row in one] == [sold]
    assert one[0]["matches"], "what it closed"
    lots = ann.get("/api/v1/positions/RU-EQ/LKOH.MOEX/lots").json()["items"]
    history = ann.get("/api/v1/positions/RU-EQ/LKOH.MOEX/history").json()["items"]
    now = ann.get("/api/v1/positions/RU-EQ/LKOH.MOEX").json()
    assert sum(int(lot["quantity"]) for lot in lots) == int(now["quantity"])
    assert [row["trade_id"] for row in history][-2:] == ["T-1", "T-2"]
    before = ann.get("/api/v1/positions", params={"instrument": "LKOH", "book": "RU-EQ", "known_at": sold - 1}).json()["items"]
    assert int(before[0]["quantity"]) == int(now["quantity"]) + 2
    earlier = ann.get("/api/v1/positions", params={"instrument": "LKOH", "book": "RU-EQ", "as_of": "2026-11-02T10:30:00Z"}).json()["items"]
    assert int(earlier[0]["quantity"]) == int(now["quantity"]) + 2
    assert ann.get("/api/v1/positions", params={"known_at": 10**9}).status_code == 422
    assert ann.get("/api/v1/positions", params={"as_of": "never"}).status_code == 400
    for path in ("/api/v1/positions/CR-PERP/LKOH.MOEX/lots", "/api/v1/positions/CR-PERP/LKOH.MOEX/history", "/api/v1/trades/none"):
        assert bob.get(path).status_code == 404, path
    pages, after = [], None
    while True:
        page = root.get("/api/v1/trades", params={"limit": 7, **({"after": after} if after else {})}).json()
        pages += page["items"]
        after = page["next"]
        if after is None:
            break
    sequences = [row["sequence"] for row in pages]
    assert sequences == sorted(set(sequences))
    assert {row["book"] for row in bob.get("/api/v1/trades").json()["items"]} <= {"RU-EQ", None}


def test_corrections_find_only_what_the_user_sees(ann: httpx.Client, root: httpx.Client) -> None:
    other = a_trade("K-1", book="CR-PERP", instrument="SBER.MOEX", quantity="3")
    assert root.post("/api/v1/trades/book", json=other).status_code == 201
    hidden, absent = (ann.post(f"/api/v1/trades/{name}/cancel") for name in ("K-1", "K-0"))
    assert hidden.status_code == absent.status_code == 422
    assert told(hidden) | {"value": ""} == told(absent) | {"value": ""}
    ann.post("/api/v1/trades/book", json=a_trade("K-2", quantity="4"))
    amended = ann.post("/api/v1/trades/K-2/amend", json={"quantity": "6"})
    assert amended.status_code == 201, amended.text
    assert ann.get("/api/v1/trades/K-2").json()["items"][0]["quantity"] == "6"
    moved = ann.post("/api/v1/trades/K-2/amend", json={"book": "CR-PERP"})
    assert told(moved)["code"] == "UNKNOWN_BOOK"
    assert ann.post("/api/v1/trades/K-2/cancel", json={"trade_id": "K-9"}).status_code == 400
    assert ann.post("/api/v1/trades/K-2/cancel").status_code == 201
    again = ann.post("/api/v1/trades/K-2/cancel")
    assert told(again)["code"] == "ALREADY_CANCELLED"


def test_what_if_books_nothing(ann: httpx.Client) -> None:
    before = ann.get("/api/v1/positions/RU-EQ/SBER.MOEX")
    answer = ann.post("/api/v1/whatif", json={"trades": [a_trade("W-1", quantity="7")], "marks": {"SBER.MOEX": "310"}})
    assert answer.status_code == 200, answer.text
    imagined = answer.json()
    assert imagined["outcomes"][0]["status"] == "ACCEPTED"
    assert int(imagined["after"][0]["quantity"]) == int(before.json()["quantity"]) + 7
    assert ann.get("/api/v1/positions/RU-EQ/SBER.MOEX").json() == before.json()
    hidden = ann.post("/api/v1/whatif", json={"trades": [a_trade("W-2", book="CR-PERP")]}).json()["outcomes"][0]
    assert (hidden["status"], hidden["code"]) == ("REFUSED", "UNKNOWN_BOOK")
    bodies: list[dict[str, Any]] = [
        {},
        {"trades": {}},
        {"trades": [1]},
        {"trades": [], "marks": {"a": 1}},
        {"trades": [a_trade("W-3", quantity=1.5)]},
    ]
    for wrong in bodies:
        assert ann.post("/api/v1/whatif", json=wrong).status_code in (400, 422), wrong


def test_a_booking_is_seen_in_streams(gateway: Gateway, ann: httpx.Client) -> None:
    import pks

    token = gateway.token("bob")
    with connect(f"{gateway.endpoints['websocket']}?token={token}") as socket:
        socket.send(json.dumps({"subscribe": ["positions", "trades"]}))
        with pks.connect(gateway.endpoints["grpc"], token=token, ca=gateway.endpoints["grpc_ca"]) as host:
            assert host.positions["RU-EQ", "SBER.MOEX"].as_dict() == ann.get("/api/v1/positions/RU-EQ/SBER.MOEX").json()
            booked = ann.post("/api/v1/trades/book", json=a_trade("S-1", quantity="13")).json()["sequence"]
            seen: dict[str, Any] = {}
            numbers = []
            while not {"positions", "trades"} <= seen.keys():
                message = json.loads(socket.recv(timeout=SECONDS))
                numbers.append(message["seq"])
                for item in message["data"] if message["type"] in ("positions", "trades") else ():
                    assert item.get("book") == "RU-EQ", "bob sees no other"
                    if item.get("last_sequence", item.get("sequence")) == booked:
                        seen[message["type"]] = item
            assert numbers == list(range(1, len(numbers) + 1)), "no gap"
            assert seen["trades"]["trade_id"] == "S-1"
            wait_until(lambda: host.positions["RU-EQ", "SBER.MOEX"].last_sequence >= booked, SECONDS, "gRPC has it")
            gateway.users.pks("user", "disable", "bob")
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    socket.recv(timeout=SECONDS)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401
    gateway.users.pks("user", "change", "bob", "--enable")


def test_workers_of_the_gateway_compile_nothing_themselves(gateway: Gateway) -> None:
    assert [kernel for kernel in gateway.system.late_kernels() if kernel.startswith(("bff", "past"))] == []
