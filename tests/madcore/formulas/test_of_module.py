"""Which formula each parameter of each kind of module has."""

import pytest
import torch
from torch import Tensor, nn

from madcore.formulas.convolutions import ConvWeight, TransposedConvWeight
from madcore.formulas.matrices import EmbeddingWeight, LinearWeight, TransposedLinearWeight
from madcore.formulas.norms import Bias, Scale
from madcore.formulas.of_module import formula_of, holders, matrix_formula, replaceable, sides_of


class Conv1D(nn.Module):
    """As in Hugging Face's library: a linear map whose weight is (in, out)."""

    def __init__(self, outputs: int, inputs: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))


class OwnAttention(nn.MultiheadAttention):
    """Attention with another forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


FORMULAS = {
    "linear": (nn.Linear(3, 2), {"weight": LinearWeight((2, 3)), "bias": Bias}),
    "conv1d of Hugging Face": (Conv1D(2, 3), {"weight": TransposedLinearWeight((3, 2)), "bias": Bias}),
    "conv": (nn.Conv2d(2, 3, 1), {"weight": ConvWeight, "bias": Bias}),
    "transposed conv": (nn.ConvTranspose1d(2, 3, 1), {"weight": TransposedConvWeight, "bias": Bias}),
    "embedding": (nn.Embedding(5, 3, padding_idx=1), {"weight": EmbeddingWeight((5, 3), 1, 1.0)}),
    "embedding scaled by frequency": (nn.Embedding(5, 3, scale_grad_by_freq=True), {"weight": None}),
    "layernorm": (nn.LayerNorm(3), {"weight": Scale, "bias": Bias}),
    "prelu": (nn.PReLU(), {"weight": None}),
    "attention": (nn.MultiheadAttention(4, 2), {"in_proj_weight": LinearWeight((12, 4)), "in_proj_bias": Bias}),
    "attention of keys of another size": (
        nn.MultiheadAttention(4, 2, kdim=3),
        {"q_proj_weight": LinearWeight((4, 4)), "k_proj_weight": LinearWeight((4, 3)), "v_proj_weight": LinearWeight},
    ),
    "attention with a learned key": (nn.MultiheadAttention(4, 2, add_bias_kv=True), {"bias_k": None, "bias_v": None}),
    "attention of its own": (OwnAttention(4, 2), {"in_proj_weight": None, "in_proj_bias": None}),
}


@pytest.mark.parametrize(("module", "formulas"), FORMULAS.values(), ids=FORMULAS)
def test_the_formula_of_each_parameter(module: nn.Module, formulas: dict[str, object]) -> None:
    for name, expected in formulas.items():
        formula = formula_of(module, name)
        assert isinstance(formula, expected) if isinstance(expected, type) else formula == expected
        if formula is not None:
            assert formula.shape == sides_of(module.get_parameter(name))


def test_a_bilinear_weight_has_no_matrix_formula() -> None:
    assert matrix_formula(nn.Bilinear(3, 2, 2), "weight") is None


def test_attention_is_replaceable_unless_its_forward_pass_is_another() -> None:
    replaced = nn.MultiheadAttention(4, 2)
    replaced.forward = lambda x: x
    assert replaceable(nn.MultiheadAttention(4, 2))
    assert not replaceable(OwnAttention(4, 2)) and not replaceable(replaced) and not replaceable(nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("shape", "sides"), [((), (1, 1)), ((4,), (4, 1)), ((4, 3), (4, 3)), ((4, 3, 2, 2), (4, 12)), ((0, 3), (0, 1))]
)
def test_the_two_sides_of_a_parameter(shape: tuple[int, ...], sides: tuple[int, int]) -> None:
    assert sides_of(nn.Parameter(torch.zeros(shape))) == sides


def test_a_tied_parameter_has_all_its_holders() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["table"].weight
    found = holders(model)
    assert found[model["head"].weight] == [(model["table"], "weight"), (model["head"], "weight")]
    assert found[model["head"].bias] == [(model["head"], "bias")] and len(found) == 2
