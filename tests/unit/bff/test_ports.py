"""Where the gateway listens: a usual port gives way, a configured one does not, and a new life takes the last one's."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import pytest

from pks.base.config import Gateway
from pks.bff.ports import Endpoints, PortTaken, forget_endpoints, listen, ports_of, read_endpoints, shown_host, write_endpoints


def test_a_configured_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"rest_port: cannot listen at 127\.0\.0\.1:{taken}"):
            listen(Gateway(rest_port=taken), "rest_port", 0)


def test_the_usual_port_gives_way_and_the_last_one_comes_first() -> None:
    assert ports_of(Gateway(), "rest_port", 0) == [8080, 0]
    assert ports_of(Gateway(), "rest_port", 5000) == [5000, 8080, 0]
    assert ports_of(Gateway(grpc_port=9), "grpc_port", 5000) == [9]
    with listen(Gateway(rest_port=0), "rest_port", 0) as first:
        port = first.getsockname()[1]
    with listen(Gateway(rest_port=0), "rest_port", port) as again:
        assert again.getsockname()[1] == port
        with listen(Gateway(rest_port=0), "rest_port", port) as other:
            assert other.getsockname()[1] != port


def test_what_is_written_is_read_and_forgotten_by_its_writer_alone(tmp_path: Path) -> None:
    assert read_endpoints(tmp_path) is None
    ours = Endpoints(os.getpid(), "http://h:1", "ws://h:1/ws", rest_port=1)
    write_endpoints(tmp_path, msgspec.structs.replace(ours, pid=1))
    forget_endpoints(tmp_path)
    assert read_endpoints(tmp_path) == msgspec.structs.replace(ours, pid=1), "another life wrote it since"
    write_endpoints(tmp_path, ours)
    forget_endpoints(tmp_path)
    assert read_endpoints(tmp_path) == msgspec.structs.replace(ours, pid=0), "the ports stay known"
    (tmp_path / "gateway.json").write_bytes(b"{")
    assert read_endpoints(tmp_path) is None


@pytest.mark.parametrize(("bind", "host"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("10.0.0.1", "10.0.0.1")])
def test_the_host_that_is_shown_can_be_reached(bind: str, host: str) -> None:
    assert shown_host(bind) == host
