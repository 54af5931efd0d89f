"""What a pass needs, counted from the tensors that live in it, against what a process is seen to take."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from madcore import Measured, Projection, RowExtractor, TokenBatch, select_layers, token_margin
from pipeline.data.batches import TextBytes
from pipeline.planning.memory import batch_bytes, pass_bytes
from pipeline.planning.probe import ROOM
from tests.benchmarks.memory import peaks
from tests.benchmarks.models import CASES
from tests.languages import MODELS, POSITIONS, gpt2


def bytes_at(model: PreTrainedModel, length: int) -> int:
    """Of a text of this length, all but its first token the completion."""
    tokens = TokenBatch.of([torch.arange(length)], [1])
    extractor = RowExtractor(model, select_layers(model, ["*", "!lm_head"]).covered, Projection())
    return pass_bytes(extractor, Measured(tokens.inputs, token_margin(tokens)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_two_lengths_tell_the_bytes_of_any_other(build: Callable[[], PreTrainedModel], attention: str) -> None:
    model = build()
    model.set_attn_implementation(attention)
    memory = TextBytes.fitted((8, bytes_at(model, 8)), (16, bytes_at(model, 16)))
    assert (memory.per_pair > 10) == (attention == "eager")
    for length in (12, 24, POSITIONS):
        assert memory.of(length) == pytest.approx(bytes_at(model, length), rel=0.1)


@pytest.mark.parametrize(("per_token", "per_pair"), [(20_000, 0), (0, 200), (10_000, 100)])
def test_the_fit_is_exact_where_it_is_exact(per_token: int, per_pair: int) -> None:
    memory = TextBytes.fitted(*((length, per_token * length + per_pair * length**2) for length in (50, 100)))
    assert [memory.of(length) for length in (1, 99, 1000)] == [
        per_token * length + per_pair * length**2 for length in (1, 99, 1000)
    ]


def test_what_does_not_grow_is_counted_as_if_it_did() -> None:
    memory = TextBytes.fitted((50, 1000), (100, 1000))
    assert [memory.of(length) for length in (50, 100)] == [1000, 2000]
    assert TextBytes.fitted((2, 100), (2, 100)).of(2) == 100


def test_logits_count_as_often_as_they_are_kept() -> None:
    narrow, wide = (bytes_at(gpt2(vocabulary=vocabulary), POSITIONS) for vocabulary in (1_000, 11_000))
    logits = 4 * POSITIONS * 10_000
    assert 1.9 * logits <= wide - narrow <= 6 * logits


def test_nothing_is_left_on_the_model() -> None:
    model = gpt2()
    bytes_at(model, 8)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


BATCHES = {"zoo-resnet": 128, "gpt2-1m": 32, "gpt2-25m": 4, "vit-5m": 16}


@pytest.mark.parametrize("name", CASES)
def test_what_a_plan_projects_bounds_what_rows_take_within_a_factor_of_two(name: str) -> None:
    """And rows take at most 1.3 times the memory of a training step, each measured in a process of its own."""
    case, batch = CASES[name], BATCHES[name]
    model = case.build()
    extractor = RowExtractor(model, case.covered(model, "matrices").covered, Projection())
    one = case.measured(case.inputs(1))
    output = extractor(one).outputs.nbytes + 2 * case.inputs(1).nbytes
    projected = batch_bytes(
        batch, extractor.at_once(one), round(ROOM * pass_bytes(extractor, one)), output + 3 * 4 * extractor.layout.k
    )
    measured = dict(peaks(name, batch, ("step", "matrices")))
    assert measured["matrices"] <= projected <= 2 * measured["matrices"]
    assert measured["matrices"] <= 1.3 * measured["step"]
