"""Claims: one holder, freed by death."""

from __future__ import annotations

import os

import pytest

from pks.segments.claims import is_claimed, take_claim
from pks.segments.errors import AlreadyClaimed


def test_second_claim_is_a_named_error(tmp_path) -> None:
    with take_claim(tmp_path / "run", "/events"):
        with pytest.raises(AlreadyClaimed) as caught:
            take_claim(tmp_path / "run", "/events")
        assert caught.value.holder == f"pid {os.getpid()}"
        assert is_claimed(tmp_path / "run", "/events")
        take_claim(tmp_path / "run", "/matches").release()
    assert not is_claimed(tmp_path / "run", "/events")


def test_a_claim_ends_with_its_process(tmp_path) -> None:
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        take_claim(tmp_path, "ledger")
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"x"
    with pytest.raises(AlreadyClaimed, match=f"pid {pid}"):
        take_claim(tmp_path, "ledger")
    os.write(done[1], b"x")
    assert os.waitpid(pid, 0)[1] == 0
    take_claim(tmp_path, "ledger").release()
    for end in (*ready, *done):
        os.close(end)


def test_a_forked_child_keeps_its_parents_claim(tmp_path) -> None:
    claim = take_claim(tmp_path, "data", inheritable=True)
    assert os.get_inheritable(claim.descriptor)
    stop = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(stop[1])
        os.read(stop[0], 1)
        os._exit(0)
    claim.release()
    claim.release()
    assert is_claimed(tmp_path, "data")
    os.close(stop[0])
    os.close(stop[1])
    os.waitpid(pid, 0)
    assert not is_claimed(tmp_path, "data")
