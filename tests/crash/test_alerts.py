"""Alerts of a whole system: an edge that is down, refused trades and a full disk are told once, kept and shown, whoever is killed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from pks.base.errors import Code
from pks.layouts.codes import Kind
from pks.layouts.event import EVENT
from tests.conftest import wait_until
from tests.crash.system import COMPILE_SECONDS, ROOT, SECONDS, Feeder, System, a_system

pytestmark = pytest.mark.timeout(900)

GOT: list[dict[str, Any]] = []


class Hook(BaseHTTPRequestHandler):
    """Remembers what it is sent."""

    def do_POST(self) -> None:
        GOT.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Quiet."""


@pytest.fixture
def hook() -> Iterator[str]:
    GOT.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"json://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def system(tmp_path: Path, hook: str) -> Iterator[System]:
    rules = {name: {"channels": ["ops"], "window": 3600} for name in ("edge_down", "rejections", "disk_space")}
    yield from a_system(
        tmp_path, "alerts", edges="external",
        **{
            "edges.questdb_url": "http://nobody:hush@127.0.0.1:1",
            "alerts.channels": json.dumps({"ops": hook}), "alerts.rules": json.dumps(rules),
            "alerts.down_seconds": "1", "alerts.disk_free_mb": str(1 << 30),
        },
    )  # fmt: skip


def shown(system: System) -> dict[str, dict[str, Any]]:
    """The alerts of `pks status --json` by class."""
    command = [sys.executable, "-c", "from pks.cli import main; main()", "status", "--json", "--data-dir", str(system.data_dir)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return {alert["class"]: alert for alert in json.loads(said.stdout)["alerts"]}


def refuse(feeder: Feeder, count: int) -> None:
    """Cancellations of trades that nobody knows."""
    for number in range(count):
        group = np.zeros(1, EVENT)
        group["kind"], group["group_count"], group["source_id"] = Kind.CANCEL, 1, 1
        group["trade_id"] = f"nobody-{len(feeder.sendings)}-{number}".encode()
        feeder.book(group)
    feeder.settle(COMPILE_SECONDS)
    assert all(
        int(answer["code"]) not in (Code.ACCEPTED, Code.DUPLICATE) for sending in feeder.sendings[-count:] for answer in sending.answers
    )


def test_what_needs_a_person_is_told_once_kept_and_shown(system: System) -> None:
    system.start()
    wait_until(lambda: len(GOT) >= 2, SECONDS, "the edge and the disk are told")
    feeder = Feeder(system, 1)
    refuse(feeder, 3)
    wait_until(lambda: len(GOT) >= 3, SECONDS, "refusals are told")
    wait_until(lambda: all(alert["state"] == "SENT" for alert in shown(system).values()), SECONDS, "all are sent")
    found = shown(system)
    assert {name: alert["severity"] for name, alert in found.items()} == {
        "edge_down": "WARNING", "rejections": "WARNING", "disk_space": "WARNING",
    }  # fmt: skip
    assert "questdb" in found["edge_down"]["text"]
    assert found["rejections"]["count"] >= 1
    assert "UNKNOWN_TRADE from no known source" in found["rejections"]["text"]

    system.kill("alerts")
    system.wait_whole()
    refuse(feeder, 2)
    wait_until(lambda: shown(system)["rejections"]["count"] == 5, SECONDS, "each refusal is counted once")
    assert re.search(r"^5 input\(s\) were refused: \d UNKNOWN_TRADE from no known source", shown(system)["rejections"]["text"])
    told = Counter(message["title"].split(" [")[0] for message in GOT)
    assert {title.split(" (")[0]: count for title, count in told.items()} == {
        "PKS WARNING: edge down": 1, "PKS WARNING: disk space": 1, "PKS WARNING: rejections": 1,
    }  # fmt: skip
    said = system.output() + json.dumps(system.log("alerts")) + json.dumps(GOT)
    assert "hush" not in said
    feeder.close()
    assert system.stop() == 0
    assert not system.late_kernels()
