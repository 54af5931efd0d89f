"""Outputs that are probabilities: measured as log(1 - p) - log p where the config says so, else refused."""

import copy

import pytest
import torch
from torch import Tensor, nn

from madcore import Measured, Projection, RowExtractor, margin, select_layers
from madcore.measurements import predictions_and_confidence
from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError
from pipeline.models.outputs import adapt_outputs, check_outputs

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-30.0, 0.0, 30.0], [0.1, 0.2, 0.3]])


def model(outputs: str | None) -> ModelConfig:
    entry = {
        "name": "net",
        "architecture": "net.py:build",
        "weights": "w",
        "task": "classification",
        "outputs": outputs,
    }
    return ModelConfig.model_validate({**entry, "data": {"trusted": "t", "audited": "a"}})


def refusal(outputs: str | None, values: Tensor) -> str:
    with pytest.raises(SourceError) as caught:
        check_outputs(model(outputs), values)
    return str(caught.value)


def test_logarithms_of_probabilities_have_the_margin_of_the_logits_and_the_confidence_p() -> None:
    linear = nn.Linear(3, 3, bias=False)
    linear.weight.data = torch.eye(3)
    network = nn.Sequential(linear, nn.Softmax(dim=1)).eval()
    adapt_outputs(network, model("probabilities"))
    outputs = copy.deepcopy(network)(LOGITS)
    p = LOGITS.double().softmax(dim=1).amax(dim=1)
    expected = torch.log1p(-p[[0, 2]]) - p[[0, 2]].log()
    torch.testing.assert_close(margin(outputs).double()[[0, 2]], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(margin(outputs), margin(LOGITS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(predictions_and_confidence(outputs)[1].double(), p, rtol=1e-6, atol=1e-6)


def test_rows_of_probabilities_are_those_of_the_logits_also_where_the_model_is_certain() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    ended = nn.Sequential(*copy.deepcopy(plain), nn.Softmax(dim=1)).eval()
    adapt_outputs(ended, model("probabilities"))
    for network in (plain, ended):
        network[2].weight.data *= 100  # type: ignore[operator]
    inputs, layers = torch.randn(16, 6), select_layers(plain, ["*"]).covered
    assert [layer.name for layer in select_layers(ended, ["*"]).covered] == [layer.name for layer in layers]
    rows = [RowExtractor(network, layers, Projection(8))(Measured(inputs, margin)).rows for network in (plain, ended)]
    assert plain(inputs).softmax(dim=1).amax() > 0.999999
    torch.testing.assert_close(rows[1], rows[0], rtol=1e-3, atol=1e-3)


def test_probabilities_are_refused_unless_they_are_meant() -> None:
    p = LOGITS.softmax(dim=1)
    assert "outputs on 3 trusted samples (the first: 0.786, 0.0391, 0.175) are probabilities" in refusal(None, p)
    assert "Return the logits" in refusal(None, p) and "or set outputs: probabilities" in refusal(None, p)
    broken = torch.full((1, 3), torch.nan)
    assert "outputs on 3 trusted samples" in refusal(None, torch.cat([broken, p])), "others tell nothing"
    assert check_outputs(model("logits"), p) == check_outputs(model(None), broken) == ""
    assert check_outputs(model("probabilities"), p.log()) == ""
    assert check_outputs(model(None), torch.cat([p, 0.9 * p])).startswith("all outputs on 6"), "some do not sum to 1"


@pytest.mark.parametrize(
    "values", [LOGITS, LOGITS.log_softmax(dim=1), torch.zeros(4, 3)], ids=["logits", "log-probabilities", "constant"]
)
def test_logits_are_taken_without_a_word_and_are_no_probabilities(values: Tensor) -> None:
    assert check_outputs(model(None), values) == ""
    taken = values.clamp(min=torch.finfo().tiny).log()  # as the hook gives them
    assert "are no probabilities, which lie in [0, 1] and sum to 1" in refusal("probabilities", taken)


def test_outputs_of_a_sigmoid_are_warned_about_unless_they_are_meant() -> None:
    values = LOGITS.sigmoid()
    assert "all outputs on 3 trusted samples lie in [0, 1], as a sigmoid's do" in check_outputs(model(None), values)
    assert check_outputs(model("logits"), values) == ""
    assert "are no probabilities" in refusal("probabilities", values.log())
