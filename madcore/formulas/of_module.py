"""Which formula a module's parameter has."""

from typing import TypeGuard

from torch import nn

from madcore.formulas.matrices import (
    Convolution,
    ConvWeight,
    EmbeddingWeight,
    Formula,
    LinearWeight,
    TransposedConvolution,
    TransposedConvWeight,
    TransposedLinearWeight,
)
from madcore.formulas.norms import Axes, Bias, norm_formula


def replaceable(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Whether a module is attention whose forward pass is torch's."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and "forward" not in vars(module)
    )


ATTENTION_MATRICES = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def sides_of(parameter: nn.Parameter) -> tuple[int, int]:
    """(dim0, rest) of a parameter, (1, 1) of a number."""
    dim0 = parameter.shape[0] if parameter.ndim else 1
    return dim0, parameter[0].numel() if parameter.ndim and dim0 else 1


def matrix_formula(module: nn.Module, parameter: str) -> Formula | None:
    """The formula of a kernel or weight matrix; None where the parameter is none that is known here.

    A subclass is taken for its base: whether its forward pass still is the base's, the self-check of
    `madcore.extraction.coverage` decides.
    """
    if replaceable(module) and parameter in ATTENTION_MATRICES:
        return LinearWeight(sides_of(module.get_parameter(parameter)))
    if parameter != "weight":
        return None
    if isinstance(module, nn.Linear):
        return LinearWeight((module.out_features, module.in_features))
    if _is_transposed_linear(module):
        return TransposedLinearWeight(sides_of(module.get_parameter("weight")))
    if isinstance(module, TransposedConvolution):
        return TransposedConvWeight(module)
    return ConvWeight(module) if isinstance(module, Convolution) else None


def is_matrix(module: nn.Module, parameter: str) -> bool:
    """Whether a parameter is a kernel or weight matrix, or looks like one: two dimensions or more, no table of vectors, no norm's."""
    if matrix_formula(module, parameter) is not None:
        return True
    if isinstance(module, nn.MultiheadAttention):
        return False
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or norm_formula(module, parameter) is not None:
        return False
    return module.get_parameter(parameter).ndim > 1


def formula_of(module: nn.Module, parameter: str) -> Formula | None:
    """The formula of one direct parameter of a module; None where no formula is known for it."""
    return (
        matrix_formula(module, parameter)
        or _bias_formula(module, parameter)
        or _table_formula(module, parameter)
        or norm_formula(module, parameter)
    )


def _is_transposed_linear(module: nn.Module) -> bool:
    """Hugging Face's `Conv1D`, known by its name and its weight, because its library is none that this package imports."""
    own = dict(module.named_parameters(recurse=False))
    return (
        "weight" in own and own["weight"].ndim == 2 and any(base.__name__ == "Conv1D" for base in type(module).__mro__)
    )


def _bias_formula(module: nn.Module, parameter: str) -> Formula | None:
    if replaceable(module) and parameter == "in_proj_bias":
        return Bias(Axes(tuple(module.in_proj_bias.shape), last=True))
    if parameter != "bias":
        return None
    if isinstance(module, nn.Linear) or _is_transposed_linear(module):
        return Bias(Axes(tuple(module.get_parameter("bias").shape), last=True))
    if isinstance(module, Convolution | TransposedConvolution):
        return Bias(Axes((module.out_channels,), last=False))
    return None


def _table_formula(module: nn.Module, parameter: str) -> Formula | None:
    """Of an embedding; one that divides by the batch's frequencies mixes samples, and has none."""
    if not isinstance(module, nn.Embedding) or parameter != "weight" or module.scale_grad_by_freq:
        return None
    scale = getattr(module, "embed_scale", 1.0)
    return EmbeddingWeight((module.num_embeddings, module.embedding_dim), module.padding_idx, float(scale))


def holders(model: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """By parameter, the modules that hold it, and what each calls it; more than one where it is tied."""
    found = dict[nn.Parameter, list[tuple[nn.Module, str]]]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(parameter, []).append((module, name))
    return found
