"""The command group: what commands there are, the options that all share, and how an error is said.

Owns the list of commands, which is looked at without importing them, so that `pks --help` and shell completion cost nothing. May not do any
command's work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class

from pks.base.config import Config, Loaded, load_config
from pks.base.errors import PksError

F = TypeVar("F", bound=Callable[..., Any])

EXIT_REFUSED = 1
EXIT_USAGE = 2

SHELLS = ("bash", "zsh", "fish")


class Entry(NamedTuple):
    """Where a command is, and what it does in one line."""

    place: str  # "module:attribute"
    help: str


COMMANDS: dict[str, Entry] = {
    "calc": Entry("pks.cli.calc:calc", "the engine's pure functions from the shell, without a running system"),
    "bench": Entry("pks.cli.bench:bench", "the benchmarks of the design's promises"),
    "book": Entry("pks.cli.book:book", "book a file of trades, one reply a row"),
    "codes": Entry("pks.cli.codes:codes", "the reply codes and what they mean"),
    "dlq": Entry("pks.cli.dlq:dlq", "dead letters: listed, fixed, injected again, discarded"),
    "doctor": Entry("pks.cli.doctor:doctor", "what this host lacks, in plain words"),
    "journal": Entry("pks.cli.journal:journal", "the journal: checked, dumped, counted, packed"),
    "key": Entry("pks.cli.key:key", "keys of the gateway's access tokens: listed, rotated, dropped"),
    "lots": Entry("pks.cli.lots:lots", "open lots of one position"),
    "positions": Entry("pks.cli.positions:positions", "positions, now or at any time, by book, account or entity"),
    "recover": Entry(
        "pks.cli.recover:recover", "the journal, or a checkpoint, made again from Postgres and NATS when the local one was lost"
    ),
    "ref": Entry("pks.cli.ref:ref", "reference data: load, class defaults, what is known"),
    "refill": Entry("pks.cli.refill:refill", "what a server has of the journal, brought to it again"),
    "run": Entry("pks.cli.run:run", "the system, in the foreground"),
    "shm": Entry("pks.cli.shm:shm", "segments of shared memory: what is there, and what is in it"),
    "status": Entry("pks.cli.status:status", "workers, cursors and lags of the running system"),
    "stop": Entry("pks.cli.stop:stop", "stop the running system in order"),
    "token": Entry("pks.cli.token:token", "access tokens for scripts, and tokens revoked"),
    "top": Entry("pks.cli.top:top", "live view of workers, rings and latencies"),
    "tui": Entry("pks.cli.tui:tui", "the terminal blotter: positions, tape, health"),
    "trades": Entry("pks.cli.trades:trades", "trades with their versions and states"),
    "user": Entry("pks.cli.user:user", "users of the gateway, their roles and books"),
}
"""Every command; a new one is a line here and a module that has it."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in order."""
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[cmd_name].place.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command), f"{COMMANDS[cmd_name].place} is no command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, without importing anything."""
        own = {name: command.get_short_help_str() for name, command in self.commands.items()}
        rows = [(name, COMMANDS[name].help if name in COMMANDS else own[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, without importing them."""
        named = [CompletionItem(name, help=COMMANDS[name].help) for name in COMMANDS if name.startswith(incomplete)]
        return named or super().shell_complete(ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error that PKS raises on purpose is one line and an exit code."""
        try:
            return super().invoke(ctx)
        except PksError as error:
            fail(str(error))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="pks", message="%(version)s")
def main() -> None:
    """PKS: a position-keeping system."""


@main.command(short_help="the shell's completion script, to be sourced")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of SHELL: eval "$(pks completion bash)"."""
    found = get_completion_class(shell)
    assert found is not None, "click knows these shells"
    click.echo(found(main, {}, "pks", "_PKS_COMPLETE").source())


def system_options(function: F) -> F:
    """The options by which every command finds its system; they come before `PKS_DATA_DIR`, `PKS_INSTANCE` and the configuration file."""
    for option in (
        click.option("--instance", metavar="X", help="name of the system, where several share a host"),
        click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="where journal, checkpoints and logs lie"),
        click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="a TOML file of settings"),
    ):
        function = option(function)
    return function


def load(config: Path | None, data_dir: Path | None, instance: str | None, flags: dict[str, object] | None = None) -> Loaded:
    """The configuration that these options name. Raises ConfigError."""
    own = {"data_dir": None if data_dir is None else str(data_dir), "instance": instance}
    return load_config(config, os.environ, own | (flags or {}))


def quiet_config(config: Path | None, data_dir: Path | None, instance: str | None) -> Config:
    """As `load`, for commands that only look for a running system."""
    return load(config, data_dir, instance).config


def fail(text: str, code: int = EXIT_REFUSED) -> NoReturn:
    """Say one clear line on stderr and end."""
    click.echo(f"pks: {' '.join(text.split())}", err=True)
    sys.exit(code)
