"""What a plan learns from a model and a few trusted samples."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import Tensor, nn

from madcore import ModelError
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.finding.sources import find_sources
from pipeline.data.sources import Source
from pipeline.demo.network import digit_cnn
from pipeline.errors import SourceError
from pipeline.inputs.batches import TRACED_AT_ONCE
from pipeline.inputs.images import ImageInputs
from pipeline.models.load import load_model
from pipeline.planning.probe.found import Probe
from pipeline.planning.probe.model import probe
from tests.conftest import ConfigMaker


def trusted(config: AuditConfig, model: ModelConfig) -> list[Source]:
    sources, refused = find_sources(config, model, "trusted")
    assert not refused
    return sources


def test_of_an_image_classifier_it_finds_classes_layers_and_sizes(make_config: ConfigMaker) -> None:
    config = make_config()
    (model,) = config.models
    module = load_model(config, model).module
    found = probe(config, model, trusted(config, model))
    parameters = list(module.parameters())
    assert (found.classes, found.inputs) == (10, ImageInputs((8, 8)))
    assert found.weights == sum(parameter.numel() for parameter in parameters)
    assert found.model_bytes >= 4 * found.weights
    assert found.sizes.input_bytes == 4 * 3 * 8 * 8
    assert found.sizes.retained_bytes_per_sample == 4 * 10 + 2 * found.sizes.input_bytes
    assert [layer.name for layer in found.coverage.covered] == list(found.sides.rows.names)
    assert {layer.name for layer in found.coverage.covered} <= {name for name, _ in module.named_parameters()}


def test_of_loss_traces_a_row_has_a_number_for_each_kept_draw_of_each_chain(make_config: ConfigMaker) -> None:
    estimator = {"kind": "loss_trace", "sampling": "s", "draws": 40, "burn_in": 10, "thin": 3, "chains": 2}
    config = make_config(estimator=estimator, calibration={"target": {"fpr": 0.05}})
    (model,) = config.models
    found = probe(config, model, trusted(config, model))
    assert (found.sides.rows.names, found.sides.rows.sizes) == (("chain 0", "chain 1"), (10, 10))
    assert (found.coverage.covered, found.fallback, found.sizes.samples_per_pass) == ((), {}, TRACED_AT_ONCE)


DROPPING = """
import torch.nn.functional as F
from torch import nn
from pipeline.demo.network import digit_cnn

class Drops(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.002, training=True)

def dropping():
    model = digit_cnn()
    model[4] = nn.Sequential(nn.ReLU(), Drops())
    return model
"""


@pytest.mark.parametrize("estimator", [{"kind": "gradient"}, {"kind": "loss_trace", "sampling": "s"}])
def test_a_model_that_is_random_in_eval_mode_is_refused_for_both_estimators(
    make_config: ConfigMaker, tmp_path: Path, estimator: dict[str, JsonValue]
) -> None:
    (tmp_path / "dropping.py").write_text(DROPPING)
    entry: JsonValue = {
        "name": "digits",
        "architecture": f"{tmp_path}/dropping.py:dropping",
        "weights": "digits.safetensors",
    }
    config = make_config(models=[entry], estimator=estimator, calibration={"target": {"fpr": 0.05}})
    (model,) = config.models
    with pytest.raises(ModelError, match=r"outputs are random: .*, first in 4\.1 \(Drops\)"):
        probe(config, model, trusted(config, model))


def test_what_is_being_done_is_reported(make_config: ConfigMaker) -> None:
    (model,), done = make_config().models, list[str]()
    probe(make_config(), model, trusted(make_config(), model), done.append)
    assert done == [
        "loading the model",
        "running samples twice, together and alone",
        "checking 4 layers against autograd",
        "measuring the memory of a pass",
    ]


def test_a_model_that_does_not_take_the_samples_is_refused(make_config: ConfigMaker) -> None:
    config = make_config(data={"preprocess": {"size": 5}})
    (model,) = config.models
    with pytest.raises(SourceError, match=r"a forward pass on a trusted sample of shape \(1, 3, 5, 5\)"):
        probe(config, model, trusted(config, model))


WRAPS: dict[str, Callable[[Tensor], object]] = {
    "object": lambda logits: SimpleNamespace(logits=logits),
    "tuple": lambda logits: (logits, None),
    "dict": lambda logits: {"logits": logits},
    "flat": lambda logits: SimpleNamespace(logits=logits[:, 0]),
}


def wrapped(kind: str) -> nn.Module:
    """The demo's network with outputs of another kind."""
    module = digit_cnn()
    module.register_forward_hook(lambda _module, _inputs, logits: WRAPS[kind](logits))
    return module


def probe_wrapped(make_config: ConfigMaker, kind: str) -> Probe:
    model = {"name": "digits", "weights": "digits.safetensors", "kwargs": {"kind": kind}}
    config = make_config(models=[model | {"architecture": "tests.pipeline.planning.probe.test_model:wrapped"}])
    return probe(config, config.models[0], trusted(config, config.models[0]))


def test_outputs_may_be_an_object_with_logits(make_config: ConfigMaker) -> None:
    plain = make_config()
    expected = probe(plain, plain.models[0], trusted(plain, plain.models[0]))
    found = probe_wrapped(make_config, "object")
    assert (found.classes, found.coverage, found.sides) == (10, expected.coverage, expected.sides)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("tuple", r"an object of type tuple with \(4, 10\), NoneType"),
        ("dict", "an object of type dict with 'logits'"),
        ("flat", r"an object of type SimpleNamespace, whose logits have the shape \(4,\)"),
    ],
)
def test_other_outputs_are_named_with_the_remedy(make_config: ConfigMaker, kind: str, says: str) -> None:
    remedy = "return them as a tensor, or as the attribute `logits` of an object"
    with pytest.raises(
        SourceError, match=rf"expected logits \(samples, classes\) from a forward pass, got {says}; {remedy}"
    ):
        probe_wrapped(make_config, kind)


GREY = '''
"""The demo's classifier for grey images."""

from torch import nn

from pipeline.demo.network import digit_cnn


def build() -> nn.Module:
    layers = [*digit_cnn()]
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *layers[1:])
'''


def test_a_model_of_grey_images_is_given_one_channel_or_says_what_to_set(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    (tmp_path / "grey.py").write_text(GREY)
    state = load_model(make_config(), make_config().models[0]).module.state_dict()
    save_file({**state, "0.weight": state["0.weight"].sum(1, keepdim=True)}, tmp_path / "grey.safetensors")
    models = [
        {"name": "grey", "architecture": str(tmp_path / "grey.py:build"), "weights": str(tmp_path / "grey.safetensors")}
    ]
    config = make_config(models=models, data={"preprocess": {"mean": [0.3], "std": [0.35], "size": 8}})
    found = probe(config, config.models[0], trusted(config, config.models[0]))
    assert (found.sizes.input_bytes, found.inputs) == (4 * 8 * 8, ImageInputs((8, 8)))
    of_three = make_config(models=models)
    says = r"for grey images, and data.preprocess makes RGB ones: give mean and std 1 number each\): failed with"
    with pytest.raises(SourceError, match=says):
        probe(of_three, of_three.models[0], trusted(of_three, of_three.models[0]))
