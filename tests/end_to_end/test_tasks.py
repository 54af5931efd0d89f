"""Audits of models of tensors: one output, several labels, or numbers; each against the same thing said otherwise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import nn

from pipeline.config.audit_config import AuditConfig, merge
from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from tests.audits import audited, table

CODE = """
from torch import nn

class Squeezed(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).squeeze(1)

class Ended(nn.Module):
    def __init__(self, net, function):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, x):
        return self.function(self.net(x))

class TwoLogits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        z = self.net(x)
        return nn.functional.pad(z, (1, 0))

class Apart(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, numbers, kind):
        last = numbers.new_tensor([0, 0, 0, 1])
        return self.net(nn.functional.pad(numbers, (0, 1)) + kind.unsqueeze(1).float() * last)

def plain(outputs=1):
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs))

def squeezed():
    return Squeezed(plain())

def sigmoid(outputs=1):
    return Ended(plain(outputs), nn.Sigmoid())

def two():
    return TwoLogits(plain())

def apart():
    return Apart(plain())
"""

Maker = Callable[..., AuditConfig]


@pytest.fixture
def config(tmp_path: Path) -> Maker:
    """Audits of the networks above, all with the same weights but for the number of outputs."""
    (tmp_path / "net.py").write_text(CODE)
    rng = np.random.default_rng(0)
    for split, count in (("trusted", 120), ("audited", 40)):
        x = rng.normal(size=(count, 4)).astype(np.float32)
        x[:, 3] = rng.integers(0, 3, count)
        columns = {name: x[:, place] for place, name in enumerate("abcd")}
        samples = {"id": [f"{split}{row}" for row in range(count)], **columns, "whole": x[:, 3].astype(np.int64)}
        features = pa.FixedSizeListArray.from_arrays(pa.array(x[:, :3].ravel()), 3)
        pq.write_table(pa.table({**samples, "numbers": features}), tmp_path / f"{split}.parquet")

    def make(function: str, task: str, root: str, outputs: int = 1, **sections: JsonValue) -> AuditConfig:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs))
        prefix = "" if function == "plain" else "net."
        weights = f"{prefix}{outputs}.safetensors"
        save_file({f"{prefix}{name}": value for name, value in net.state_dict().items()}, tmp_path / weights)
        model: dict[str, JsonValue] = {"name": "net", "architecture": f"net.py:{function}", "weights": weights}
        if outputs != 1:
            model["kwargs"] = {"outputs": outputs}
        raw: dict[str, JsonValue] = {
            "root": root,
            "task": task,
            "models": [model],
            "data": {
                "trusted": "trusted.parquet",
                "audited": "audited.parquet",
                "columns": {"inputs": {"input" if function == "plain" else "x": ["a", "b", "c", "d"]}},
            },
            "estimator": {"rows_dtype": "float32"},
            "calibration": {"target": {"fpr": 0.1}},
        }
        return AuditConfig.parse(merge(raw, sections), str(tmp_path))

    return make


def scores(audit: Audit) -> list[float]:
    found: list[float] = table(audit, "net").column("score").to_pylist()
    return found


@pytest.mark.parametrize("curvature", ["block_moment", "ggn", "kfac"])
def test_one_logit_is_two_logits_of_which_one_is_zero(config: Maker, curvature: str) -> None:
    kinds: dict[str, JsonValue] = {"curvature": {"kind": curvature}}
    two = audited(config("two", "classification", "two", **kinds))
    for function in ("plain", "squeezed"):
        one = audited(config(function, "binary", function, **kinds))
        np.testing.assert_allclose(scores(one), scores(two), atol=1e-5)
        for column in ("prediction", "confidence"):
            ours, theirs = (table(audit, "net").column(column).to_numpy() for audit in (one, two))
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert set(table(two, "net").column("prediction").to_pylist()) == {0, 1}


def test_loss_traces_of_one_logit_are_those_of_two(config: Maker, tmp_path: Path) -> None:
    samples = pq.read_table(tmp_path / "trusted.parquet")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    own = net(torch.tensor(samples.slice(60).select(["a", "b", "c", "d"]).to_pandas().to_numpy())) > 0
    sampling = samples.slice(60).append_column("label", pa.array(own.long().squeeze(1).numpy()))
    pq.write_table(sampling, tmp_path / "sampling.parquet")
    pq.write_table(samples.slice(0, 60), tmp_path / "trusted.parquet")
    estimator: JsonValue = {"kind": "loss_trace", "sampling": "sampling.parquet", "draws": 20, "burn_in": 4, "thin": 2}
    sections: dict[str, JsonValue] = {"calibration": {"target": {"fpr": 0.2}}}
    found = []
    for function, task in (("plain", "binary"), ("two", "classification")):
        traced = config(function, task, function, **sections)
        raw = {**traced.models[0].model_dump(exclude={"estimator"}, exclude_unset=True), "estimator": estimator}
        found.append(scores(audited(AuditConfig.parse({"root": function, "models": [raw]}, str(tmp_path)))))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize("task", ["binary", "multi_label"])
def test_probabilities_are_measured_as_their_logits(config: Maker, task: str) -> None:
    outputs = 1 if task == "binary" else 3
    logits = audited(config("plain", task, "logits", outputs))
    ended = config("sigmoid", task, "ended", outputs)
    with pytest.raises(ConfigError, match=r"all lie in \[0, 1\], as probabilities do\. .* Set outputs: probabilities"):
        plan_audit(ended)
    said = ended.model_copy(update={"models": (ended.models[0].model_copy(update={"outputs": "probabilities"}),)})
    np.testing.assert_allclose(scores(audited(said)), scores(logits), atol=1e-4)
    wrong = config("plain", task, "wrong", outputs)
    wrong = wrong.model_copy(update={"models": (wrong.models[0].model_copy(update={"outputs": "probabilities"}),)})
    with pytest.raises(ConfigError, match=r"are no probabilities, which lie in \[0, 1\]"):
        plan_audit(wrong)


def gradients(measured: Callable[[torch.Tensor], torch.Tensor], outputs: int, folder: Path) -> np.ndarray:
    """Of each trusted sample, by autograd, (n, parameters of both matrices)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs))
    samples = pq.read_table(folder / "trusted.parquet").select(["a", "b", "c", "d"]).to_pandas().to_numpy()
    found = []
    for sample in torch.tensor(samples):
        value = measured(net(sample.unsqueeze(0))[0])
        first, second = torch.autograd.grad(value, [net[0].weight, net[2].weight])
        found.append(torch.cat([first.flatten(), second.flatten()]).numpy())
    return np.stack(found)


def test_rows_of_labels_are_gradients_of_the_predicted_ones(config: Maker, tmp_path: Path) -> None:
    def measured(z: torch.Tensor) -> torch.Tensor:
        labels = [label for label, value in enumerate(z.tolist()) if value > 0] or [int(z.argmax())]
        return -sum((z[label].abs() for label in labels), torch.zeros(()))

    audit = audited(config("plain", "multi_label", "root", 3))
    np.testing.assert_allclose(
        audit.rows("net", split="trusted").compute(), gradients(measured, 3, tmp_path), rtol=1e-4, atol=1e-6
    )
    one = audited(config("plain", "multi_label", "one", 3, estimator={"measured": [1]}))
    named = config(
        "plain", "multi_label", "one", 3, estimator={"measured": "dog"}, data={"labels": ["cat", "dog", "fox"]}
    )
    assert audited(named).summary("net").stages["gradients"].tasks_run == 0
    of_label = gradients(lambda z: -z[1].abs(), 3, tmp_path)
    np.testing.assert_allclose(one.rows("net", split="trusted").compute(), of_label, rtol=1e-4, atol=1e-6)


def test_a_regression_is_measured_by_its_output(config: Maker, tmp_path: Path) -> None:
    for function, root in (("plain", "plain"), ("squeezed", "squeezed")):
        audit = audited(config(function, "regression", root))
        of_output = gradients(lambda f: f[0], 1, tmp_path)
        np.testing.assert_allclose(audit.rows("net", split="trusted").compute(), of_output, rtol=1e-4, atol=1e-6)
        found = table(audit, "net")
        assert set(found.column("prediction").to_pylist()) == {-1}
        assert found.column("confidence").null_count == len(found)
        assert all(score is not None for score in scores(audit))
        assert audit.summary("net").classes == ()


def test_several_inputs_go_to_the_arguments_of_their_names(config: Maker) -> None:
    """Whole numbers stay whole: the model casts them itself."""
    together = audited(config("squeezed", "regression", "together"))
    columns: JsonValue = {"inputs": {"numbers": "numbers", "kind": "whole"}}
    apart = audited(config("apart", "regression", "apart", data={"columns": columns}))
    np.testing.assert_allclose(scores(apart), scores(together), atol=1e-5)


REFUSED: dict[str, tuple[str, dict[str, JsonValue], str]] = {
    "a score of classes": (
        "regression",
        {"score": {"kind": "prediction_coupling"}},
        "score.kind: prediction_coupling makes no sense for the task regression; valid: auto, top_coupling, mean_coup",
    ),
    "a curvature of a loss": (
        "multi_label",
        {"curvature": {"kind": "ggn"}},
        "curvature.kind: ggn makes no sense for the task multi_label; valid: identity, block_moment",
    ),
    "a measurement of another task": (
        "binary",
        {"estimator": {"measurement": "output"}},
        "estimator.measurement: output makes no sense for the task binary; valid: auto, margin",
    ),
    "screening without classes": (
        "regression",
        {"calibration": {"screen": True}},
        "it needs task: classification or b",
    ),
    "traces of no loss": (
        "regression",
        {"estimator": {"kind": "loss_trace", "sampling": "s.parquet", "rows_dtype": None}},
        "loss_trace needs a loss, which the task regression has none of; valid: gradient",
    ),
    "outputs chosen of classes": (
        "binary",
        {"estimator": {"measured": [0]}},
        "measured chooses among the outputs of the tasks multi_label and regression, and the task is binary",
    ),
}


@pytest.mark.parametrize(("task", "sections", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_task_has_not_is_refused_with_what_it_has(
    config: Maker, task: str, sections: dict[str, JsonValue], message: str
) -> None:
    estimator = sections.get("estimator")
    if isinstance(estimator, dict) and "rows_dtype" in estimator:
        sections = {"estimator": {key: value for key, value in estimator.items() if value is not None}}
    with pytest.raises(ConfigError) as caught:
        config("plain", task, "root", **sections)
    assert message in str(caught.value)


def test_outputs_of_another_task_are_told(config: Maker) -> None:
    with pytest.raises(ConfigError, match=r"got shape \(4, 1\); .*one output for each sample is of the task binary"):
        plan_audit(config("plain", "classification", "root"))
    with pytest.raises(ConfigError, match=r"the task binary is of models with one output .* task: classification"):
        plan_audit(config("plain", "binary", "root", 3))
    with pytest.raises(ConfigError, match=r"no output 'cow'; nobody names the outputs; give their numbers, from 0"):
        plan_audit(config("plain", "multi_label", "root", 3, estimator={"measured": ["cow"]}))
    with pytest.raises(ConfigError, match=r"no output 5: the model has 3, counted from 0"):
        plan_audit(config("plain", "multi_label", "root", 3, estimator={"measured": [5]}))
