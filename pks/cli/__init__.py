"""The `pks` command: one module a command, imported when it is called. `main` is the entry point."""

from pks.cli.group import main

__all__ = ["main"]
