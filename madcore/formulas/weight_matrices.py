"""Which parameters are weight matrices, the choice of `parameters: matrices`: those that inputs are multiplied with.

Modules of known kinds say so themselves: kernels and matrices of linear maps, convolutions, attention, and of recurrent
and bilinear layers. Of other modules, such as routed experts whose matrices are one parameter, or projections that a
module holds directly, every parameter is one that has at least two axes longer than one, unless its shape, its
module's class or its name say that it is added or looked up instead:

- shape: a first axis of one, which is broadcast over the samples (class tokens, positions, layer scales);
- class: it ends with Embedding, Embeddings, Embed, Encoding, Position, Norm (also Norm2d), whatever comes before;
- name: a word of it is bias, pos or position, or its last word is embedding, table, token or latent.

The rule leans towards matrices: a table that is taken for one adds to rows and falsifies nothing, a matrix that is
taken for a table is missing from them. What no row covers is a number in any case (see `madcore.coverage.shares`).
"""

import re

from torch import nn

from madcore.formulas.norms import norm_formula
from madcore.formulas.of_module import ATTENTION_MATRICES, matrix_formula

TABLES = re.compile(r"(Embed|Embeddings?|Encodings?|Positions?|Norm(\dd)?)$")
BIASES = {"bias", "biases"}
ADDED = {"pos", "position", "positions", "positional"}
LOOKED_UP = {"embed", "embeds", "embedding", "embeddings", "emb", "table", "tables"}
LEARNED_INPUTS = {"token", "tokens", "latent", "latents"}
MATRIX_AXES = 2


def is_weight_matrix(module: nn.Module, parameter: str) -> bool:
    """Return whether a module's own parameter is a weight matrix, by the rule above."""
    return looks_like_matrix(module, parameter) and table_reason(module, parameter) is None


def looks_like_matrix(module: nn.Module, parameter: str) -> bool:
    """Return whether a parameter may be a weight matrix: it has two axes or more, and its kind does not exclude it.

    Excluded are biases, embeddings, and the scales and shifts of norms.
    """
    if matrix_formula(module, parameter) is not None:
        return True
    if isinstance(module, nn.MultiheadAttention):
        return parameter in ATTENTION_MATRICES
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or norm_formula(module, parameter) is not None:
        return False
    return module.get_parameter(parameter).ndim >= MATRIX_AXES and not BIASES & set(_words(parameter))


def table_reason(module: nn.Module, parameter: str) -> str | None:
    """Return why a parameter that looks like a matrix is taken for a table that is added or looked up, None if not."""
    if matrix_formula(module, parameter) is not None or _is_of_known_kind(module, parameter):
        return None
    shape, words, kind = tuple(module.get_parameter(parameter).shape), _words(parameter), type(module).__name__
    if shape[0] == 1 or sum(length > 1 for length in shape) < MATRIX_AXES:
        return f"it has shape {shape}"
    if any(TABLES.search(base.__name__) for base in type(module).__mro__):
        return f"it belongs to a {kind}"
    if ADDED & set(words) or words[-1] in LOOKED_UP | LEARNED_INPUTS:
        return f"it is called {parameter!r}"
    return None


def _is_of_known_kind(module: nn.Module, parameter: str) -> bool:
    """Return whether a module without a formula says itself that this is one of its matrices."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return parameter.startswith("weight_")
    if isinstance(module, nn.MultiheadAttention):
        return parameter in ATTENTION_MATRICES
    return isinstance(module, nn.Bilinear) and parameter == "weight"


def _words(parameter: str) -> list[str]:
    """Return the words of a parameter's name, in lower case: `relPos_bias2` has rel, pos and bias."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", parameter)] or [parameter]
