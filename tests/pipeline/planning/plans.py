"""Plans of models that do not exist, whose layers, files and settings a test chooses."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from infra.storage.identity import InputFile
from madcore import Layer, RowLayout, SideLayout
from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import Columns
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.inputs.images import ImageInputs
from pipeline.planning.memory import ProjectedMemory
from pipeline.planning.plan import ModelPlan
from pipeline.planning.recipe import RowRecipe

LAYERS = (Layer("first", "weight", (4, 9)), Layer("second", "weight", (3, 4)))


SIDES = SideLayout(RowLayout(("first.weight", "second.weight"), (8, 6)), ((2, 4), (3, 2)))


MEMORY = ProjectedMemory(gradients=1000, curvature=700, scoring=800, reporting=600)


def source(name: str, rows: int, *truth: str) -> Source:
    return Source(InputFile(name, f"/data/{name}", 100 * rows, "1"), rows, Columns(), truth)


def model_config(name: str = "net", **sections: JsonValue) -> ModelConfig:
    """A classifier of the sections given over the defaults."""
    return audit_config([name], **sections).models[0]


def audit_config(names: Sequence[str] = ("net",), root: str = "root", **sections: JsonValue) -> AuditConfig:
    data: dict[str, JsonValue] = {"trusted": "trusted.parquet", "audited": "day-*.parquet"}
    models: list[JsonValue] = [
        {"name": name, "architecture": "net:net", "weights": "net.safetensors"} for name in names
    ]
    return AuditConfig.parse(
        {"root": root, "task": "classification", "models": models, "data": data, **sections}, "/configs"
    )


def row_recipe(**changes: object) -> RowRecipe:
    """Of two layers, ten classes, 20 trusted and 50 audited samples."""
    values: Mapping[str, object] = {
        "patterns": ("*",),
        "snapshots_key": "",
        "layers": LAYERS,
        "sides": SIDES,
        "fallback": {},
        "not_covered": {},
        "classes": 10,
        "inputs": ImageInputs((8, 8)),
        "trusted": (source("trusted.parquet", 20),),
        "audited": (source("day-1.parquet", 30), source("day-2.parquet", 20)),
        "sampling": (),
        "weights": 48,
        "rows_per_task": 16,
    }
    return RowRecipe.model_validate({**values, **changes})


def model_plan(config: ModelConfig | None = None, **changes: object) -> ModelPlan:
    """A plan of `row_recipe(**changes)`."""
    recipe = row_recipe(**changes)
    return ModelPlan(
        config=config or model_config(),
        source=None,
        digest="digest",
        row_key="rowkey",
        recipe=recipe,
        sides=recipe.sides,
        refused_files={},
        memory=MEMORY,
    )
