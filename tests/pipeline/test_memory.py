"""What a language model's pass needs, counted from what autograd keeps."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from madcore import Measured, TokenBatch, token_margin
from pipeline.memory import TextBytes, saved_bytes
from tests.languages import MODELS, POSITIONS, gpt2


def bytes_at(model: PreTrainedModel, length: int) -> int:
    """Of a text of this length, all but its first token the completion."""
    tokens = TokenBatch.of([torch.arange(length)], [1])
    return saved_bytes(model, Measured(tokens.inputs, token_margin(tokens)))


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_texts_bytes_are_bounded_by_those_of_another_length(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    measured = {length: bytes_at(model, length) for length in (4, 8, 16, POSITIONS)}
    for known, found in measured.items():
        for length, other in measured.items():
            assert TextBytes(known, found).of(length) >= 0.95 * other


def test_logits_count_as_often_as_they_are_kept() -> None:
    narrow, wide = (bytes_at(gpt2(vocabulary=vocabulary), POSITIONS) for vocabulary in (1_000, 11_000))
    logits = 4 * POSITIONS * 10_000
    assert 2 * logits <= wide - narrow <= 6 * logits


def test_nothing_is_left_on_the_model() -> None:
    model = gpt2()
    bytes_at(model, 8)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
