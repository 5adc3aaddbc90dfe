"""Each bench runs tiny and says what interfaces.md fixes; no figure is judged here, since time on a shared machine proves nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from pks.bench.report import Measured, Promise, report_dict, report_lines, result
from pks.cli.bench import BENCHES, bench
from tests.crash.keep_servers import why_missing

pytestmark = pytest.mark.timeout(600)  # the kernels compile at their first call, on a busy machine for minutes

PROMISED = {
    "hotpath": {
        *("fill_to_slot_p50_ns", "fill_to_slot_p99_ns", "fill_to_slot_over_handovers_ratio", "parked_p50_us", "parked_p99_us"),
        *("producer_fills_per_s", "producer_journaled_fills_per_s", "path_nautilus_ratio_1k", "path_nautilus_ratio_100k"),
    },
    "ring": {"ring_c_ratio"},
    "slot": {"slot_read_c_ratio", "handle_read_p99_ns", "name_read_p50_ns", "snapshot_ns_per_slot"},
    "kernel": {"kernel_c_ratio", "kernel_nautilus_ratio_1k", "kernel_nautilus_ratio_100k"},
    "depth": {f"depth_ratio_{method}" for method in ("fifo", "lifo", "average", "hifo", "specific")},
    "replay": {"replay_events_per_s"},
    "correct": {"correction_visible_ms"},
    "journal": {"reply_over_fdatasync_ms", "journal_jetstream_ratio"},
    "book": {"book_rows_per_s"},
    "nats": set(),
    "timeseries": {"trade_to_questdb_row_ms", "timeseries_rows_per_s"},
    "recover": {"ready_after_kill_s", "worker_pss_mb", "full_book_pss_mb"},
    "postgres": {"trade_to_postgres_row_ms"},
    "rest": {"snapshot_requests_per_s", "booking_durable_p50_ms", "position_get_p99_ms"},
    "edges": {"edges_complete", "fill_to_slot_draining_ratio", "fill_to_slot_away_ratio"},
    "websocket": {"fill_to_client_p50_ms", "fill_to_client_p99_ms", "broadcast_ratio"},
    "grpc": set(),
    "startup": {"startup_s", "startup_servers_s", "idle_core_percent", "idle_pss_mb"},
}
WITH_SERVERS = ("startup", "postgres", "timeseries", "edges", "rest", "grpc")
"""Start whole systems with servers, more than once: outside of `make test`."""

WAITING = ("websocket",)
"""Mostly waits, for tens of seconds."""

TOP = {"bench", "machine", "cores", "wait", "runs", "commit", "promises", "results"}
IN_A_PROMISE = {"promise", "measured", "op", "bound", "ours", "theirs", "peer"}


def test_every_bench_is_tried() -> None:
    assert PROMISED.keys() == BENCHES.keys()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in (*WITH_SERVERS, *WAITING) else ()) for name in sorted(BENCHES)]
)
def test_tiny_run_gives_well_formed_json(name: str, tmp_path: Path) -> None:
    if name == "timeseries" and why_missing("questdb"):
        pytest.skip(why_missing("questdb"))
    done = CliRunner().invoke(bench, [name, "--tiny", "--json", "--folder", str(tmp_path)])
    assert done.exit_code == 0, (done.output, done.exception)
    said = json.loads(done.stdout)
    assert said.keys() >= TOP
    assert said["bench"] == name
    assert {one["promise"] for one in said["promises"]} >= PROMISED[name]
    for one in said["promises"]:
        assert one.keys() >= IN_A_PROMISE
        assert one["op"] in (">=", "<=")
        assert (one["measured"] is None) == bool(one.get("reason")), one
    assert said["results"], "something was measured"
    for one in said["results"]:
        assert one.keys() == {"name", "unit", "p50", "p99", "n"}
        assert one["n"] > 0 and math.isfinite(one["p50"]) and math.isfinite(one["p99"])
    assert not list(tmp_path.iterdir()), "scratch files are gone"


def test_verdicts_and_table() -> None:
    found = Measured(
        promises=[
            Promise("high", ">=", 2.0, 2.0, 4.0, 2.0, "peer"),
            Promise("low", "<=", 2.0, 2.5, 2.5, None, "peer"),
            Promise("absent", ">=", 1.0, reason="no peer here"),
        ],
        results=[result("time", "ns", [3.0, 1.0, 2.0])],
    )
    assert [promise.verdict for promise in found.promises] == ["kept", "missed", "not measured"]
    said = report_dict("x", found)
    assert said["promises"][2]["measured"] is None
    assert said["promises"][2]["reason"] == "no peer here"
    assert said["results"] == [{"name": "time", "unit": "ns", "p50": 2.0, "p99": 3.0, "n": 3}]
    text = "\n".join(report_lines("x", found, 0.0))
    assert "load average" in text
    assert "no peer here" in text
