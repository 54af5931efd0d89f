"""Language models: measurements equal slow twins, rows equal autograd's on unpadded texts, padding changes nothing."""

from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from madcore import (
    LayerError,
    Measured,
    ModelError,
    Projection,
    RowExtractor,
    TokenBatch,
    check_layers,
    completion_confidence,
    completion_logits,
    completion_nll,
    per_sample_rows,
    select_layers,
    token_margin,
)
from madcore.extraction.selection import Coverage
from tests.languages import MODELS, VOCABULARY, double_norms, gpt2, llama, texts
from tests.madcore.checks import tokens_of
from tests.reference import autograd_token_rows, completion_nll_of_one, token_margin_of_one
from tests.strategies import LAW, seeds

PROJECTION = Projection(rank=5, seed=2)


LENGTHS = (7, 2, 12, 12, 9)


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


FAMILIES = (
    lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, intermediate_size=36, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8)
    ),
    lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, intermediate_size=36)),
    lambda: OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=36, word_embed_proj_dim=24, pad_token_id=1)),
)


def logits_for(tokens: TokenBatch, seed: int, scale: float = 3.0) -> Tensor:
    """Random logits, float64; those of padding are no numbers, so that using them shows."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*tokens.ids.shape, VOCABULARY, dtype=torch.float64, generator=generator)
    return logits.masked_fill(
        (torch.arange(tokens.ids.shape[1]) >= tokens.lengths.unsqueeze(1)).unsqueeze(2), float("nan")
    )


TWINS = {"token_margin": (token_margin, token_margin_of_one), "completion_nll": (completion_nll, completion_nll_of_one)}


@pytest.mark.parametrize(("measurement", "twin"), TWINS.values(), ids=TWINS)
@LAW
@given(seed=seeds, lengths=st.lists(st.integers(2, 12), min_size=1, max_size=5), padding=st.integers(0, 4))
def test_measurements_equal_their_slow_twins(
    measurement: Callable[..., Callable[[Tensor], Tensor]],
    twin: Callable[..., Tensor],
    seed: int,
    lengths: list[int],
    padding: int,
) -> None:
    samples = texts(lengths, seed)
    tokens = tokens_of(samples, max(lengths) + padding)
    logits = logits_for(tokens, seed)
    expected = [twin(one[: len(ids)], ids.tolist(), start) for one, (ids, start) in zip(logits, samples, strict=True)]
    torch.testing.assert_close(measurement(tokens)(logits), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_a_completion_of_several_turns_is_measured_at_its_own_tokens() -> None:
    ids = [torch.tensor([3, 1, 4, 1, 5]), torch.tensor([9, 2, 6])]
    turns = [torch.tensor([0, 1, 0, 0, 1]).bool(), torch.tensor([0, 0, 1]).bool()]
    tokens = TokenBatch.of_spans(ids, turns, 8)
    assert [row.nonzero().flatten().tolist() for row in tokens.predicted] == [[0, 3], [1]]
    assert tokens.present.sum(dim=1).tolist() == [5, 3]
    logits = logits_for(tokens, 0)
    parts = [completion_nll(TokenBatch.of([ids[0][: stop + 1]], [stop], 8))(logits[:1]) for stop in (1, 4)]
    torch.testing.assert_close(completion_nll(tokens)(logits)[:1], parts[0] + parts[1])
    torch.testing.assert_close(completion_nll(tokens.some(slice(1, 2)))(logits[1:]), completion_nll(tokens)(logits)[1:])


@pytest.mark.parametrize("turns", [[0, 0, 0], [1, 0, 1], [0, 1]])
def test_a_completion_of_no_token_of_the_first_or_of_another_length_is_refused(turns: list[int]) -> None:
    with pytest.raises(ValueError, match=r"a completion must have a token, not the first one, .* sequence 1 has 3 tok"):
        TokenBatch.of_spans(
            [torch.arange(2), torch.arange(3)], [torch.tensor([False, True]), torch.tensor(turns).bool()]
        )


def test_the_confidence_is_the_geometric_mean_of_the_completions_probabilities() -> None:
    samples = texts(LENGTHS)
    tokens = tokens_of(samples)
    logits = logits_for(tokens, 0)
    confidence = completion_confidence(tokens, logits)
    for one, value, (ids, start) in zip(logits, confidence, samples, strict=True):
        probabilities = [one[t - 1].softmax(dim=0)[ids[t]] for t in range(start, len(ids))]
        assert float(value) == pytest.approx(
            float(torch.stack(probabilities).prod()) ** (1 / len(probabilities)), rel=1e-5
        )
    assert confidence.dtype == torch.float32


def test_a_margin_keeps_its_gradient_where_the_model_is_certain() -> None:
    tokens = TokenBatch.of([torch.tensor([0, 1])], [1])
    logits = torch.zeros(1, 2, VOCABULARY)
    logits[0, 0, 1] = 80.0
    logits.requires_grad_(True)
    value = token_margin(tokens)(logits)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert float(value.detach()) == pytest.approx(torch.log(torch.tensor(VOCABULARY - 1.0)).item() - 80)
    assert float(grad[0, 0, 1]) == -1
    assert float(grad[0, 0].sum()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 12), (5, 12), (5, 11, VOCABULARY), (4, 12, VOCABULARY), (5, 12, 1)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ModelError,
        match=r"expected logits \(samples, positions, vocabulary\) of 5 x 12 tokens; the model returned shape",
    ):
        token_margin(tokens_of(texts(LENGTHS)))(torch.zeros(shape))


@pytest.mark.parametrize(
    ("start", "length", "padded", "expected"),
    [(0, 4, None, "must start after"), (4, 4, None, "must start after"), (1, 4, 3, "4 tokens")],
)
def test_a_batch_refuses_what_cannot_be_measured(start: int, length: int, padded: int | None, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        TokenBatch.of([torch.zeros(length, dtype=torch.int64)], [start], padded)


@pytest.mark.parametrize(
    "projection", [PROJECTION, Projection(rank=100, seed=2)], ids=["rank below the sides", "rank above the sides"]
)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_rows_equal_autograd_on_single_unpadded_sequences(
    build: Callable[[], nn.Module], projection: Projection
) -> None:
    model = double_norms(build())
    layers = select_layers(model, parameters="all").covered
    assert len(layers) == len(list(model.parameters()))
    samples = texts(LENGTHS)
    tokens = tokens_of(samples, 16)
    rows = per_sample_rows(model, tokens.inputs, layers=layers, projection=projection, measurement=token_margin(tokens))
    expected = autograd_token_rows(model, layers, samples, projection)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_rows_do_not_depend_on_padding_or_neighbours(build: Callable[[], nn.Module]) -> None:
    """In float32, as audits compute."""
    model, samples = build(), texts((9, 20, 31, 5, 14))
    extractor = RowExtractor(model, select_layers(model, ["*", "!lm_head"]).covered, PROJECTION)

    def rows_of(chosen: Sequence[tuple[Tensor, int]], padded_length: int) -> Tensor:
        tokens = tokens_of(chosen, padded_length)
        return extractor(Measured(tokens.inputs, token_margin(tokens))).rows

    together = rows_of(samples, 32)
    for index, sample in enumerate(samples):
        alone = rows_of([sample], len(sample[0]))[0]
        assert float((alone - together[index]).norm() / alone.norm()) < 1e-5


def together(samples: Sequence[tuple[Tensor, int]]) -> Measured:
    tokens = tokens_of(samples)
    return Measured(tokens.inputs, token_margin(tokens))


def checked(
    model: nn.Module, parameters: Literal["matrices", "all"] = "matrices", lengths: Sequence[int] = (12, 9)
) -> Coverage:
    return check_layers(model, select_layers(model, parameters=parameters), texts(lengths), together, PROJECTION)


def test_matrices_of_a_language_model_are_its_linear_maps_and_a_tied_head_under_its_embeddings_name() -> None:
    for model, embedding in ((gpt2(), "transformer.wte.weight"), (llama(), "model.embed_tokens.weight")):
        coverage = checked(model)
        assert not coverage.not_covered
        assert embedding in {layer.name for layer in coverage.covered}
    assert not {"model.embed_tokens.weight"} & {layer.name for layer in checked(llama(tied=False)).covered}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_parameter_of_a_language_model_is_covered(build: Callable[[], nn.Module]) -> None:
    model = build()
    coverage = checked(model, "all")
    assert [layer.name for layer in coverage.covered] == [name for name, _ in model.named_parameters()]


def test_parameters_of_other_families_are_covered_but_for_what_has_no_gradient() -> None:
    """Scaled embeddings, norms of 1 + weight; rotary halves; positions and samples on one axis; offset embeddings."""
    for build in FAMILIES:
        torch.manual_seed(0)
        model = build().eval()
        model.config.use_cache = False
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        coverage = checked(model, "all")
        assert set(coverage.not_covered.values()) <= {"its gradient is zero but for rounding"}
        assert len(coverage.covered) > 20


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_experts_that_a_router_chooses_are_covered_by_the_block_around_them() -> None:
    torch.manual_seed(0)
    model = MixtralForCausalLM(
        MixtralConfig(**SIZES, intermediate_size=36, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)
    ).eval()
    model.config.use_cache = False
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    coverage = checked(model, "all")
    assert [layer.name for layer in coverage.covered] == [name for name, _ in model.named_parameters()]
    assert {(layer.way, layer.rerun) for layer in coverage.covered if ".mlp." in layer.name} == {
        ("fallback", f"model.layers.{n}.mlp") for n in range(2)
    }
    samples = texts(LENGTHS)
    rows = RowExtractor(model, coverage.covered, PROJECTION)(together(samples)).rows
    expected = autograd_token_rows(model, coverage.covered, samples, PROJECTION)
    assert float(((rows - expected).norm(dim=1) / expected.norm(dim=1)).max()) < 1e-5


class SeesPadding(nn.Module):
    """A language model that adds how long its batch is, padding included."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, 8), nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, s) to (n, s, V)."""
        return self.head(torch.tanh(self.inner(self.embedding(input_ids)) + 0.1 * attention_mask.shape[1]))


def test_a_model_that_sees_padding_has_no_rows() -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="no layer of the model can be covered"):
        checked(SeesPadding().eval(), lengths=(12, 5))


class NoLogits(nn.Module):
    """Returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(n, 3) to a mapping."""
        return {"out": self.inner(x)}


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(
        ModelError,
        match="returned an object of type dict; a tensor of logits is needed, or an object with one named logits",
    ):
        per_sample_rows(NoLogits().eval(), torch.zeros(2, 3))


def test_a_conv1d_by_name_alone_is_a_formula_that_the_check_replaces_by_the_fallback() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T

    model = SeesPadding().eval()
    model.inner = Conv1D().eval()  # type: ignore[assignment]
    coverage = checked(model, lengths=(6, 6))
    assert (coverage.fallback, coverage.not_covered) == (("inner.weight",), {})


def test_a_layer_over_tokens_without_samples_is_refused_by_name() -> None:
    class Positions(SeesPadding):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head(self.embedding(input_ids) + self.inner(self.embedding.weight[: input_ids.shape[1]]))

    tokens = tokens_of(texts((6, 5)))
    with pytest.raises(LayerError, match="its input has 6 entries first, where the batch has 2 samples"):
        per_sample_rows(Positions().eval(), tokens.inputs, layers=["inner"], measurement=token_margin(tokens))


def test_logits_of_completions_are_those_of_their_tokens_alone() -> None:
    sequences = [torch.arange(1, length + 1) for length in (5, 3)]
    tokens = TokenBatch.of(sequences, [2, 1])
    logits = torch.randn(2, 5, VOCABULARY, generator=torch.Generator().manual_seed(0))
    expected = [
        sum(float(logits[row, place - 1, ids[place]].abs()) for place in range(start, len(ids)))
        for row, (ids, start) in enumerate(zip(sequences, (2, 1), strict=True))
    ]
    assert completion_logits(tokens, logits).tolist() == pytest.approx(expected)
