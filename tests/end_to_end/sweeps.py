"""What tests of sweeps share: the demo's config with absolute paths, and a sweep's file."""

from pathlib import Path

import yaml
from pydantic import JsonValue

from pipeline.config.audit_config import merge
from tests.conftest import Raw


def whole_paths(raw: Raw, digits: Path) -> Raw:
    """The demo's config with absolute paths."""
    model: JsonValue = {
        "name": "digits",
        "architecture": "pipeline.demo.network:digit_cnn",
        "weights": str(digits / "digits.safetensors"),
    }
    files: JsonValue = {name: str(digits / f"{name}.parquet") for name in ("trusted", "audited")}
    return merge({**raw, "models": [model]}, {"data": files})


def written(folder: Path, audit: JsonValue, grid: JsonValue) -> Path:
    """The file of a sweep."""
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"audit": audit, "grid": grid}))
    return path
