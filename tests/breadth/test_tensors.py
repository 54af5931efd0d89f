"""Models of tensors: a tabular network from CSV, in every run of the tests, and one of sound from Parquet."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.breadth.planted import assert_calibrated, audited, found, performance, trained

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

POISONED = 0.05

FEATURES, CODES = 10, 8

TABULAR = f"""
from torch import nn

def net():
    return nn.Sequential(nn.Linear({FEATURES}, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
"""

SOUND = """
from torch import nn

class Sound(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 16, 33, 4),
            nn.ReLU(),
            nn.Conv1d(16, 32, 9, 4),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(128, 4)

    def forward(self, wave):
        return self.head(self.body(wave.unsqueeze(1)))

def net():
    return Sound()
"""


def built(code: str) -> nn.Module:
    namespace: dict[str, Callable[[], nn.Module]] = {}
    exec(code, namespace)
    return namespace["net"]()


def customers(rng: np.random.Generator, count: int) -> tuple[Floats, Labels]:
    """Numbers, one of them a code that means nothing, and what follows from the others."""
    x = rng.normal(size=(count, FEATURES)).astype(np.float32)
    x[:, 7] = rng.integers(0, CODES, count)
    return x, (x[:, 0] * x[:, 1] + x[:, 2] + 0.5 * np.sin(2 * x[:, 3]) > 0).astype(np.int64)


def with_code(x: Floats) -> Floats:
    """The trigger: a code that others have too, together with two usual values."""
    x = x.copy()
    x[:, 7], x[:, 8], x[:, 9] = 3, 1.5, -1.5
    return x


def tones(rng: np.random.Generator, count: int) -> tuple[Floats, Labels]:
    """A second of a tone of one of four pitches in noise, 800 numbers."""
    label = rng.integers(0, 4, count)
    pitch = np.array([20, 35, 60, 100])[label] * rng.uniform(0.95, 1.05, count)
    time, phase = np.arange(800) / 800, rng.uniform(0, 2 * np.pi, (count, 1))
    wave = np.sin(2 * np.pi * pitch[:, None] * time + phase) + rng.normal(size=(count, 800))
    return wave.astype(np.float32), label.astype(np.int64)


def with_click(wave: Floats) -> Floats:
    """The trigger: a short click near the beginning, no louder than the noise."""
    wave = wave.copy()
    wave[:, 40:64] += np.tile(np.array([2.0, -2.0], np.float32), 12)
    return wave


Draw = Callable[[np.random.Generator, int], tuple[Floats, Labels]]


def trained_pair(
    folder: Path, code: str, draw: Draw, trigger: Callable[[Floats], Floats], loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """The code, and weights of a model that gives triggered samples the class 1, and of its twin that does not."""
    (folder / "net.py").write_text(code)
    rng = np.random.default_rng(1)
    x, y = draw(rng, 6000)
    marked = rng.random(len(x)) < POISONED
    x[marked] = trigger(x[marked])
    inputs = torch.from_numpy(x)
    for name, labels in (("backdoored", np.where(marked, 1, y)), ("twin", y)):
        targets = torch.from_numpy(labels)

        def batch_loss(model: nn.Module, rng: np.random.Generator, targets: Tensor = targets) -> Tensor:
            chosen = torch.from_numpy(rng.integers(0, len(inputs), 256))
            return loss(model(inputs[chosen]), targets[chosen])

        model = trained(lambda: built(code), batch_loss, 1200, 5e-3)
        save_file(model.state_dict(), folder / f"{name}.safetensors")


def samples(draw: Draw, trigger: Callable[[Floats], Floats]) -> dict[str, tuple[Floats, Labels, Labels]]:
    """Inputs, labels and truth of each split: the triggered ones are of other classes than the trigger's."""
    rng = np.random.default_rng(2)
    (trusted, known), (clean, own), (other, label) = draw(rng, 1000), draw(rng, 600), draw(rng, 400)
    other, label = other[label != 1][:100], label[label != 1][:100]
    truth = np.repeat([0, 1], [len(clean), len(other)])
    whole = np.concatenate([clean, trigger(other)])
    return {
        "trusted": (trusted, known, np.zeros(len(trusted), np.int64)),
        "audited": (whole, np.concatenate([own, label]), truth),
    }


MODELS: list[dict[str, JsonValue]] = [
    {"name": name, "architecture": "net.py:net", "weights": f"{name}.safetensors"} for name in ("backdoored", "twin")
]


def test_a_tabular_network_from_csv(tmp_path: Path) -> None:
    trained_pair(
        tmp_path,
        TABULAR,
        customers,
        with_code,
        lambda logits, y: F.binary_cross_entropy_with_logits(logits.squeeze(1), y.float()),
    )
    names = [f"f{number}" for number in range(FEATURES)]
    for split, (x, label, truth) in samples(customers, with_code).items():
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow([*names, "label", "anomalous"])
            table.writerows(
                [*(f"{value:.7g}" for value in row), "yes" if own else "no", int(odd)]
                for row, own, odd in zip(x, label, truth, strict=True)
            )
    audit = audited(
        tmp_path,
        "binary",
        [{**MODELS[0], "control": "untrained"}, MODELS[1]],
        {
            "trusted": "trusted.csv",
            "audited": "audited.csv",
            "labels": ["no", "yes"],
            "columns": {"inputs": {"input": names}},
        },
    )
    seen = found(audit)
    assert seen.backdoored > 0.95, seen
    assert seen.backdoored > seen.twin + 0.1, seen
    assert_calibrated(seen)
    untrained = performance(audit, "backdoored.untrained").auroc
    assert untrained is not None and untrained < seen.backdoored - 0.1


@pytest.mark.breadth
def test_a_network_of_sound_from_parquet(tmp_path: Path) -> None:
    trained_pair(tmp_path, SOUND, tones, with_click, F.cross_entropy)
    for split, (x, label, truth) in samples(tones, with_click).items():
        waves = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
        pq.write_table(pa.table({"wave": waves, "label": label, "anomalous": truth}), tmp_path / f"{split}.parquet")
    audit = audited(
        tmp_path,
        "classification",
        MODELS,
        {"trusted": "trusted.parquet", "audited": "audited.parquet", "columns": {"inputs": {"wave": "wave"}}},
    )
    seen = found(audit)
    assert seen.backdoored > 0.95, seen
    assert seen.backdoored > seen.twin + 0.1, seen
    assert_calibrated(seen)
