"""ARCHITECTURE.md against the code: every worker, channel, store, room and command stands in it, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pks
from pks.bff.keys import KeyRing
from pks.cli.group import COMMANDS
from pks.servers.endpoints import SERVERS
from pks.topology import CHANNELS, SHARD, Kind, Paths, Per, workers_of

PACKAGE = Path(pks.__file__).parent
ROOT = PACKAGE.parent
PAGE = ROOT / "ARCHITECTURE.md"
DATA_FOLDERS = {"desk_data"}
PROCESSES = {"supervisor", "zygote"}


def table_under(heading: str) -> list[list[str]]:
    """Cells of the rows of the first table below a heading, without its head."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 2, f"a table under {heading}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows[2:]]


def components(kind: str) -> dict[str, list[str]]:
    """Rows of that kind, by the name in the first cell, of which arrows and quotes are left out."""
    found = [row for row in table_under("Components") if row[1] == kind]
    named = {row[0].replace("↑", "").strip().strip("`"): row for row in found}
    assert len(named) == len(found), f"no {kind} stands there twice"
    return named


def by_shard(name: str) -> str:
    """accumulator-0 and accumulator-{shard} as the page writes them."""
    return re.sub(r"-(\d+|\{shard\})$", "-k", name)


def test_every_row_has_all_cells() -> None:
    for heading, width in (("Rooms", 2), ("Components", 6)):
        for row in table_under(heading):
            assert len(row) == width, row


def test_every_worker_stands_in_the_table() -> None:
    planned = {by_shard(plan.name): plan for plan in workers_of(2, loads_desk=True, edges=tuple(SERVERS))}
    listed = components("worker")
    assert listed.keys() == planned.keys()
    for name, plan in planned.items():
        module = plan.make.partition(":")[0].replace(".", "/") + ".py"
        assert listed[name][3] == f"`{module}`", name
        assert listed[name][2] == name
    assert components("process").keys() == PROCESSES


def test_every_channel_stands_in_the_table_with_its_writer_and_segment() -> None:
    listed = components("channel")
    assert listed.keys() == {channel.name for channel in CHANNELS}
    for channel in CHANNELS:
        row = listed[channel.name]
        assert row[2] == by_shard(channel.writer), channel.name
        if channel.kind is Kind.INTAKE:
            first = int(channel.segment_base(0).split("-")[2])
            segment = channel.segment_base(0).replace(f"-{first}-", f"-<{first} + k>-" if channel.upward else "-<n>-")
        else:
            segment = channel.segment_base(0) if channel.per is Per.SYSTEM else channel.segment_base(0).replace("-v1-0", "-v1-<k>")
        assert f"`{segment}`" in row[5], channel.name


def test_re_entry_arrows_are_marked() -> None:
    marked = {row[0].replace("↑", "").strip().strip("`") for row in table_under("Components") if "↑" in row[0]}
    assert marked == {channel.name for channel in CHANNELS if channel.upward}
    picture = PAGE.read_text(encoding="utf-8").split("## The flow", 1)[1].split("## Rooms", 1)[0]
    for name in marked:
        assert name in picture, name


def test_the_picture_has_every_worker_and_channel() -> None:
    picture = PAGE.read_text(encoding="utf-8").split("## The flow", 1)[1].split("## Rooms", 1)[0]
    for plan in workers_of(1, loads_desk=True, edges=tuple(SERVERS)):
        assert plan.name in picture, plan.name
    for channel in CHANNELS:
        assert channel.name in picture, channel.name


def test_every_store_stands_in_the_table() -> None:
    paths = Paths(Path("<data>"))
    folders = {str(folder) for folder in (paths.journal, paths.keys, paths.checkpoints, paths.streams, paths.run, paths.log, paths.servers)}
    folders.add(str(KeyRing(Path("<data>")).folder))
    listed = components("store")
    assert listed.keys() == folders
    writers = {by_shard(plan.name) for plan in workers_of(1, loads_desk=True, edges=tuple(SERVERS))} | PROCESSES
    for name, row in listed.items():
        done_by = set(row[2].split(", "))
        assert done_by <= writers or row[2] == "every process", name


def test_every_server_stands_in_the_table() -> None:
    listed = components("server")
    assert listed.keys() == SERVERS.keys()
    for name, server in SERVERS.items():
        assert listed[name][3] == f"`{server.__module__.replace('.', '/')}.py`"
        assert listed[name][2] == "supervisor"


def test_every_room_stands_in_the_table() -> None:
    folders = [
        folder for folder in (*PACKAGE.iterdir(), *(PACKAGE / "engine").iterdir(), *(PACKAGE / "edges").iterdir()) if folder.is_dir()
    ]
    rooms = {f"pks/{folder.relative_to(PACKAGE)}/" for folder in folders if (folder / "__init__.py").exists()}
    rooms |= {f"pks/{name}/" for name in DATA_FOLDERS}
    rooms |= {f"pks/{file.name}" for file in PACKAGE.glob("*.py") if file.name != "__init__.py"}
    assert {row[0].strip("`") for row in table_under("Rooms")} == rooms


def test_every_command_stands_in_the_table() -> None:
    assert COMMANDS.keys() <= components("command").keys()


def test_writers_of_channels_are_workers_or_sources() -> None:
    known = {by_shard(plan.name) for plan in workers_of(1, loads_desk=True)} | {"supervisor", "source"}
    for channel in CHANNELS:
        assert by_shard(channel.writer) in known, channel.name
        assert SHARD in channel.writer or channel.per is not Per.SHARD, "a segment a shard is written by its shard's accumulator"


DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(document.relative_to(ROOT)) for document in DOCUMENTS])
def test_documents_name_only_what_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", text):
        if target and "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
    for path in re.findall(r"`((?:pks|tests|examples|include|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{document.name} names {path}"


def test_decisions_are_numbered_and_whole() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        text = file.read_text(encoding="utf-8")
        for heading in ("Situation", "Choice", "What it costs", "What would prove it wrong"):
            assert f"\n## {heading}\n" in text, f"{file.name}: {heading}"
