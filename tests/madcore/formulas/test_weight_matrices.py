"""What `parameters: matrices` takes: what inputs are multiplied with, whatever module holds it."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from madcore.formulas.weight_matrices import is_weight_matrix, looks_like_matrix, table_reason

KINDS = {
    "linear": (nn.Linear(3, 2), {"weight": True, "bias": False}),
    "embedding": (nn.Embedding(5, 3), {"weight": False}),
    "bag": (nn.EmbeddingBag(5, 3), {"weight": False}),
    "norm over two axes": (nn.LayerNorm((3, 2)), {"weight": False, "bias": False}),
    "bilinear": (nn.Bilinear(3, 2, 2), {"weight": True, "bias": False}),
    "lstm": (nn.LSTM(3, 2, proj_size=1), {"weight_ih_l0": True, "weight_hr_l0": True, "bias_ih_l0": False}),
    "gru of one unit": (nn.GRU(3, 1, bidirectional=True), {"weight_hh_l0_reverse": True, "bias_hh_l0": False}),
    "cell": (nn.LSTMCell(3, 2), {"weight_ih": True, "weight_hh": True, "bias_hh": False}),
    "attention": (nn.MultiheadAttention(4, 2, add_bias_kv=True), {"in_proj_weight": True, "bias_k": False}),
    "parametrised": (
        weight_norm(nn.Linear(3, 2)).parametrizations["weight"],
        {"original0": False, "original1": True},
    ),
}


@pytest.mark.parametrize(("module", "matrices"), KINDS.values(), ids=KINDS)
def test_of_known_kinds(module: nn.Module, matrices: dict[str, bool]) -> None:
    assert {name: is_weight_matrix(module, name) for name in matrices} == matrices


class Held(nn.Module):
    """A kind of its own."""


class OwnNorm2d(nn.Module):
    """A norm by its name."""


class PatchEmbeddings(nn.Module):
    """Tables by its name."""


class NormedLinear(nn.Module):
    """A linear map, whatever its name begins with."""


OWN = {
    "experts": (Held, "gate_up_proj", (4, 6, 5), None),
    "a projection": (Held, "text_projection", (5, 6), None),
    "token mixing": (Held, "token_mixing", (5, 6), None),
    "a router": (Held, "weight", (4, 6), None),
    "a linear map": (NormedLinear, "weight", (5, 6), None),
    "a class token": (Held, "cls", (1, 1, 6), "it has shape (1, 1, 6)"),
    "positions": (Held, "where", (1, 7, 6), "it has shape (1, 7, 6)"),
    "layer scale": (Held, "gamma", (6, 1, 1), "it has shape (6, 1, 1)"),
    "positions without samples": (Held, "positional_embedding", (7, 6), "it is called 'positional_embedding'"),
    "relative positions": (Held, "rel_pos_h", (7, 6), "it is called 'rel_pos_h'"),
    "a table": (Held, "table", (7, 2), "it is called 'table'"),
    "registers": (Held, "register_tokens", (4, 6), "it is called 'register_tokens'"),
    "a norm's scale": (OwnNorm2d, "weight", (4, 6), "it belongs to a OwnNorm2d"),
    "an embedding": (PatchEmbeddings, "weight", (4, 6), "it belongs to a PatchEmbeddings"),
}


@pytest.mark.parametrize(("kind", "name", "shape", "reason"), OWN.values(), ids=OWN)
def test_of_other_modules_by_shape_class_and_name(
    kind: type[nn.Module], name: str, shape: tuple[int, ...], reason: str | None
) -> None:
    module = kind()
    module.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    assert looks_like_matrix(module, name)
    assert (is_weight_matrix(module, name), table_reason(module, name)) == (reason is None, reason)


@pytest.mark.parametrize(("name", "shape"), [("scale", (6,)), ("gate_up_proj_bias", (4, 10)), ("pos_bias_u", (2, 6))])
def test_vectors_and_biases_do_not_even_look_like_one(name: str, shape: tuple[int, ...]) -> None:
    module = Held()
    module.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    assert not looks_like_matrix(module, name) and not is_weight_matrix(module, name)
