"""Runs the scripts that pages show, so that what they print on a page is what they print."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

SCRIPTS = ("digits", "numerics", "rescoring")
FOLDER = Path(__file__).resolve().parents[1] / "examples"
REPOSITORY = FOLDER.parents[1]


def run_example(name: str) -> str:
    """What a script prints, run in a folder of its own.

    Raises:
        RuntimeError: it failed, with what it printed.
    """
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(FOLDER / f"{name}.py")],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"docs/examples/{name}.py failed ({done.returncode}):\n{done.stdout}{done.stderr}")
        return done.stdout.replace(str(Path(folder).resolve()), "...")
