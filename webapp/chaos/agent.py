"""The scripted agent of the kill matrix: works for a moment, and writes down every sign of life.

Standard library only. Its lines in $CHAOS_TRACE are evidence that does not come from forgepool's own records:

    SECONDS begin|alive|end INSTANCE TASK PID NUMBER

As long as there is a file $CHAOS_STAY it does not end by itself. Asked to end by SIGTERM it takes its time, as real
agents do, so that a successor that starts too early meets it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

WORK_S = 0.3
TICK_S = 0.05  #: between two signs of life
WIND_DOWN_S = 0.4  #: from SIGTERM to the end
STAY_S = 30.0  #: whatever became of whoever should remove the file


def main() -> int:
    """Do one task."""
    signal.signal(signal.SIGTERM, _wind_down)
    trace("begin")
    begin = time.monotonic()
    stay = Path(os.environ["CHAOS_STAY"])
    while (age := time.monotonic() - begin) < WORK_S or (stay.exists() and age < STAY_S):
        time.sleep(TICK_S)
        trace("alive")
    print(f"worked for {time.monotonic() - begin:.2f} s", flush=True)  # noqa: T201 - printing is what an agent does
    summary = {"summary": f"did #{os.environ['FORGEPOOL_NUMBER']}"}
    Path(os.environ["FORGEPOOL_RESULT_FILE"]).write_text(json.dumps(summary), encoding="utf-8")
    trace("end")
    return 0


def trace(word: str) -> None:
    """Write one line, in one call: what is appended by one write(2) is never torn."""
    who = " ".join(os.environ[f"FORGEPOOL_{name}"] for name in ("INSTANCE", "TASK_ID"))
    with Path(os.environ["CHAOS_TRACE"]).open("ab", buffering=0) as file:
        file.write(f"{time.time():.6f} {word} {who} {os.getpid()} {os.environ['FORGEPOOL_NUMBER']}\n".encode())


def _wind_down(number: int, frame: FrameType | None) -> None:
    del frame
    until = time.monotonic() + WIND_DOWN_S
    while time.monotonic() < until:
        trace("alive")
        time.sleep(TICK_S)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
