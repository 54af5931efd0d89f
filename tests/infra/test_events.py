"""Clocks, time stamps and peak memory."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.events import Age, Notice, Stopwatch, ignore, stamp_after, stamp_of, utc_stamp

STATM = Path("/proc/self/statm")
MORE = 64 << 20
ACCOUNTING = 1 << 20  # the kernel counts the pages of a process with a short delay


def test_a_stopwatch_counts_wall_seconds() -> None:
    watch, start = Stopwatch(), time.monotonic()
    time.sleep(0.02)
    assert 0.02 <= watch.seconds <= time.monotonic() - start + 0.01


SLEEP = """
from infra.events import Age
age = Age()
print("made", flush=True)
input()
print(age.seconds)
"""


def test_an_age_counts_the_seconds_in_which_the_process_was_suspended() -> None:
    command = [sys.executable, "-c", SLEEP]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "made\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate("\n")
        assert float(out) >= 0.3


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_an_age_takes_a_jump_of_the_clock_for_time_that_has_passed(
    jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    age, true = Age(), time.time
    monkeypatch.setattr(time, "time", lambda: true() + jump)
    assert age.seconds > 3500


HOLD = f"""
from infra.events import peak_memory_bytes
before = peak_memory_bytes()
held = b"1" * ({MORE} + before - int(open("{STATM}").read().split()[1]) * {os.sysconf("SC_PAGE_SIZE")})
after = peak_memory_bytes()
del held
print(before, after, peak_memory_bytes())
"""


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
def test_peak_memory_is_in_bytes_and_keeps_what_was_released() -> None:
    """In its own process: this one may have released memory that it would reuse instead."""
    ended = subprocess.run([sys.executable, "-c", HOLD], check=True, capture_output=True, text=True)
    before, after, released = map(int, ended.stdout.split())
    assert 5 << 20 < before < 1 << 30
    assert 0.7 * MORE < after - before < 1.3 * MORE
    assert abs(released - after) <= ACCOUNTING


def test_time_stamps_sort_and_are_utc() -> None:
    stamps = [utc_stamp()]
    time.sleep(0.002)
    stamps.append(utc_stamp())
    assert stamps[0] < stamps[1]
    stamped = datetime.strptime(stamps[1], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - stamped).total_seconds()) < 5
    assert len(stamps[0]) == len("20261122T184455123Z")


def test_a_listener_may_ignore_events() -> None:
    assert ignore(Notice("ignored")) is None


def test_stamps_of_known_times() -> None:
    assert stamp_of(0.0015) == "19700101T000000001Z"
    assert stamp_of(1_795_373_095.123) == "20261122T184455123Z"


def test_the_stamp_after_another_is_a_millisecond_later_and_empty_where_there_is_none() -> None:
    assert stamp_after("20261122T184455123Z-abc") == "20261122T184455124Z"
    assert stamp_after("20261231T235959999Z") == "20270101T000000000Z"
    assert stamp_after("99991231T235959999Z") == ""
    assert stamp_after("no stamp") == ""
