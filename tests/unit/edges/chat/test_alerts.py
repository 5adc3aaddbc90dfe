"""Alerts: windows, what is kept of them, and what goes out, to a real webhook and a real Postgres."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest

from pks.base.config import AlertClassName, AlertRule, load_config
from pks.edges.chat import keep
from pks.edges.chat.alerts import DEFAULT_RULES, DELIVERY_MOVES, NS_PER_SECOND, Alert, AlertBook, AlertClass, Delivery, rules_of
from pks.edges.chat.keep import AlertFile, put_rows
from pks.edges.chat.send import Channels
from pks.edges.postgres.connection import connect
from tests.crash.keep_servers import Kept, kept, why_missing

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # of apprise's plugins

NOW = 1_790_000_000 * NS_PER_SECOND
MINUTE = 60 * NS_PER_SECOND
RULES = DEFAULT_RULES | {AlertClass.EDGE_DOWN: AlertRule(severity="CRITICAL", channels=("ops", "chat"), window=60)}


class Webhook:
    """A server that remembers what it was sent, and answers with `code`."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.code = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(hook.code)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server.server_port}/hook"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


def an_alert(number: int = 0, **fields: Any) -> Alert:
    alert = Alert(
        alert_class=AlertClass.EDGE_DOWN, severity="CRITICAL", window_start_ns=NOW + number, count=1, text=f"number {number}",
        channels=["ops"], state=Delivery.PENDING,
    )  # fmt: skip
    for name, value in fields.items():
        setattr(alert, name, value)
    return alert


def test_the_classes_are_those_of_the_configuration_and_rules_replace_the_defaults() -> None:
    assert {one.value for one in AlertClass} == set(get_args(AlertClassName))
    config = load_config(None, {}, {"alerts.channels": {"ops": "json://h"}, "alerts.rules": {"edge_lag": {"channels": ["ops"]}}}).config
    rules = rules_of(config.alerts)
    assert rules[AlertClass.EDGE_LAG].channels == ("ops",)
    assert rules[AlertClass.SHADOW_DIFFERENCES].severity == "CRITICAL"
    assert not rules[AlertClass.SHADOW_DIFFERENCES].channels


def test_a_storm_is_one_alert_that_is_told_twice() -> None:
    book = AlertBook(RULES)
    first = book.happened(AlertClass.EDGE_DOWN, "down", NOW)
    assert (first.state, first.count, first.channels) == (Delivery.PENDING, 1, ["ops", "chat"])
    first.enter(Delivery.SENT)
    first.told_count = 1
    for second in range(1, 50):
        assert book.happened(AlertClass.EDGE_DOWN, f"down {second}", NOW + second, 2) is first
    assert first.count == 99 and first.text == "down 49" and first.state is Delivery.SENT
    assert book.due(NOW + MINUTE - 1) == []
    assert book.due(NOW + MINUTE) == [first]
    assert first.state is Delivery.PENDING
    assert book.due(NOW + MINUTE) == []
    another = book.happened(AlertClass.EDGE_DOWN, "again", NOW + MINUTE)
    assert another is not first and another.count == 1


def test_one_event_is_told_once_and_classes_do_not_mix() -> None:
    book = AlertBook(RULES)
    alert = book.happened(AlertClass.EDGE_DOWN, "down", NOW)
    muted = book.happened(AlertClass.REJECTIONS, "refused", NOW)
    assert muted.state is Delivery.MUTED
    alert.enter(Delivery.SENT)
    alert.told_count = 1
    book.happened(AlertClass.REJECTIONS, "refused", NOW + 1)
    assert book.due(NOW + 400 * NS_PER_SECOND) == []
    assert muted.count == 2


def test_a_clock_that_stepped_back_does_not_keep_a_class_silent() -> None:
    book = AlertBook(RULES)
    ahead = book.happened(AlertClass.EDGE_DOWN, "down", NOW + 100 * MINUTE)
    now = book.happened(AlertClass.EDGE_DOWN, "down", NOW)
    assert now is not ahead and now.state is Delivery.PENDING
    assert book.happened(AlertClass.EDGE_DOWN, "still", NOW + 1) is now


def test_the_count_of_a_window_is_that_of_the_open_one() -> None:
    book = AlertBook(RULES)
    assert book.count_of(AlertClass.EDGE_DOWN, NOW) == 0
    book.happened(AlertClass.EDGE_DOWN, "down", NOW, 3)
    book.happened(AlertClass.EDGE_DOWN, "down", NOW + 1, 2)
    assert book.count_of(AlertClass.EDGE_DOWN, NOW + 2) == 5
    assert book.count_of(AlertClass.REJECTIONS, NOW + 2) == 0
    assert book.count_of(AlertClass.EDGE_DOWN, NOW + MINUTE) == 0


def test_another_life_goes_on_with_the_open_window() -> None:
    known = [an_alert(0, state=Delivery.SENT), an_alert(-5 * MINUTE, state=Delivery.SENT)]
    book = AlertBook(RULES, known)
    assert book.happened(AlertClass.EDGE_DOWN, "still", NOW + 1) is known[0]
    assert AlertBook(RULES, known).happened(AlertClass.EDGE_DOWN, "later", NOW + MINUTE) is not known[0]


@pytest.mark.parametrize("before", Delivery)
@pytest.mark.parametrize("after", Delivery)
def test_every_move_is_in_the_table_or_refused(before: Delivery, after: Delivery) -> None:
    alert = an_alert(state=before)
    if after in DELIVERY_MOVES[before]:
        alert.enter(after)
        assert alert.state is after
    else:
        with pytest.raises(AssertionError):
            alert.enter(after)


def test_a_long_text_is_cut() -> None:
    assert len(AlertBook(RULES).happened(AlertClass.EDGE_DOWN, "x" * 10_000, NOW).text) == 500


def test_a_webhook_gets_title_text_and_severity(hook: Webhook) -> None:
    alert = an_alert(count=3)
    Channels({"ops": hook.url}, "demo on host").send(alert, NOW)
    assert (alert.state, alert.sent_ns, alert.told_count, alert.error) == (Delivery.SENT, NOW, 3, "")
    assert [(one["title"], one["message"], one["type"]) for one in hook.got] == [
        ("PKS CRITICAL: edge down (3 times) [demo on host]", "number 0", "failure")
    ]


def test_what_a_channel_does_not_take_is_said_without_its_url(hook: Webhook) -> None:
    hook.code = 500
    alert = an_alert(channels=["ops", "bad", "gone"])
    Channels({"ops": hook.url, "bad": "nonsense://user:hush@h"}, "demo").send(alert, NOW)
    assert alert.state is Delivery.FAILED
    assert alert.error == "ops: did not take it; bad: its URL is of no known kind; gone: no such channel is configured"
    assert len(hook.got) >= 1


def test_the_file_keeps_the_latest_state_of_each(tmp_path: Path) -> None:
    file = AlertFile(tmp_path)
    assert file.read() == []
    one, other = an_alert(1), an_alert(2)
    file.put([one, other])
    one.enter(Delivery.SENT)
    file.put([one])
    with file.path.open("ab") as stream:
        stream.write(b'{"class": "edge_do')  # a disk that was full
    assert AlertFile(tmp_path).read() == [other, one]
    assert AlertFile(tmp_path).read(1) == [other]


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "FILE_BYTES_MAX", 20_000)
    monkeypatch.setattr(keep, "ALERTS_MAX", 20)
    file = AlertFile(tmp_path)
    for number in range(500):
        file.put([an_alert(number)])
        assert file.path.stat().st_size <= 20_000
    found = file.read(10)
    assert [alert.window_start_ns - NOW for alert in found] == list(range(499, 489, -1))


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    if why_missing("postgres"):
        pytest.skip(why_missing("postgres"))
    away = {"edges.nats_url": "nats://127.0.0.1:1", "edges.redis_url": "redis://127.0.0.1:1", "edges.questdb_url": "http://127.0.0.1:1"}
    with kept(tmp_path_factory.mktemp("postgres"), **away) as made:
        made.start("postgres")
        yield made


async def test_rows_are_in_postgres_once_in_their_latest_state(postgres: Kept) -> None:
    import asyncpg

    plain = await asyncpg.connect(postgres.place("postgres").url)
    try:
        assert await put_rows(plain, [an_alert()]) is False, "there are no tables yet"
        connection = await connect(postgres.place("postgres"))
        try:
            alert = an_alert(count=2**40)
            for _ in range(2):
                assert await put_rows(connection, [alert, an_alert(MINUTE)]) is True
            alert.enter(Delivery.FAILED)
            alert.sent_ns, alert.error = NOW + 1_000, "ops: did not take it"
            assert await put_rows(plain, [alert]) is True
            rows = await plain.fetch(
                "select class, severity, extract(epoch from window_start)::bigint, count, text, channels, state, "
                "(extract(epoch from sent_at) * 1000000)::bigint, error from back_office.alert order by window_start"
            )
        finally:
            await connection.close()
    finally:
        await plain.close()
    start = NOW // NS_PER_SECOND
    assert [tuple(row) for row in rows] == [
        ("edge_down", "CRITICAL", start, 2**31 - 1, "number 0", ["ops"], "FAILED", NOW // 1000 + 1, "ops: did not take it"),
        ("edge_down", "CRITICAL", start + 60, 1, f"number {MINUTE}", ["ops"], "PENDING", None, None),
    ]
