"""Peak memory of one way to run one model.

It is the process's largest resident set during one call, minus that before the call; on a GPU, that of tensors.

    python -m tests.benchmarks.memory MODEL BATCH WAY DEVICE

Each is measured in a separate process, which prints bytes. A call on a single sample comes first, so that libraries are
loaded and kernels chosen; the model is in memory before the call, so its weights do not count, and a training step's
gradients do.
Linux only: it resets the high-water mark in `/proc`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tests.benchmarks.models import CASES
from tests.benchmarks.ways import WAYS, prepare

SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def resident(field: str) -> int:
    """`VmRSS` now or `VmHWM` since the last reset, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return 1024 * int(found[1])


def peak(name: str, batch: int, way: str, device: str) -> int:
    """Bytes of one call in this process."""
    torch.manual_seed(0)
    case = CASES[name]
    model, inputs = case.build().to(device), case.inputs(batch).to(device)
    prepare(way, case, model, inputs[:1])()
    model.zero_grad()
    call = prepare(way, case, model, inputs)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - held
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def peaks(name: str, batch: int, ways: Sequence[str] = WAYS, device: str = "cpu") -> Iterator[tuple[str, int]]:
    """Bytes of each way, each measured in its own process."""
    for way in ways:
        command = [sys.executable, "-m", "tests.benchmarks.memory", name, str(batch), way, device]
        done = subprocess.run(command, env={**os.environ, **SETTINGS}, check=True, capture_output=True, text=True)
        yield way, int(done.stdout)


if __name__ == "__main__":
    print(peak(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
