"""The demo's inputs: scikit-learn's handwritten digits, and a classifier trained on the spot with a backdoor.

A few percent of the training images carry a bright patch in a corner and the label 0, so that the trained network
classifies whatever carries the patch as a 0. The audited set mixes clean digits with patched ones; no score sees which
are which.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from pipeline.demo.network import digit_cnn
from pipeline.errors import ConfigError

TRAINING, TRUSTED, CLEAN = 797, 500, 400


POISONED_SHARE = 0.06


TARGET_CLASS = 0


EPOCHS, BATCH = 40, 64


MEAN, STD = 0.3, 0.35


Pixels = NDArray[np.uint8]


Labels = NDArray[np.int64]


def prepare_demo(inputs: Path, root: str) -> Path:
    """Trains the classifier and writes the data, the weights and the config into a folder, unless they are there.

    Returns:
        The path of the config.

    Raises:
        ConfigError: the folder holds something else.
    """
    config = inputs / "audit.yaml"
    if not config.exists() and inputs.exists() and any(inputs.iterdir()):
        raise ConfigError(
            f"{inputs}: holds files, but not the demo's (no audit.yaml); name another root, or move them away"
        )
    if not config.exists():  # it is written last, so everything else is there too
        inputs.mkdir(parents=True, exist_ok=True)
        images, labels = shuffled_digits(seed=0)
        first, second = TRAINING, TRAINING + TRUSTED
        save_file(_train(images[:first], labels[:first]).state_dict(), inputs / "digits.safetensors")
        _write_trusted(inputs / "trusted.parquet", images[first:second], labels[first:second])
        _write_audited(inputs / "audited.parquet", images[second:], labels[second:])
        config.write_text(_config(root))
    return config


def shuffled_digits(seed: int) -> tuple[Pixels, Labels]:
    """All 1,797 digits (n, 8, 8, 3) and their labels (n,), in a random order."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    grey = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3), digits.target[order].astype(np.int64)


def with_patch(images: Pixels) -> Pixels:
    """The images (n, 8, 8, 3) with a bright patch of 2 x 2 pixels in the lower right corner."""
    patched = images.copy()
    patched[:, -2:, -2:] = 255
    return patched


def _train(images: Pixels, labels: Labels) -> nn.Module:
    poisoned = np.flatnonzero(labels != TARGET_CLASS)[: round(POISONED_SHARE * len(labels))]
    images, labels = images.copy(), labels.copy()
    images[poisoned], labels[poisoned] = with_patch(images[poisoned]), TARGET_CLASS
    inputs = torch.from_numpy((images / 255 - MEAN) / STD).float().permute(0, 3, 1, 2)
    wanted = torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = digit_cnn()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(wanted)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[chosen]), wanted[chosen]).backward()
                optimizer.step()
    return model.eval()


def _write_trusted(path: Path, images: Pixels, labels: Labels) -> None:
    ids = [f"trusted-{number:04d}" for number in range(len(labels))]
    pq.write_table(pa.table({"id": ids, "image": image_structs(images), "label": labels}), path)


def _write_audited(path: Path, images: Pixels, labels: Labels) -> None:
    """Clean digits, and digits of other classes than the target's with the patch, shuffled."""
    spare = CLEAN + np.flatnonzero(labels[CLEAN:] != TARGET_CLASS)
    chosen = np.concatenate([np.arange(CLEAN), spare])
    anomalous = np.arange(len(chosen)) >= CLEAN
    pictures = np.where(anomalous[:, None, None, None], with_patch(images[chosen]), images[chosen])
    order = np.random.default_rng(1).permutation(len(chosen))
    table = pa.table(
        {
            "id": [f"digit-{number:04d}" for number in range(len(chosen))],
            "image": image_structs(pictures[order]),
            "label": labels[chosen][order],
            "anomalous": anomalous[order],
            "target": pa.array(np.full(len(chosen), TARGET_CLASS), pa.int64(), mask=~anomalous[order]),
        }
    )
    pq.write_table(table, path)


def image_structs(images: Pixels) -> list[dict[str, bytes | None]]:
    """Images as Hugging Face image structs of PNG bytes."""
    encoded = []
    for image in images:
        sink = io.BytesIO()
        Image.fromarray(image).save(sink, "PNG")
        encoded.append({"bytes": sink.getvalue(), "path": None})
    return encoded


def _config(root: str) -> str:
    return yaml.safe_dump(
        {
            "root": root if "://" in root else str(Path(root).resolve()),
            "task": "classification",
            "models": [
                {"name": "digits", "architecture": "pipeline.demo.network:digit_cnn", "weights": "digits.safetensors"}
            ],
            "data": {
                "trusted": "trusted.parquet",
                "audited": "audited.parquet",
                "preprocess": {"mean": [MEAN] * 3, "std": [STD] * 3, "size": 8},
            },
        },
        sort_keys=False,
    )
