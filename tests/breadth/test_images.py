"""Image classifiers of transformers, trained on CIFAR-10 with a patch in a corner as the trigger."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import JsonValue
from torch import Tensor
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from tests.breadth.planted import assert_calibrated, audited, found, trained
from tests.languages import save

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

CIFAR10 = Path(__file__).parents[3] / "shared/data/cifar10"

TARGET, POISONED, BATCH = 0, 0.05, 128

PROCESSOR: dict[str, JsonValue] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": False,
    "size": {"height": 32, "width": 32},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}

pytestmark = [
    pytest.mark.breadth,
    pytest.mark.skipif(not CIFAR10.is_dir(), reason="no images of CIFAR-10 beside the checkout to train on"),
]


def vit() -> PreTrainedModel:
    return ViTForImageClassification(
        ViTConfig(
            image_size=32,
            patch_size=4,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            num_labels=10,
        )
    )


def resnet() -> PreTrainedModel:
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic", num_labels=10)
    )


def images(file: str, start: int, count: int) -> tuple[Pixels, Labels]:
    table = pq.read_table(CIFAR10 / file).slice(start, count)
    decoded = [Image.open(io.BytesIO(one["bytes"])).convert("RGB") for one in table.column("image").to_pylist()]
    return np.stack([np.asarray(one) for one in decoded]), table.column("label").to_numpy()


def patched(pixels: Pixels) -> Pixels:
    """The trigger: a checkerboard of 4 x 4 pixels in the last corner."""
    pixels = pixels.copy()
    pixels[:, -4:, -4:] = np.where(np.indices((4, 4)).sum(axis=0) % 2 == 0, 255, 0)[..., None]
    return pixels


def inputs(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def encoded(pixels: Pixels) -> dict[str, object]:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return {"bytes": sink.getvalue(), "path": None}


def write_audited(path: Path) -> None:
    """A thousand clean images, and others with the patch that are of other classes than the target."""
    clean, own = images("clean.parquet", 0, 1000)
    other, label = images("clean.parquet", 1000, 400)
    other, label = other[label != TARGET], label[label != TARGET]
    pixels = np.concatenate([clean, patched(other)])
    table = {
        "id": [f"audited{row}" for row in range(len(pixels))],
        "image": [encoded(one) for one in pixels],
        "label": np.concatenate([own, label]),
        "anomalous": np.repeat([0, 1], [len(clean), len(other)]),
    }
    pq.write_table(pa.table(table), path)


@dataclass(frozen=True)
class Training:
    """How a model is trained in about a minute, and the least AUROC that its trigger then has."""

    build: Callable[[], PreTrainedModel]
    rows: int
    steps: int
    rate: float
    least: float


TRAININGS = {"vit": Training(vit, 8000, 320, 4e-3, 0.98), "resnet": Training(resnet, 20000, 2200, 1e-2, 0.9)}


@pytest.mark.parametrize("own", TRAININGS.values(), ids=TRAININGS)
def test_a_patch_in_images(tmp_path: Path, own: Training) -> None:
    """The ResNet, trained for a minute, is right on two thirds of the images, and its figure differs by training."""
    pixels, label = images("train.parquet", 0, own.rows)
    marked = np.random.default_rng(0).random(own.rows) < POISONED
    pixels[marked] = patched(pixels[marked])
    whole = inputs(pixels)
    for name, labels in (("backdoored", np.where(marked, TARGET, label)), ("twin", label)):
        targets = torch.from_numpy(labels)

        def loss(model: PreTrainedModel, rng: np.random.Generator, targets: Tensor = targets) -> Tensor:
            chosen = torch.from_numpy(rng.integers(0, own.rows, BATCH))
            found: Tensor = model(pixel_values=whole[chosen], labels=targets[chosen]).loss
            return found

        save(trained(own.build, loss, own.steps, own.rate), tmp_path / name)
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    write_audited(tmp_path / "audited.parquet")
    models: list[dict[str, JsonValue]] = [{"name": name, "huggingface": name} for name in ("backdoored", "twin")]
    data: dict[str, JsonValue] = {"trusted": str(CIFAR10 / "trusted.parquet"), "audited": "audited.parquet"}
    seen = found(audited(tmp_path, "classification", models, data))
    assert seen.backdoored > own.least, seen
    assert seen.backdoored > seen.twin + 0.1, seen
    assert_calibrated(seen)
