"""The ring of keys: what is on disk, who may read it, and which key counts when."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from pks.bff.keys import TOKEN_SECONDS_USUAL_MAX, KeyFileUnsafe, KeyNotDropped, KeyRing, KeyRingBroken


class Now:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


def modes(folder: Path) -> dict[str, int]:
    return {path.suffix or path.name: stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.iterdir())}


def test_the_first_key_is_made_at_first_use_for_nobody_else(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    assert ring.keys() == []
    assert ring.verifying("0" * 16) is None
    assert not ring.folder.exists(), "looking makes nothing"
    kid, key = ring.signing()
    assert modes(ring.folder) == {"jwt": 0o700, ".pem": 0o600, ".pub": 0o600, ".json": 0o600, "lock": 0o600}
    other = KeyRing(tmp_path)
    assert other.signing()[0] == kid
    found = other.verifying(kid)
    assert found is not None
    assert found.public_numbers() == key.public_key().public_numbers()
    assert b"PRIVATE" not in (ring.folder / f"{kid}.pub").read_bytes()


def test_a_key_that_no_longer_signs_verifies_until_its_last_token_has_expired(tmp_path: Path) -> None:
    now = Now()
    gateway, command = KeyRing(tmp_path, now), KeyRing(tmp_path, now)
    first, _ = gateway.signing()
    generation = gateway.generation
    now.seconds += 1
    second = command.rotate()
    assert gateway.signing()[0] == second, "the other process sees it"
    assert gateway.generation > generation
    assert gateway.verifying(first) is not None
    assert not (gateway.folder / f"{first}.pem").exists(), "nobody needs it any more"
    assert [(key.kid, signs) for key, signs in command.keys()] == [(second, True), (first, False)]
    gateway.note_token(first, now.seconds + 3 * TOKEN_SECONDS_USUAL_MAX)
    now.seconds += TOKEN_SECONDS_USUAL_MAX
    assert gateway.verifying(first) is not None, "a token issued by command lives longer"
    now.seconds += 2 * TOKEN_SECONDS_USUAL_MAX
    assert gateway.verifying(first) is None
    third = command.rotate()
    assert {key.kid for key, _ in gateway.keys()} == {second, third}
    assert not (gateway.folder / f"{first}.pub").exists()


def test_a_key_is_dropped_at_once_but_never_the_one_that_signs(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    first, _ = ring.signing()
    second = ring.rotate()
    with pytest.raises(KeyNotDropped, match="it signs"):
        ring.drop(second)
    with pytest.raises(KeyNotDropped, match="no such key"):
        ring.drop("0" * 16)
    ring.drop(first)
    assert ring.verifying(first) is None
    assert ring.verifying(second) is not None


@pytest.mark.parametrize("name", ["", ".pem", ".pub", ".json"])
def test_what_others_may_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    kid, _ = KeyRing(tmp_path).signing()
    folder = tmp_path / "secrets" / "jwt"
    path = folder if not name else folder / "ring.json" if name == ".json" else folder / f"{kid}{name}"
    path.chmod(path.stat().st_mode | stat.S_IRGRP)
    with pytest.raises(KeyFileUnsafe, match=str(path)):
        KeyRing(tmp_path).signing()


def test_links_lost_files_and_nonsense_are_refused_by_name(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    kid, _ = ring.signing()
    private, listed = ring.folder / f"{kid}.pem", ring.folder / "ring.json"
    moved = tmp_path / "elsewhere.pem"
    private.rename(moved)
    private.symlink_to(moved)
    with pytest.raises(KeyRingBroken, match=private.name):
        KeyRing(tmp_path).signing()
    private.unlink()
    with pytest.raises(KeyRingBroken, match=private.name):
        KeyRing(tmp_path).verifying(kid)
    moved.rename(private)
    text = listed.read_text()
    for wrong in ("{", text.replace(kid, "../" + kid[3:]), text.replace(f'"signing": "{kid}"', '"signing": "0000000000000000"')):
        listed.write_text(wrong)
        with pytest.raises(KeyRingBroken, match=r"ring\.json"):
            KeyRing(tmp_path).signing()
    listed.unlink()
    with pytest.raises(KeyRingBroken, match="is gone"):
        ring.verifying(kid)


def test_what_a_killed_command_left_behind_is_no_key(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    kid, _ = ring.signing()
    left = ring.folder / ("a" * 16 + ".pem")
    left.write_bytes((ring.folder / f"{kid}.pem").read_bytes())
    left.chmod(0o600)
    again = KeyRing(tmp_path)
    assert (again.signing()[0], again.verifying("a" * 16)) == (kid, None)
    again.rotate()
    assert not left.exists()


def _first(folder: Path, barrier: multiprocessing.synchronize.Barrier, found: multiprocessing.Queue[str]) -> None:
    barrier.wait()
    found.put(KeyRing(folder).signing()[0])


def test_of_several_who_come_first_one_makes_the_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_first, args=(tmp_path, barrier, found)) for _ in range(3)]
    for process in processes:
        process.start()
    kids = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(kids) == 1
    assert len([path for path in os.listdir(tmp_path / "secrets" / "jwt") if path.endswith(".pem")]) == 1
