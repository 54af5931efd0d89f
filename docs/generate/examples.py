"""Runs the scripts that pages show, so that what they print on a page is what they print."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

SCRIPTS = ("digits", "numerics", "rescoring")
FOLDER = Path(__file__).resolve().parents[1] / "examples"
REPOSITORY = FOLDER.parents[1]
SOURCES = ("docs/examples", "jobs", "infra", "madcore", "pipeline")
PRINTED = REPOSITORY / "docs" / "_build" / "examples"


def printed_by(name: str) -> str:
    """What a script prints with the sources as they are; it runs only if it has not run with them before.

    Raises:
        RuntimeError: it failed, with what it printed.
    """
    kept = PRINTED / f"{name}-{_digest()}.txt"
    if not kept.exists():
        output = run_example(name)
        PRINTED.mkdir(parents=True, exist_ok=True)
        kept.write_text(output)
    return kept.read_text()


def _digest() -> str:
    found = hashlib.sha256()
    for path in sorted(path for source in SOURCES for path in (REPOSITORY / source).rglob("*.py")):
        found.update(path.relative_to(REPOSITORY).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:16]


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
