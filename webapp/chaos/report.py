"""The verdict as a table for people and as JSON for programs. Pure: no I/O."""

import statistics
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from webapp.chaos.evidence import Fault, Ill, Request, Row, Wrong
from webapp.chaos.verdict import recovery_s

#: Columns of the table, and what each counts.
COUNTED: dict[str, tuple[Ill, ...]] = {
    "lost": (Ill.LOST,),
    "doubled": (Ill.DOUBLED,),
    "at once": (Ill.AT_ONCE,),
    "out of order": (Ill.OUT_OF_ORDER,),
    "other": (Ill.WRONG_END, Ill.RAN_ON, Ill.NOT_DONE),
    "left over": (Ill.LEFT_OVER,),
}


class Report:
    """Everything that is told of one run of `forgepool chaos`."""

    def __init__(
        self,
        *,
        faults: Sequence[Fault],
        wrongs: Sequence[Wrong],
        requests: Sequence[Request],
        rows: Sequence[Row],
        seed: int,
        took_s: float,
    ) -> None:
        self.faults, self.wrongs = faults, wrongs
        self.seed, self.took_s = seed, took_s
        self._requests, self._rows = requests, rows
        self._recovery = [recovery_s(fault, requests, rows) for fault in faults]

    @property
    def is_clean(self) -> bool:
        """Whether something was done, and nothing is wrong."""
        return bool(self.faults) and not self.wrongs

    def lines(self) -> list[dict[str, Any]]:
        """Return one line per victim, one per point, one for all."""
        found = [self._line("killed", "victim", name) for name in self._names("victim")]
        found += [self._line("at", "point", name) for name in self._names("point")]
        return [*found, self._line("", None, "all")]

    def to_json(self) -> dict[str, Any]:
        """Return everything, for a program."""
        return {
            "clean": self.is_clean,
            "seed": self.seed,
            "took_s": round(self.took_s, 1),
            "deliveries": len(self._requests),
            "tasks": len(self._rows),
            "table": self.lines(),
            "wrong": [{"ill": w.ill, "sentence": w.sentence, "issues": w.numbers} for w in self.wrongs],
            "faults": [
                {
                    "point": fault.point,
                    "victim": fault.victim,
                    "pid": fault.pid,
                    "at": round(fault.at, 3),
                    "recovery_s": None if seconds is None else round(seconds, 2),
                    "issues": fault.numbers,
                }
                for fault, seconds in zip(self.faults, self._recovery, strict=True)
            ],
        }

    def table(self) -> Table:
        """Return the verdict as a table."""
        table = Table(title="kill -9", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("fault")
        for name in ("count", *COUNTED, "p50 s", "max s"):
            table.add_column(name, justify="right")
        group = None
        for line in self.lines():
            if group not in (None, line["group"]):
                table.add_section()
            group = line["group"]
            counts = (Text(str(line[name]), style="bold red" if line[name] else "") for name in COUNTED)
            table.add_row(
                f"{group} {line['fault']}".strip(),
                str(line["count"]),
                *counts,
                _seconds(line["recovery_p50_s"]),
                _seconds(line["recovery_max_s"]),
            )
        return table

    def _names(self, field: str) -> list[str]:
        return list(dict.fromkeys(sorted(getattr(fault, field) for fault in self.faults)))

    def _line(self, group: str, field: str | None, name: str) -> dict[str, Any]:
        mine = [i for i, fault in enumerate(self.faults) if field is None or getattr(fault, field) == name]
        numbers = {number for i in mine for number in self.faults[i].numbers}
        # What belongs to no fault of the matrix (a kill under load, a process left over) is told in the last line.
        wrongs = [w for w in self.wrongs if field is None or numbers.intersection(w.numbers)]
        times = [seconds for i in mine if (seconds := self._recovery[i]) is not None]
        return {
            "group": group,
            "fault": name,
            "count": len(mine),
            **{column: sum(w.ill in ills for w in wrongs) for column, ills in COUNTED.items()},
            "recovery_p50_s": round(statistics.median(times), 2) if times else None,
            "recovery_max_s": round(max(times), 2) if times else None,
        }


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
