"""Large batches go through the model in parts, with the same rows, logits and bytes whatever batches came before."""

import pytest
import torch
from torch import nn

from madcore import Measured, Projection, RowExtractor, margin, select_layers, token_margin
from madcore.measurements import PART_MULTIPLE
from tests.languages import double_norms, gpt2, texts
from tests.madcore.checks import tokens_of
from tests.madcore.models import LAYER_CASES, batch_of, with_head
from tests.reference import autograd_rows, autograd_token_rows

PROJECTION = Projection(rank=3, seed=1)


CASE = LAYER_CASES["conv2d"]


def sizes_seen(model: nn.Module) -> list[int]:
    """The sizes of the batches that a model sees from now on, in a list that is not its own, which would be undone."""
    seen = list[int]()
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


def extractor(model: nn.Module) -> RowExtractor:
    return RowExtractor(model.eval(), select_layers(model, parameters="all").covered, PROJECTION)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No input of a layer may have more bytes than the smallest part's."""
    monkeypatch.setattr("madcore.extraction.extractor.PART_BYTES", 1)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("n", "parts"), [(0, [0]), (1, [1]), (8, [8]), (9, [8, 1]), (16, [8, 8]), (29, [8, 8, 8, 5])])
def test_as_few_parts_as_can_be_and_nearly_equal(n: int, parts: list[int]) -> None:
    model = with_head(CASE.body(), CASE.sample_shape)
    rows_of, batch, seen = extractor(model), batch_of(n, CASE.sample_shape), sizes_seen(model)
    computed = rows_of(Measured(batch, margin))
    assert seen[-len(parts) :] == parts
    torch.testing.assert_close(computed.outputs, model(batch), rtol=1e-12, atol=1e-12)
    if n:
        expected = autograd_rows(model, select_layers(model, parameters="all").covered, batch, PROJECTION)
        torch.testing.assert_close(computed.rows, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("small")
def test_texts_are_taken_apart_with_what_is_measured_of_them() -> None:
    model, samples = double_norms(gpt2()), texts(range(2, 22))
    tokens = tokens_of(samples)
    computed = extractor(model)(Measured(tokens.inputs, token_margin(tokens)))
    expected = autograd_token_rows(model, select_layers(model, parameters="all").covered, samples, PROJECTION)
    torch.testing.assert_close(computed.rows, expected, rtol=1e-9, atol=1e-9)
    assert computed.outputs.shape[:2] == tokens.ids.shape


@pytest.mark.usefixtures("small")
def test_an_unknown_measurement_sees_the_whole_batch() -> None:
    model = with_head(CASE.body(), CASE.sample_shape)
    labels, rows_of, seen = torch.arange(20) % 3, extractor(model), sizes_seen(model)
    rows = rows_of(
        Measured(batch_of(20, CASE.sample_shape), lambda logits: logits.gather(1, labels.unsqueeze(1)).squeeze(1))
    ).rows
    assert seen == [20] and rows.abs().sum() > 0


def test_a_part_is_as_large_as_the_largest_input_of_a_layer_lets_it_be() -> None:
    """12 MiB for the Linear's input, 2048 numbers of 4 bytes a sample; and no fewer samples than the smallest part."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2048, 2)).eval()
    assert extractor(model).at_once(Measured(torch.zeros(3, 2048), margin)) == 1536
    model = nn.Sequential(nn.Flatten(), nn.Linear(1 << 21, 2)).eval()
    assert extractor(model).at_once(Measured(torch.zeros(3, 1 << 21), margin)) == PART_MULTIPLE


def test_the_same_batch_has_the_same_bytes_whatever_came_before() -> None:
    model = with_head(CASE.body(), (2, 48, 48)).float()
    batch, other = batch_of(400, (2, 48, 48)).float(), batch_of(30, (2, 48, 48)).float()
    fresh, used = extractor(model), extractor(model)
    used(Measured(other, margin))
    assert fresh.at_once(Measured(batch, margin)) < 400
    assert torch.equal(fresh(Measured(batch, margin)).rows, used(Measured(batch, margin)).rows)
