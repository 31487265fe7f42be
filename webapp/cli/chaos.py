"""The command that kills: chaos."""

import os
import random
import signal
import sys
from pathlib import Path

import click

from webapp.chaos.report import Report
from webapp.cli.output import examples, json_option, print_json

#: For `--long`.
ROUNDS, KILLS = 3, 100
#: For `--short`.
FEW_KILLS = 6


@click.command(
    epilog=examples(
        "forgepool chaos",
        "forgepool chaos --long --json > verdict.json",
        "forgepool chaos --only running/worker --rounds 20 --random 0",
        "forgepool chaos --seed 41 --keep --state-dir ./chaos",
        "CHAOS_BROKER_URL=amqp://guest@localhost// forgepool chaos",
    )
)
@click.option("--short/--long", "short", default=True, help="A dozen faults, or the whole matrix.  [default: short]")
@click.option("--rounds", type=click.IntRange(0), help=f"How often the matrix is run.  [default: 1, or {ROUNDS}]")
@click.option(
    "--random", "kills", type=click.IntRange(0), help=f"Random kills under load.  [default: {FEW_KILLS}, or {KILLS}]"
)
@click.option("--seed", type=int, help="Of everything that is random.  [default: another one each time; it is told]")
@click.option("--only", multiple=True, metavar="POINT/VICTIM", help="Only these; a point or a victim alone is enough.")
@click.option(
    "--within",
    type=click.FloatRange(1),
    default=60,
    show_default=True,
    help="Seconds for all work to end after a kill.",
)
@click.option(
    "--run-lease",
    type=click.FloatRange(1),
    default=2,
    show_default=True,
    help="Seconds until a run that nobody renews is dead.",
)
@click.option("--keep", is_flag=True, help="Leave the folder for a look.")
@click.option(
    "--state-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder to use.  [default: a temporary one]"
)
@json_option
def chaos(
    *,
    short: bool,
    rounds: int | None,
    kills: int | None,
    seed: int | None,
    only: tuple[str, ...],
    within: float,
    run_lease: float,
    keep: bool,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Kill every part with signal 9 at every point of a task's life, and count what was lost.

    Runs a deployment of its own, with scripted agents and short leases; yours is not touched, whatever is configured.
    Afterwards the agents' own trace is held against the database: nothing accepted may be lost, run twice, out of
    order or beside another on one instance, and nothing may be left over.

    $CHAOS_BROKER_URL and $CHAOS_DATABASE_URL name a broker and an empty database to use instead of the embedded ones.

    Ends with status 1 when anything is wrong.
    """
    from webapp.chaos.play import play  # noqa: PLC0415 - the engine, and those who kill it

    # As Ctrl-C: what was started is stopped, and the folder removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    report = play(
        broker_url=os.environ.get("CHAOS_BROKER_URL", ""),
        database_url=os.environ.get("CHAOS_DATABASE_URL", ""),
        long=not short,
        rounds=(1 if short or only else ROUNDS) if rounds is None else rounds,
        kills=(FEW_KILLS if short else KILLS) if kills is None else kills,
        seed=random.SystemRandom().randrange(2**32) if seed is None else seed,
        only=only,
        say=lambda line: click.echo(line, err=True),
        state_dir=state_dir,
        within_s=within,
        run_lease_s=run_lease,
        keep=keep,
    )
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)
    raise SystemExit(0 if report.is_clean else 1)


def _show(report: Report) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where a person looks on

    console = Console(highlight=False, markup=False, emoji=False)
    console = console if console.is_terminal else Console(width=120, highlight=False, markup=False, emoji=False)
    console.print(report.table())
    for wrong in report.wrongs:
        console.print(f"{wrong.ill}: {wrong.sentence}", style="red", soft_wrap=True)
    told = f"{len(report.faults)} faults in {report.took_s:.0f} s, seed {report.seed}: "
    if report.is_clean:
        console.print(told + "nothing is wrong.", style="bold green")
    else:
        console.print(
            told + (f"{len(report.wrongs)} things are wrong." if report.wrongs else "nothing was done."),
            style="bold red",
        )
