"""What tests of sweeps share: a sweep's file."""

from pathlib import Path

import yaml
from pydantic import JsonValue


def written(folder: Path, audit: JsonValue, grid: JsonValue) -> Path:
    """The file of a sweep."""
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"audit": audit, "grid": grid}))
    return path
