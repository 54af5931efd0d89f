"""Image classifiers of transformers from config alone: the rows of the same module and preprocessing by hand."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import JsonValue
from safetensors.torch import save_file
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit
from tests.languages import save

pytestmark = pytest.mark.usefixtures("one_thread")

BY_HAND = """
from pathlib import Path

from transformers import AutoConfig, AutoModelForImageClassification


def build(folder):
    return AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(folder))
"""

PREPROCESS: JsonValue = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "size": 16}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "vit": lambda: ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=16,
            patch_size=4,
            num_labels=3,
            id2label={0: "cat", 1: "dog", 2: "owl"},
        )
    ),
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ),
}


def pictures(path: Path, rows: int, seed: int, heights: tuple[int, int] = (17, 30)) -> None:
    """Pictures of sizes that all differ from the model's."""
    generator = np.random.default_rng(seed)
    encoded = []
    for _ in range(rows):
        pixels = generator.integers(0, 256, (int(generator.integers(*heights)), 24, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    pq.write_table(pa.table({"id": [f"{path.stem}-{row}" for row in range(rows)], "image": encoded}), path)


def folder(place: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    save(model, place)
    ViTImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    ).save_pretrained(place)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, place.parent / "own.safetensors"
    )


def config(place: Path, entries: list[dict[str, JsonValue]]) -> AuditConfig:
    data: JsonValue = {"trusted": "trusted.parquet", "audited": "audited.parquet"}
    raw: dict[str, JsonValue] = {
        "root": "root",
        "task": "classification",
        "models": [*entries],
        "data": data,
        "estimator": {"rows_dtype": "float32"},
        "calibration": {"target": {"fpr": 0.1}},
    }
    return AuditConfig.parse(raw, str(place))


def rows(audit: Audit, model: str) -> np.ndarray:
    return np.asarray(audit.rows(model, split="audited").compute())


@pytest.mark.parametrize("kind", MODELS)
def test_rows_are_those_of_the_same_module_with_the_preprocessing_by_hand(tmp_path: Path, kind: str) -> None:
    folder(tmp_path / "model", kind)
    pictures(tmp_path / "trusted.parquet", 40, 1)
    pictures(tmp_path / "audited.parquet", 20, 2)
    (tmp_path / "net.py").write_text(BY_HAND)
    given: dict[str, JsonValue] = {"data": {"preprocess": PREPROCESS}}
    kwargs: JsonValue = {"folder": str(tmp_path / "model")}
    entries: list[dict[str, JsonValue]] = [
        {"name": "own", "architecture": "net.py:build", "kwargs": kwargs, "weights": "own.safetensors", **given},
        {"name": "folder", "huggingface": "model"},
        {"name": "overridden", "huggingface": "model", **given},
    ]
    plan = plan_audit(config(tmp_path, entries))
    assert not plan.refused
    assert len({model.row_key for model in plan.models}) == 3
    audit = run_audit(plan)
    assert audit.outcome is not None and audit.outcome.clean
    own = rows(audit, "own")
    assert np.abs(own).max() > 0
    np.testing.assert_array_equal(rows(audit, "overridden"), own)
    np.testing.assert_allclose(rows(audit, "folder"), own, rtol=1e-4, atol=1e-5 * float(np.abs(own).max()))
    again = plan_audit(config(tmp_path, entries))
    assert all(model.known for model in again.models)
    assert [model.row_key for model in again.models] == [model.row_key for model in plan.models]


def test_another_processor_is_another_row_key_and_none_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "model", "vit")
    pictures(tmp_path / "trusted.parquet", 40, 1)
    pictures(tmp_path / "audited.parquet", 4, 2)
    entries: list[dict[str, JsonValue]] = [{"name": "vit", "huggingface": "model"}]
    before = plan_audit(config(tmp_path, entries)).models[0]
    document = tmp_path / "model" / "preprocessor_config.json"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"image_mean": [0.1, 0.1, 0.1]}))
    assert plan_audit(config(tmp_path, entries)).models[0].row_key != before.row_key
    document.unlink()
    with pytest.raises(ConfigError) as caught:
        plan_audit(config(tmp_path, entries))
    assert str(caught.value) == (
        "model vit: huggingface model: nothing there says how an image becomes its input; put preprocessor_config.json "
        "into the folder, or set data.preprocess: {mean: [...], std: [...], size: ...} as the model was trained"
    )


def test_without_weights_the_processor_is_part_of_the_plan(tmp_path: Path) -> None:
    folder(tmp_path / "model", "vit")
    pictures(tmp_path / "trusted.parquet", 40, 1)
    pictures(tmp_path / "audited.parquet", 4, 2)
    entries: list[dict[str, JsonValue]] = [{"name": "vit", "huggingface": "model"}]
    loaded = plan_audit(config(tmp_path, entries)).models[0]
    (tmp_path / "model" / "model.safetensors").unlink()
    plan = plan_audit(config(tmp_path, entries)).models[0]
    assert plan.weightless
    assert (plan.inputs, plan.classes, plan.layers) == (loaded.inputs, 3, loaded.layers)


def test_pictures_of_any_shape_without_a_resize_cost_themselves(tmp_path: Path) -> None:
    folder(tmp_path / "model", "resnet")
    document = tmp_path / "model" / "preprocessor_config.json"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"do_resize": False}))
    pictures(tmp_path / "trusted.parquet", 60, 1, heights=(20, 21))
    pictures(tmp_path / "audited.parquet", 30, 2, heights=(20, 22))
    audit = run_audit(plan_audit(config(tmp_path, [{"name": "net", "huggingface": "model"}])))
    assert audit.outcome is not None and not audit.outcome.failures
    statuses = set(audit.scores("net").read_all()["status"].to_pylist())
    assert "ok" in statuses
    assert any("the model's own preprocessing makes the shape (3, " in status for status in statuses)


def test_a_recipe_of_huge_images_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "model", "vit")
    pictures(tmp_path / "trusted.parquet", 40, 1)
    pictures(tmp_path / "audited.parquet", 4, 2)
    document = tmp_path / "model" / "preprocessor_config.json"
    huge = {"size": {"height": 100_000, "width": 16}}
    document.write_text(json.dumps(json.loads(document.read_text()) | huge))
    with pytest.raises(ConfigError, match="it makes images of 100,000 pixels a side, at most 8,192 are made"):
        plan_audit(config(tmp_path, [{"name": "vit", "huggingface": "model"}]))
