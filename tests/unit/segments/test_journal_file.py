"""Names, headers and directories of journal files: what is taken, what is refused by name, and that version 1 is read for ever."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pks.layouts.event import EVENT_LAYOUT_VERSION
from pks.layouts.segment import JOURNAL_HEADER, JOURNAL_HEADER_BYTES
from pks.segments import journal_file
from pks.segments.journal_errors import JournalFileDamaged, JournalGap, JournalMismatch
from pks.segments.journal_file import (
    file_bytes,
    file_path,
    find_file,
    layout_hash,
    list_files,
    make_header,
    packed_path,
    record_offset,
)
from pks.segments.journal_recovery import recover, verify
from pks.segments.journal_view import JournalView
from tests.unit.segments.test_journal import CREATED_NS, RECORDS, write_batches

KEPT_V1_DIGEST = "31770cb06d47418151a08689cde605b4049227aa43a964d709d2d98c365096ec"
KEPT_V1 = """
ABzY8000000s{;14)zN2^D$&(fB+ahXX^8(ULwndpj-w47=uB}?BAT};w7oYB@Clr6pVsVFbYP&C>RB!U=)mkQ7{Td!6+Ei;7-AcX)}BF`j7N*V1%<E;~I=;
qSOM;PW)6gFT{{E|1m>pC8gpz^J{Y^N3T4)%==s|KND8}Gf^>IA)u{Aj=KIgBG3O-3(GgGeR1o~9G&gEA8Tc2F~ij%{Le@Q|D&65@|Z4l{clX3|HD}0ypKDp
@yQ=)FO6)y_k{(E|EZDwnbG(>oVL{UzX@^bSkUO-TRjR{)~~Snz_@Pilx5zVS!v{d7Bs%Uw-0swZ%UjxnE$w;^vCSHy_df~$S{z#bX&3G#4R>>dZn)aS<(2D
dZVf9e>3v@@3i5RRUS+FhE(@93Ex>gTiCJspM_%gv7zy=p3kDL|INwszgpRZ1+x0}cRha1uj3T^z|4Wg|BO`dKRX&<La2(m{<k2{{}QWyO1ZpDDtd0W#GpU<
^Epm<d4=#l6BYc=fyR#x>7=gzEy?pgW6^JZ;cr(pcj|jYCqyy+=fdKDW-9of6OBJ_+6*eUe+<a-e`)E@w1ilrkZaBFb*Imm{(~Ef|EW>_aiQ@a-dIj${~MC!
|KnR_wjVlqION{zjmgO=>hDK;LZe_5j9dT!?4xY%03ZMW
"""
"""A file of 16 places that the first version wrote, packed: three batches, the last with a group of four. Never made again."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_batches(tmp_path / "journal", [[1] * 20, [1] * 30, [1] * 30])
    return tmp_path / "journal"


def test_names_and_places(tmp_path: Path) -> None:
    assert file_path(tmp_path, 262144).name == "00000000000000262144.events"
    assert packed_path(file_path(tmp_path, 0)).name == "00000000000000000000.events.gz"
    assert file_bytes(1 << 18) == 4096 + (64 << 20)
    assert record_offset((1 << 18) + 5, 1 << 18) == 4096 + 5 * 256


def test_header_says_what_the_file_is() -> None:
    header = np.frombuffer(make_header(64, 32, "blue", CREATED_NS), JOURNAL_HEADER)[0]
    assert header.itemsize == JOURNAL_HEADER_BYTES == 4096
    assert (header["first_sequence"], header["records"], header["created_ns"]) == (64, 32, CREATED_NS)
    assert (header["instance"], header["layout_version"], header["layout_hash"]) == (b"blue", EVENT_LAYOUT_VERSION, layout_hash())


def test_files_are_listed_in_order_and_others_are_passed_over(directory: Path) -> None:
    for name in ("keys-2025-03-14", "00000000000000000032.events.new", "32.events", "notes.events.gz"):
        (directory / name).write_bytes(b"something else")
    files = list_files(directory, "test", RECORDS)
    assert [(file.first_sequence, file.last_sequence, file.packed) for file in files] == [(0, 31, False), (32, 63, False), (64, 95, False)]
    assert list_files(directory / "nothing") == []


@pytest.mark.parametrize("missing", [0, 32])
def test_gap_is_named(directory: Path, missing: int) -> None:
    file_path(directory, missing).unlink()
    for look in (list_files, recover, lambda place: list(verify(place))):
        with pytest.raises(JournalGap, match=rf"{missing:020d}\.events is missing") as caught:
            look(directory)
        assert caught.value.missing == file_path(directory, missing)


def test_last_file_gone_while_its_batch_began_in_the_one_before(directory: Path) -> None:
    file_path(directory, 64).unlink()
    before = file_path(directory, 32).read_bytes()
    for look in (recover, lambda place: list(verify(place))):
        with pytest.raises(JournalGap, match=r"00000000000000000064\.events is missing"):
            look(directory)
    assert file_path(directory, 32).read_bytes() == before, "nothing was changed"


def damage(directory: Path, change: Callable[[bytearray], object]) -> None:
    path = file_path(directory, 32)
    raw = bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)


def flip(place: int) -> Callable[[bytearray], object]:
    return lambda raw: raw.__setitem__(place, raw[place] ^ 0x10)


@pytest.mark.parametrize("place", [0, 8, 16, 24, 32, 40, 48, 56, 120, 2000, 4088, 4095])
def test_flipped_bit_in_a_header(directory: Path, place: int) -> None:
    damage(directory, flip(place))
    with pytest.raises(JournalFileDamaged, match=r"00000000000000000032\.events.*header") as caught:
        recover(directory)
    assert caught.value.file == file_path(directory, 32)


@pytest.mark.parametrize("size", [0, 100, 4096, 4096 + 31 * 256, 4096 + 33 * 256])
def test_wrong_size(directory: Path, size: int) -> None:
    damage(directory, lambda raw: (raw.extend(bytes(512)), raw.__delitem__(slice(size, None))))
    with pytest.raises(JournalFileDamaged, match=f"has {size} bytes"):
        recover(directory)


def test_not_a_journal_file(directory: Path) -> None:
    file_path(directory, 32).write_bytes(b"sequence,book\n" * 1000)
    with pytest.raises(JournalFileDamaged, match="no journal file"):
        JournalView(directory)


@pytest.mark.parametrize(
    ("first", "records", "instance", "field"),
    [(64, 32, "test", "first_sequence"), (32, 64, "test", "records"), (32, 32, "red", "instance")],
)
def test_file_of_another_journal(directory: Path, first: int, records: int, instance: str, field: str) -> None:
    file_path(directory, 32).write_bytes(make_header(first, records, instance, CREATED_NS) + bytes(records * 256))
    with pytest.raises(JournalMismatch) as caught:
        recover(directory)
    assert caught.value.field == field


def test_file_of_another_layout(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "EVENT_LAYOUT_VERSION", 2)
    with pytest.raises(JournalMismatch, match="layout_version is 1, expected 2"):
        recover(directory)
    monkeypatch.undo()
    monkeypatch.setattr(journal_file, "layout_hash", lambda: 5)
    with pytest.raises(JournalMismatch, match=r"layout_hash is .*, expected 5"):
        recover(directory)


def test_name_between_two_places(directory: Path) -> None:
    file_path(directory, 33).write_bytes(file_path(directory, 32).read_bytes())
    with pytest.raises(JournalFileDamaged, match=r"00000000000000000033\.events.*not a place"):
        list_files(directory)


def test_plain_file_is_taken_before_a_packed_one(directory: Path) -> None:
    """As an archiving leaves them that died before it removed the plain one."""
    packed_path(file_path(directory, 0)).write_bytes(b"half a file")
    file = find_file(directory, 0)
    assert file is not None and not file.packed
    assert recover(directory).last == 80
    assert find_file(directory, 96) is None


def test_kept_file_of_version_1_is_read(tmp_path: Path) -> None:
    raw = gzip.decompress(base64.b85decode(KEPT_V1.replace("\n", "")))
    assert hashlib.sha256(raw).hexdigest() == KEPT_V1_DIGEST, "the kept file is as it was"
    file_path(tmp_path, 0).write_bytes(raw)
    found = recover(tmp_path, instance="test", records=16)
    assert (found.first, found.last, found.cut) == (1, 11, None)
    assert list(verify(tmp_path)) == []
    records = JournalView(tmp_path).records[1:12]
    assert list(records["batch_first"]) == [1, 1, 1, 4, 5, 5, 5, 5, 5, 5, 5]
    assert list(records["group_index"]) == [0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 0]
    assert list(records["trade_id"]) == [f"T{sequence}".encode() for sequence in range(1, 12)]
    assert list(records["qty_raw"]) == [sequence * 1_000_003 for sequence in range(1, 12)]
