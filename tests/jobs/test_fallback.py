"""A model with layers that have no formula: plan and run name the fallback; scores do not depend on the batch."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.jobs.command import Json, mad, section, table
from tests.jobs.conftest import Configure

SOURCE = '''
import torch
from torch import nn

class Mixing(nn.Module):
    """Not a kind that has a formula."""
    def __init__(self):
        super().__init__()
        self.mixing = nn.Parameter(torch.zeros(2, 16, 16))
    def forward(self, x):
        return torch.einsum("neo,keo,ne->no", x.unsqueeze(2) * torch.ones(16), self.mixing, x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.shift = nn.Linear(192, 16), nn.Parameter(torch.zeros(1, 16))
        self.mixing, self.head = Mixing(), nn.Linear(16, 10)
    def forward(self, x):
        return self.head(torch.tanh(self.mixing(torch.tanh(self.stem(x.flatten(1)) + self.shift))))
'''


RECURRENT = '''
from torch import nn

class Net(nn.Module):
    """Reads an image row by row."""
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(24, 12, batch_first=True), nn.Linear(12, 10)
    def forward(self, x):
        return self.head(self.cells(x.transpose(1, 2).flatten(2))[1][0][-1])
'''


def saved(folder: Path, source: str, shapes: Mapping[str, tuple[int, ...]]) -> Json:
    """A model's section, its source and random weights of these shapes in the folder."""
    (folder / "own.py").write_text(source)
    generator = torch.Generator().manual_seed(0)
    save_file(
        {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()},
        folder / "own.safetensors",
    )
    return {"name": "own", "architecture": "own.py:Net", "weights": "own.safetensors"}


@pytest.fixture
def own_kind(inputs: Path) -> Json:
    """Of a layer that has no formula."""
    shapes = {
        "stem.weight": (16, 192),
        "stem.bias": (16,),
        "shift": (1, 16),
        "mixing.mixing": (2, 16, 16),
        "head.weight": (10, 16),
        "head.bias": (10,),
    }
    return saved(inputs, SOURCE, shapes)


@pytest.fixture
def recurrent(inputs: Path) -> Json:
    """Of a layer that cannot be computed for many samples at once."""
    shapes = {"weight_ih_l0": (48, 24), "weight_hh_l0": (48, 12), "bias_ih_l0": (48,), "bias_hh_l0": (48,)}
    return saved(
        inputs,
        RECURRENT,
        {**{f"cells.{name}": shape for name, shape in shapes.items()}, "head.weight": (10, 12), "head.bias": (10,)},
    )


def test_the_plan_and_the_summary_list_what_the_fallback_takes(
    own_kind: Json, configure: Configure, root: Path
) -> None:
    config = configure(models=[own_kind], estimator={"parameters": "all"})
    layers = section(mad("plan", config, "--output", "json").document, "models", "own", "layers")
    assert list(section(layers, "covered")) == [
        "shift",
        "stem.weight",
        "stem.bias",
        "mixing.mixing",
        "head.weight",
        "head.bias",
    ]
    assert (layers["fallback"], layers["not_covered"]) == (["mixing.mixing"], {})
    cost = section(layers, "fallback_cost", "mixing.mixing")
    assert (cost["module"], cost["gradient_bytes"]) == ("mixing", 4 * 512)
    assert cost["parameters_share"] == pytest.approx(512 / (192 * 16 + 16 + 16 + 512 + 160 + 10))
    text = mad("plan", config).out
    assert (
        "own: by the fallback: mixing.mixing: mixing, with 14 % of the model's parameters, "
        "runs forward and backward once more" in text
    )
    assert "a whole gradient of 2.0 KiB" in text
    ended = mad("run", config, "--output", "json")
    assert section(ended.document, "models", "own", "layers")["fallback"] == ["mixing.mixing"]
    scores = {row["sample_id"]: row["score"] for row in table(root, "own")}
    other = root.parent / "other"
    mad("run", configure(root=str(other), models=[own_kind], estimator={"parameters": "all"}, run={"batch_size": 7}))
    for row in table(other, "own"):
        assert row["score"] == pytest.approx(scores[row["sample_id"]], abs=1e-5)


def test_a_recurrent_model_goes_one_by_one(recurrent: Json, configure: Configure, root: Path) -> None:
    config = configure(models=[recurrent], estimator={"parameters": "all"})
    layers = section(mad("plan", config, "--output", "json").document, "models", "own", "layers")
    assert layers["not_covered"] == {}
    assert section(layers, "fallback_cost", "cells.weight_hh_l0")["one_by_one"] is True
    planned = mad("plan", config, "-q")
    assert "own: by the fallback: cells.weight_hh_l0: cells, with 93 % of the model's parameters" in planned.out
    assert "runs forward and backward once more, sample by sample in a loop, and each sample has" in planned.out
    assert planned.err == ""
    assert mad("run", config).code == 0
    assert {row["status"] for row in table(root, "own")} == {"ok"}


def test_matrices_that_modules_hold_directly_are_covered_by_default(own_kind: Json, configure: Configure) -> None:
    layers = section(mad("plan", configure(models=[own_kind]), "--output", "json").document, "models", "own", "layers")
    assert list(section(layers, "covered")) == ["stem.weight", "mixing.mixing", "head.weight"]
    assert layers["fallback"] == ["mixing.mixing"]
    shift = "it is taken for a table and no weight matrix, because it has shape (1, 16)"
    assert layers["not_covered"] == {"shift": f"{shift}; with parameters `all` it can be covered"}
