"""The grid of a sweep: the points that its file describes, each a config of its own."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, ValidationError

from pipeline.config.audit_config import AuditConfig, merge, read_mapping
from pipeline.config.sections import Section
from pipeline.errors import ConfigError

MOST_POINTS = 1000


Raw = dict[str, JsonValue]


class Grid(Section):
    """What is varied; what is not given stays as in the audit.

    A damping that is a number is a factor of the mean eigenvalue. For a rank below the stored one, stored rows are
    re-projected (see `madcore.reprojection`).
    """

    dampings: tuple[float | Raw, ...] = ()
    curvatures: tuple[str, ...] = ()
    scores: tuple[str | Raw, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()
    ranks: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = ()


class SweepFile(Section):
    """A sweep's file: `audit`, the path of a config or the config itself, and the `grid`."""

    audit: str | Raw
    grid: Grid = Field(default_factory=Grid)


@dataclass(frozen=True)
class Point:
    """One point of the grid: its settings as they are shown, and its config."""

    settings: Raw
    config: AuditConfig


def load_points(root: str, path: str | Path) -> list[Point]:
    """The points of a sweep's file, in the order of its lists; settings that make the same config are one point.

    Raises:
        ConfigError: the file, the audit in it, or a point is invalid; or there are more than MOST_POINTS.
    """
    sweep, folder = _read(path), Path(path).resolve().parent
    if isinstance(sweep.audit, str):
        place = folder / sweep.audit
        base, folder = read_mapping(place), place.resolve().parent
    else:
        base = sweep.audit
    if sweep.grid.ranks:
        _check_projected(path, base)
    points: dict[str, Point] = {}
    for settings in _products(sweep.grid):
        config = AuditConfig.parse({**_with(base, settings), "root": root}, str(folder))
        effective = [_effective(model.model_dump(mode="json")) for model in config.models]
        points.setdefault(json.dumps(effective, sort_keys=True), Point(settings, config))
    if len(points) > MOST_POINTS:
        raise ConfigError(
            f"{path}: the grid has {len(points):,} points, a sweep takes at most {MOST_POINTS:,}; leave some out"
        )
    return list(points.values())


def _read(path: str | Path) -> SweepFile:
    try:
        return SweepFile.model_validate(read_mapping(Path(path)))
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
            for detail in error.errors(include_url=False)
        ]
        known = ", ".join(Grid.model_fields)
        raise ConfigError(
            f"{path}: {'; '.join(lines)}; a sweep has audit (a config, or its path) and grid (of {known})"
        ) from error


def _check_projected(path: str | Path, base: Raw) -> None:
    """Refuse ranks for an audit that has a model whose rows are not projected."""
    models = base.get("models")
    for section in (base, *(models if isinstance(models, list) else [])):
        estimator = section.get("estimator") if isinstance(section, dict) else None
        if isinstance(estimator, dict) and estimator.get("kind") == "loss_trace":
            raise ConfigError(
                f"{path}: grid.ranks: rows of estimator.kind: loss_trace are losses, which are not projected and have "
                "no rank; leave ranks out"
            )


def _products(grid: Grid) -> Iterator[Raw]:
    """The settings of every point, by their names in a config's sections."""
    dampings: list[JsonValue] = [
        {"kind": "relative_mean", "factor": one} if isinstance(one, float) else one for one in grid.dampings
    ]
    axes: dict[str, list[JsonValue]] = {
        "curvature": list(grid.curvatures),
        "damping": dampings,
        "score": list(grid.scores),
        "layers": [[*patterns] for patterns in grid.layers],
        "rank": list(grid.ranks),
    }
    given = {name: values for name, values in axes.items() if values}
    for values in product(*given.values()):
        yield dict(zip(given, values, strict=True))


def _with(base: Raw, settings: Raw) -> Raw:
    """The mapping of an audit with the settings of a point, which override those of its models."""
    over, models = _sections(settings), base.get("models")
    if isinstance(models, list):
        sections = [model for model in models if isinstance(model, dict)]
        models = [merge(model, {name: over[name] for name in over if name in model}) for model in sections]
    return {**merge(base, over), "models": models}


def _sections(settings: Raw) -> Raw:
    """The sections of a config that hold the settings of a point. A damping does not apply to identity."""
    curvature: Raw = {"kind": settings["curvature"]} if "curvature" in settings else {}
    if settings.get("curvature") != "identity" and "damping" in settings:
        curvature["damping"] = settings["damping"]
    score = settings.get("score")
    estimator: Raw = {"layers": settings["layers"]} if "layers" in settings else {}
    if "rank" in settings:
        estimator["projection"] = {"rank": settings["rank"]}
    sections: Raw = {
        "curvature": curvature,
        "score": score if isinstance(score, dict) else {"kind": score} if score else {},
        "estimator": estimator,
    }
    return {name: section for name, section in sections.items() if section}


def _effective(model: Raw) -> Raw:
    """A model's settings without the damping of a curvature that has none."""
    curvature = model["curvature"]
    identity = isinstance(curvature, dict) and curvature["kind"] == "identity"
    return {**model, "curvature": "identity"} if identity else model
