"""What the user chose: columns, order and what is hidden, in a small JSON file under their configuration folder.

Owns the file. A file that cannot be read is said and then passed over; the next change writes a new one. May not touch the system's own
configuration.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from pks.tui.columns import DEFAULT_KEYS

FILE_BYTES_MAX = 1 << 16


class Settings(Struct, frozen=True, kw_only=True):
    """The blotter's settings, as the file spells them."""

    columns: tuple[str, ...] = DEFAULT_KEYS
    sort: str = "book"
    descending: bool = False
    flat: bool = True  # positions without quantity are shown
    tape: bool = True


def settings_path(environ: Mapping[str, str]) -> Path:
    """`pks/tui.json` under XDG_CONFIG_HOME or ~/.config."""
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".config")
    return Path(base) / "pks" / "tui.json"


def load_settings(path: Path | None) -> tuple[Settings, str]:
    """The settings of a file, and what was wrong with it ("" is nothing); the defaults where there is none."""
    if path is None:
        return Settings(), ""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=Settings), ""
    except FileNotFoundError:
        return Settings(), ""
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Settings(), f"{path} was passed over: {error}"


def save_settings(path: Path | None, settings: Settings) -> str:
    """Write the file whole; what went wrong, "" is nothing: a blotter without a writable folder still works."""
    if path is None:
        return ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=1) + b"\n")
        fresh.replace(path)
    except OSError as error:
        return f"settings were not kept: {error}"
    return ""
