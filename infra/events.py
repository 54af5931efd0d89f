"""Events of a run for its listener: a progress bar, a log, a test. Measurements leave the pipeline only this way.

Clocks, time stamps and the peak memory that such measurements need are here too.
"""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

PROCESS_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class StageStarted:
    """A stage begins: how many tasks there are, and how many of them are already done."""

    stage: str
    tasks: int
    reused: int


@dataclass(frozen=True)
class TaskEnded:
    """A task ended, successfully or with an error."""

    stage: str
    model: str
    rows: int
    error: str | None = None
    trace: str = ""


@dataclass(frozen=True)
class StageEnded:
    """A stage ended, after `seconds` of wall time."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class Planning:
    """What is done to plan a model, the `number`-th of so many `models`."""

    model: str
    number: int
    models: int
    doing: str


@dataclass(frozen=True)
class Notice:
    """A message for the user."""

    text: str


Event = StageStarted | TaskEnded | StageEnded | Planning | Notice
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does nothing."""


class Stopwatch:
    """Wall seconds since it was made, on a clock that never jumps."""

    def __init__(self) -> None:
        """Starts now."""
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return max(0.0, time.monotonic() - self._start)


class Age:
    """Seconds since it was made, with those in which the process or its whole host was suspended.

    Where the wall clock jumped meanwhile, the jump counts too: after a pause of a virtual machine it is all that tells.
    """

    def __init__(self) -> None:
        """Starts now."""
        self._clock, self._wall = _counting_suspension(), time.time()

    @property
    def seconds(self) -> float:
        """Seconds so far; too many rather than too few."""
        return max(_counting_suspension() - self._clock, abs(time.time() - self._wall))


def _counting_suspension() -> float:
    """A clock that never jumps and goes on while the host sleeps; Linux names it otherwise than others do."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def peak_memory_bytes() -> int:
    """The largest resident memory of this process so far; on Linux without that of its parent before the fork."""
    if PROCESS_STATUS.exists():
        lines = PROCESS_STATUS.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def utc_stamp() -> str:
    """The current time, UTC, to the millisecond, as text that sorts by time: 20261122T184455123Z."""
    return _stamp(datetime.now(UTC))


def stamp_of(seconds: float) -> str:
    """The stamp of a time in seconds since 1970."""
    return _stamp(datetime.fromtimestamp(seconds, UTC))


def stamp_after(text: str) -> str:
    """The stamp one millisecond after the one that a text begins with; "" where it begins with none."""
    try:
        return _stamp(datetime.strptime(text[:18], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC) + timedelta(milliseconds=1))
    except (ValueError, OverflowError):
        return ""


def _stamp(time: datetime) -> str:
    return time.strftime("%Y%m%dT%H%M%S%f")[:-3] + "Z"
