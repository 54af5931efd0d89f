"""A person who interrupts a run gets the prompt back at once, whatever its tasks are doing, and the same command goes on from there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.jobs.command import mad, tasks
from tests.jobs.conftest import Configure

SOURCE = '''
import os
import pathlib
import time

from pipeline.demo.network import digit_cnn

class Net(type(digit_cnn())):
    """Once a task is done in the root that the environment names, it computes for ever."""
    def forward(self, x):
        root = os.environ.get("STALL_IN")
        if root and any(pathlib.Path(root).glob("digits/gradients/*/*/receipts/*")):
            pathlib.Path(root, "stalled").touch()
            time.sleep(600)
        return super().forward(x)

def build():
    return Net(*digit_cnn())
'''


# As `python -m jobs.main`, and interruptible also where tests run in the background, which a shell has told to ignore interrupts.
MAD = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from jobs.main import main; main()"


def test_an_interrupted_run_ends_at_once_and_is_resumed(inputs: Path, configure: Configure, root: Path) -> None:
    (inputs / "stalling.py").write_text(SOURCE)
    config = configure(
        models=[{"name": "digits", "architecture": "stalling.py:build", "weights": "digits.safetensors"}]
    )
    command = [sys.executable, "-c", MAD, "run", str(config)]
    environment = {**os.environ, "STALL_IN": str(root)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (root / "stalled").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.endswith("interrupted; finished tasks are kept, and the same command resumes\n")
    (root / "stalled").unlink()
    run, reused = tasks(mad("run", config, "--output", "json").summary)["gradients"]
    assert (run, reused) in ((2, 1), (1, 2))
