"""Rows of single tokens: each the gradient of its own margin, all of a text's summing to the text's."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from madcore import ModelError, per_sample_rows, per_token_rows, select_layers, token_margin
from tests.languages import MODELS, VOCABULARY, double_norms, gpt2, texts
from tests.madcore.checks import tokens_of
from tests.madcore.test_tokens import LENGTHS, PROJECTION, checked
from tests.madcore.zoo import Mixture
from tests.reference import autograd_token_rows

PARAMETERS = pytest.mark.parametrize("parameters", ["matrices", "all"])


@PARAMETERS
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_rows_of_tokens_sum_to_the_texts(
    build: Callable[[], nn.Module], parameters: Literal["matrices", "all"]
) -> None:
    """In float32, as audits compute."""
    model, tokens = build(), tokens_of(texts(LENGTHS), 14)
    layers = select_layers(model, parameters=parameters).covered
    rows = per_sample_rows(model, tokens.inputs, layers=layers, projection=PROJECTION, measurement=token_margin(tokens))
    of_tokens = per_token_rows(model, tokens, layers=layers, projection=PROJECTION)
    assert of_tokens.shape == (*tokens.ids.shape, rows.shape[1])
    assert float(((of_tokens.double().sum(dim=1) - rows).norm(dim=1) / rows.norm(dim=1)).max()) < 1e-6


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_row_of_a_token_is_the_gradient_of_its_own_margin(build: Callable[[], nn.Module]) -> None:
    """The text up to a token, with that token as its completion, has the token's row: attention only looks back."""
    model, samples = double_norms(build()), texts(LENGTHS)
    layers = select_layers(model, parameters="all").covered
    rows = per_token_rows(model, tokens_of(samples, 14), layers=layers, projection=PROJECTION)
    for row, (ids, start) in zip(rows, samples, strict=True):
        alone = autograd_token_rows(model, layers, [(ids[: t + 1], t) for t in range(start, len(ids))], PROJECTION)
        torch.testing.assert_close(row[start : len(ids)], alone, rtol=1e-10, atol=1e-10)
        assert not row[:start].any() and not row[len(ids) :].any()


class WithFallback(nn.Module):
    """A language model with a direct parameter and a custom module."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.shift, self.inner = (
            nn.Embedding(VOCABULARY, 6),
            nn.Parameter(torch.randn(1, 1, 6)),
            Mixture(),
        )
        self.head = nn.Linear(5, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, s) to (n, s, V)."""
        return self.head(torch.tanh(self.inner(self.embedding(input_ids) + self.shift)))


def test_rows_of_tokens_by_copies_and_the_fallback_sum_to_the_texts() -> None:
    model, tokens = WithFallback().double().eval(), tokens_of(texts(LENGTHS))
    nn.init.normal_(model.inner.experts)
    layers = checked(model, "all").covered
    assert {layer.way.split()[0] for layer in layers} == {"formula", "copies", "fallback"}
    rows = per_sample_rows(model, tokens.inputs, layers=layers, projection=PROJECTION, measurement=token_margin(tokens))
    torch.testing.assert_close(
        per_token_rows(model, tokens, layers=layers, projection=PROJECTION).sum(dim=1), rows, rtol=1e-10, atol=1e-10
    )


class Checkpointing(nn.Module):
    """A language model whose block is computed again in every backward pass."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.embedding, self.block, self.head = (
            nn.Embedding(VOCABULARY, 6),
            nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6)),
            nn.Linear(6, VOCABULARY),
        )
        self.use_reentrant = use_reentrant

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, s) to (n, s, V)."""
        return self.head(
            torch.tanh(checkpoint(self.block, self.embedding(input_ids), use_reentrant=self.use_reentrant))
        )


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["by saved tensors", "reentrant"])
@PARAMETERS
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_rows_of_tokens_through_checkpointed_blocks_sum_to_the_texts(
    use_reentrant: bool, parameters: Literal["matrices", "all"]
) -> None:
    model, tokens = Checkpointing(use_reentrant).double().eval(), tokens_of(texts(LENGTHS))
    layers = select_layers(model, parameters=parameters).covered
    rows = per_sample_rows(model, tokens.inputs, layers=layers, projection=PROJECTION, measurement=token_margin(tokens))
    torch.testing.assert_close(
        per_token_rows(model, tokens, layers=layers, projection=PROJECTION).sum(dim=1), rows, rtol=1e-10, atol=1e-10
    )
    assert rows.any(dim=0).all()


def test_rows_of_tokens_need_a_term_per_token() -> None:
    model, tokens = gpt2(), tokens_of(texts(LENGTHS))
    with pytest.raises(ModelError, match=r"expected a measurement \(samples, terms\) of 5 samples, got shape \(5,\)"):
        per_token_rows(model, tokens, measurement=token_margin)
