"""The command line. Translates words into verbs of the engine, and errors into a sentence and an exit status."""

import importlib
import os
from pathlib import Path
from typing import Any

import click

from pool.errors import (
    BadInput,
    ConfigError,
    ForgepoolError,
    UnknownDelivery,
    UnknownInstance,
    UnknownTask,
)
from webapp.cli.output import safe

#: As in tasks.settings, whose import takes longer than `forgepool version` may.
CONFIG_ENV = "FORGEPOOL_CONFIG"
#: Where `--verbose` is kept, in the context of click.
VERBOSE = "webapp.cli.verbose"
#: Where each command lives, and the line of `--help` for it: its module is loaded when it is asked for.
COMMANDS = {
    "up": ("service", "Run everything: broker, workers, web app, Flower."),
    "demo": ("service", "See it work, without any account."),
    "init": ("init", "Make or check what a deployment needs, on the forge too."),
    "chaos": ("chaos", "Kill every part at every point, and count what was lost."),
    "dispatch": ("dispatch", "Queue a task by hand."),
    "explain": ("tasks", "Tell why a task is where it is."),
    "instances": ("instances", "Add, change, pause, remove and list instances."),
    "tasks": ("tasks", "List, show, cancel, release and explain tasks; read logs."),
    "trail": ("trail", "Tell the whole story of one issue."),
    "deliveries": ("deliveries", "List, show and replay what the forge sent."),
    "merges": ("merges", "List what is to be merged, and what it waits for."),
    "checkouts": ("checkouts", "List checkouts, and work that was set aside."),
    "config": ("config", "Show, check or begin the configuration."),
    "reconcile": ("reconcile", "Make every repair once, or tell what it would do."),
    "doctor": ("doctor", "Find what is in the way."),
    "db": ("service", "Make the database ready for this version."),
    "web": ("service", "Run the web app alone."),
    "fleet": ("service", "Run the workers alone."),
    "worker": ("service", "Run the worker of one instance."),
    "completion": ("about", "Print the completion script of a shell."),
    "version": ("about", "Print the versions of everything."),
}

EPILOG = """\b
Exit status:
  0    done
  1    refused or failed
  2    wrong usage or configuration
  3    no such task, instance or delivery
  130  stopped by Ctrl-C

\b
Examples:
  forgepool demo                    see it work, without any account
  forgepool init                    set up a deployment in this folder
  forgepool up                      run it
  forgepool doctor                  find what is in the way
"""

_STATUS: dict[type[ForgepoolError], int] = {
    ConfigError: 2,
    BadInput: 2,
    UnknownTask: 3,
    UnknownInstance: 3,
    UnknownDelivery: 3,
}
INTERRUPTED = 130


class Commands(click.Group):
    """Loads a command when it is asked for; is the edge that our errors do not cross."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - signature of click
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - signature of click
        """Import the module of a command and return the command."""
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(importlib.import_module(f"webapp.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - signature of click
        """Write the table of commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; of an unknown one say what may have been meant."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn what it raises into a sentence on standard error and an exit status."""
        try:
            return super().invoke(ctx)
        except ForgepoolError as error:
            click.echo("Error: " + safe(str(error), keep="\n"), err=True)
            raise SystemExit(_STATUS.get(type(error), 1)) from None
        except (KeyboardInterrupt, click.Abort):
            click.echo(err=True)
            raise SystemExit(INTERRUPTED) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.option(
    "--config",
    envvar=CONFIG_ENV,
    show_envvar=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration.  [default: ./forgepool.toml]",
)
@click.option("--verbose", is_flag=True, help="Also show the log of what happens, on standard error.")
@click.version_option(package_name="forgepool", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, config: Path | None, *, verbose: bool) -> None:
    """Turn a Forgejo instance into the control plane of a pool of coding agents.

    Issues are assigned to a type of agent, say `dev`; forgepool gives each to one instance of that type.
    """
    if config is not None:
        # Absolute and in the environment, so that every process that is started from here reads the same file.
        os.environ[CONFIG_ENV] = str(config.absolute())
    ctx.meta[VERBOSE] = verbose
