"""The formula of each parameter of a module, by the module's kind."""

from typing import TypeGuard

from torch import nn

from madcore.formulas.convolutions import Convolution, ConvWeight, TransposedConvolution, TransposedConvWeight
from madcore.formulas.matrices import EmbeddingWeight, Formula, LinearWeight, TransposedLinearWeight
from madcore.formulas.norms import Axes, Bias, norm_formula

ATTENTION_MATRICES = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def replaceable(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Return whether a module is attention with torch's own forward pass, which can be replaced by a recorded twin."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and "forward" not in vars(module)
    )


def sides_of(parameter: nn.Parameter) -> tuple[int, int]:
    """Return (dim0, rest) of a parameter, (1, 1) for a single number."""
    dim0 = parameter.shape[0] if parameter.ndim else 1
    return dim0, parameter[0].numel() if parameter.ndim and dim0 else 1


def matrix_formula(module: nn.Module, parameter: str) -> Formula | None:
    """Return the formula of a kernel or weight matrix; None for any other parameter, or a module that is not known.

    A subclass is treated as its base; the self-check of `madcore.coverage.layers` decides whether its forward pass
    still is the base's.
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


def formula_of(module: nn.Module, parameter: str) -> Formula | None:
    """Return the formula of a module's own parameter; None where no formula is known for it."""
    return (
        matrix_formula(module, parameter)
        or _bias_formula(module, parameter)
        or _table_formula(module, parameter)
        or norm_formula(module, parameter)
    )


def _is_transposed_linear(module: nn.Module) -> bool:
    """Recognise Hugging Face's `Conv1D` by its name and weight, because this package does not import its library."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    named = any(base.__name__ == "Conv1D" for base in type(module).__mro__)
    return weight is not None and weight.ndim == 2 and named


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
    """Return the formula of an embedding; one that divides by frequencies in the batch mixes samples, and has none."""
    if not isinstance(module, nn.Embedding) or parameter != "weight" or module.scale_grad_by_freq:
        return None
    scale = getattr(module, "embed_scale", 1.0)
    return EmbeddingWeight((module.num_embeddings, module.embedding_dim), module.padding_idx, float(scale))


def holders(model: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Return, by parameter, the modules that hold it and its name in each; several where it is tied."""
    found = dict[nn.Parameter, list[tuple[nn.Module, str]]]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(parameter, []).append((module, name))
    return found
