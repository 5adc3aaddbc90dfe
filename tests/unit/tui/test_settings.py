"""What the user chose, kept and found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pks.tui.settings import Settings, load_settings, save_settings, settings_path


def test_where_the_file_is() -> None:
    assert settings_path({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}) == Path("/c/pks/tui.json")
    assert settings_path({"HOME": "/h"}) == Path("/h/.config/pks/tui.json")


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pks" / "tui.json"
    settings = Settings(columns=("book", "cost"), sort="cost", descending=True, flat=False, tape=False)
    assert save_settings(path, settings) == ""
    assert load_settings(path) == (settings, "")
    assert [entry.name for entry in path.parent.iterdir()] == ["tui.json"]


def test_without_a_file_it_is_the_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "none.json") == (Settings(), "")
    assert load_settings(None) == (Settings(), "")
    assert save_settings(None, Settings()) == ""


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"columns": 3}', b'{"sort": null}', b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tui.json"
    path.write_bytes(content)
    settings, problem = load_settings(path)
    assert settings == Settings()
    assert str(path) in problem


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "pks").write_text("a file where the folder should be")
    assert save_settings(tmp_path / "pks" / "tui.json", Settings()).startswith("settings were not kept")
