"""`forgepool version` and `forgepool completion`."""

import platform
from importlib.metadata import version as version_of

import click
from click.shell_completion import get_completion_class

from webapp.cli.output import examples, fields, json_option, print_json

#: What a report of a bug has to name.
PARTS = ("celery", "kombu", "sqlalchemy", "flower")


@click.command(epilog=examples("forgepool version", "forgepool version --json"))
@json_option
def version(*, as_json: bool) -> None:
    """Print the versions of forgepool and of what it stands on."""
    from pool import migrate  # noqa: PLC0415 - for this line only

    versions = {
        "forgepool": version_of("forgepool"),
        "python": platform.python_version(),
        **{name: version_of(name) for name in PARTS},
        "schema": migrate.head(),
    }
    if as_json:
        print_json(versions)
    else:
        fields(versions)


@click.command(
    epilog=examples(
        "forgepool completion bash > ~/.local/share/bash-completion/completions/forgepool",
        'forgepool completion zsh > "${fpath[1]}/_forgepool"',
        "forgepool completion fish > ~/.config/fish/completions/forgepool.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in a shell."""
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(script(ctx.find_root().command, {}, "forgepool", "_FORGEPOOL_COMPLETE").source())
