"""`output` names or numbers the one of several outputs that counts; rows are those of a model that returns it alone."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.errors import ConfigError, SourceError
from pipeline.models.chosen_output import choose_output
from pipeline.planning.from_models import plan_audit
from tests.pipeline.config.configs import complaint

INPUTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

Several = Callable[[Tensor, Tensor], object]

KINDS: dict[str, tuple[Several, str | int]] = {
    "a dict": (lambda one, two: {"one": one, "two": two}, "two"),
    "a tuple": (lambda one, two: (one, two), 1),
    "a list, from its end": (lambda one, two: [one, two], -1),
    "an object": (lambda one, two: SimpleNamespace(one=one, two=two), "two"),
}


class Net(nn.Module):
    def __init__(self, several: Several) -> None:
        super().__init__()
        self.one, self.two, self.several = nn.Linear(3, 2), nn.Linear(3, 5), several

    def forward(self, inputs: Tensor) -> object:
        return self.several(self.one(inputs), self.two(inputs))


def model(output: str | int | None) -> ModelConfig:
    entry = {"name": "net", "architecture": "net.py:build", "weights": "w", "task": "classification", "output": output}
    return ModelConfig.model_validate({**entry, "data": {"trusted": "t", "audited": "a"}})


@pytest.mark.parametrize("kind", KINDS)
def test_the_named_output_is_the_one_that_counts(kind: str) -> None:
    several, output = KINDS[kind]
    net = Net(several)
    choose_output(net, model(output))
    assert torch.equal(net(INPUTS), net.two(INPUTS))
    assert set(dict(net.named_modules())) == {"", "one", "two"}


@pytest.mark.parametrize(
    ("kind", "output", "says"),
    [
        ("a dict", "logits", "takes its output 'logits', which it has not; it returns 'one', 'two'"),
        ("a dict", 0, "takes its output 0, which it has not; it returns 'one', 'two'"),
        ("a tuple", 2, "takes its output 2, which it has not; it returns 2 outputs, 0 to 1"),
        ("a tuple", "one", "takes its output 'one', which it has not; it returns 2 outputs, 0 to 1"),
        ("an object", "three", "which it has not; it returns an object of type SimpleNamespace"),
    ],
)
def test_an_output_that_is_not_there_is_refused_with_those_that_are(kind: str, output: str | int, says: str) -> None:
    net = Net(KINDS[kind][0])
    choose_output(net, model(output))
    with pytest.raises(SourceError) as caught:
        net(INPUTS)
    assert says in str(caught.value)


def test_an_output_that_is_no_tensor_is_refused() -> None:
    net = Net(lambda one, two: {"both": [one, two]})
    choose_output(net, model("both"))
    with pytest.raises(SourceError, match="output 'both', which is of type list, not a tensor"):
        net(INPUTS)


BUILD = """
from torch import nn


class Net(nn.Module):
    def __init__(self, alone):
        super().__init__()
        self.one, self.two, self.alone = nn.Linear(3, 2), nn.Linear(3, 5), alone

    def forward(self, x):
        return self.two(x) if self.alone else {"one": self.one(x), "two": self.two(x)}


def build(alone):
    return Net(alone)
"""


def config(folder: Path, **own: JsonValue) -> AuditConfig:
    (folder / "net.py").write_text(BUILD)
    torch.manual_seed(0)
    state = {
        f"{name}.{key}": value
        for name, size in (("one", 2), ("two", 5))
        for key, value in nn.Linear(3, size).state_dict().items()
    }
    save_file(state, folder / "net.safetensors")
    for split in ("trusted", "audited"):
        columns = {"id": [f"{split}-{row}" for row in range(40)], "x": torch.randn(40, 3).tolist()}
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    inputs: JsonValue = {"inputs": {"x": "x"}}
    data: JsonValue = {"trusted": "trusted.parquet", "audited": "audited.parquet", "columns": inputs}
    entry: dict[str, JsonValue] = {"name": "net", "architecture": "net.py:build", "weights": "net.safetensors"}
    models: JsonValue = [{**entry, "kwargs": {"alone": False}, **own}]
    raw: dict[str, JsonValue] = {"root": "root", "task": "classification", "models": models, "data": data}
    return AuditConfig.parse({**raw, "calibration": {"target": {"fpr": 0.1}}}, str(folder))


def test_a_plan_takes_the_output_and_its_key_says_which(tmp_path: Path) -> None:
    one, two = (plan_audit(config(tmp_path, output=name)).models[0] for name in ("one", "two"))
    assert (one.classes, two.classes) == (2, 5)
    assert one.row_key != two.row_key
    with pytest.raises(ConfigError, match="or name one in the model's entry, such as output: one"):
        plan_audit(config(tmp_path))


def test_output_is_no_key_of_language_models() -> None:
    text = "huggingface: /m\narchitecture: null\nweights: null\ntask: causal_lm\noutput: logits"
    assert complaint("", text).startswith("models.net: output is for models of images")
