"""Clocks and memory: measures that only grow."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.events import Notice, Stopwatch, ignore, utc_stamp

STATM = Path("/proc/self/statm")
MORE = 64 << 20
ACCOUNTING = 1 << 20  # the kernel adds a process's pages up a little late


def test_a_stopwatch_counts_wall_seconds() -> None:
    watch, start = Stopwatch(), time.monotonic()
    time.sleep(0.02)
    assert 0.02 <= watch.seconds <= time.monotonic() - start + 0.01


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
    """In a process of its own: this one may have released memory at hand that it would take instead."""
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
    told = datetime.strptime(stamps[1], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - told).total_seconds()) < 5
    assert len(stamps[0]) == len("20261122T184455123Z")


def test_nobody_needs_to_listen() -> None:
    assert ignore(Notice("heard by nobody")) is None
