"""`nn.MultiheadAttention`, computed so that its projections can be recorded.

Its own forward pass calls no module and exposes no projected tensor. While a pass is recorded, a twin takes its place:
the same function of the same parameters (Vaswani et al. 2017, arXiv 1706.03762), whose input projections are recorded
one by one and whose output projection is called as a module. Inside, samples come first: (n, l, e) queries, (n, s, e)
keys and values.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madcore.extraction.recording import Member, Recorder
from madcore.formulas.matrices import LinearWeight, Sides
from madcore.formulas.norms import Axes, Bias

AttentionOutput = tuple[Tensor, Tensor | None]


PARTS = ("q", "k", "v")


@contextmanager
def recorded_attention(
    recorder: Recorder, module: nn.MultiheadAttention, members: Mapping[str, Member]
) -> Iterator[None]:
    """Replace a module's forward pass by the twin inside the context.

    `members` are keyed by the parameters' names in the module; there may be none.
    """
    twin = _Twin(recorder, module, members, module.forward)
    hook = module.register_forward_hook(lambda *_: None)  # keeps an encoder layer around it from its fused kernel
    vars(module)["forward"] = twin
    try:
        yield
    finally:
        del vars(module)["forward"]
        hook.remove()


class _Twin:
    """The replacement of `forward`, with the same arguments."""

    def __init__(
        self,
        recorder: Recorder,
        module: nn.MultiheadAttention,
        members: Mapping[str, Member],
        original: Callable[..., AttentionOutput],
    ):
        self._recorder, self._module = recorder, module
        self._members, self._original = members, original

    def __call__(  # noqa: PLR0913, PLR0917  # it has the arguments of the method that it replaces
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> AttentionOutput:
        """Compute `nn.MultiheadAttention.forward`; a sample without a batch axis goes to the original, unrecorded."""
        if query.ndim != 3 or query.is_nested:
            masks = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask}
            return self._original(
                query,
                key,
                value,
                **masks,
                need_weights=need_weights,
                average_attn_weights=average_attn_weights,
                is_causal=is_causal,
            )
        module = self._module
        query, key, value = self._projected(query, key, value)
        key, value, extra = _extended(module, key, value)
        mask = _mask(module.num_heads, query, attn_mask, key_padding_mask, extra)
        query, key, value = (
            tensor.unflatten(2, (module.num_heads, -1)).transpose(1, 2) for tensor in (query, key, value)
        )
        if need_weights:
            attended, weights = _attend(query, key, value, mask)
        else:
            attended, weights = F.scaled_dot_product_attention(query, key, value, attn_mask=mask), None
        output = module.out_proj(attended.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        return (output if module.batch_first else output.transpose(0, 1)), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values after their projections, samples first."""
        module = self._module
        alone = query is key and key is value
        if not module.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        if module.in_proj_weight is not None and alone:
            together = self._linear(query, module.in_proj_weight, module.in_proj_bias, self._whole())
            q, k, v = together.chunk(3, dim=2)
            return q, k, v
        biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        separate, packed = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight), module.in_proj_weight
        weights = separate if packed is None else packed.chunk(3)
        parts = zip((query, key, value), weights, biases, range(3), strict=True)
        q, k, v = (
            self._linear(inputs, weight, bias, self._part(index, inputs)) for inputs, weight, bias, index in parts
        )
        return q, k, v

    def _linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, members: list[Member]) -> Tensor:
        output = F.linear(inputs, weight, bias)
        return self._recorder.use(self._module, members, inputs, output) if members else output

    def _whole(self) -> list[Member]:
        return [self._members[name] for name in ("in_proj_weight", "in_proj_bias") if name in self._members]

    def _part(self, index: int, like: Tensor) -> list[Member]:
        """Return the members that one projection adds to: its own weight, or its third of the packed ones."""
        separate = f"{PARTS[index]}_proj_weight"
        own = [self._members[separate]] if separate in self._members else []
        return own + [_third(member, index, like) for member in self._whole()]


def _third(member: Member, index: int, like: Tensor) -> Member:
    """Return the member for rows [index e, (index + 1) e) of a packed parameter (3 e, rest).

    `like` is a tensor in the model's precision, on its device.
    """
    size, p0 = member.formula.shape[0] // 3, member.sides.p0
    bias = isinstance(member.formula, Bias)
    formula = Bias(Axes((size,), last=True)) if bias else LinearWeight((size, member.formula.shape[1]))
    p0 = torch.eye(3 * size, dtype=like.dtype, device=like.device) if p0 is None else p0
    return replace(member, formula=formula, sides=Sides(p0[:, index * size : (index + 1) * size], member.sides.p1))


def _extended(module: nn.MultiheadAttention, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, int]:
    """Append the module's learned position and its zero position to keys and values; also return how many."""
    samples, extra = key.shape[0], 0
    if module.bias_k is not None and module.bias_v is not None:
        key = torch.cat([key, module.bias_k.expand(samples, 1, -1)], dim=1)
        value = torch.cat([value, module.bias_v.expand(samples, 1, -1)], dim=1)
        extra += 1
    if module.add_zero_attn:
        key, value = F.pad(key, (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1))
        extra += 1
    return key, value, extra


def _mask(heads: int, query: Tensor, attention: Tensor | None, padding: Tensor | None, extra: int) -> Tensor | None:
    """Return what is added to scores (n, heads, l, s), or None. A boolean mask hides the positions where it is true."""
    added = None
    if attention is not None:
        added = _additive(attention, query)
        added = added.unflatten(0, (-1, heads)) if added.ndim == 3 else added
    if padding is not None:
        hidden = _additive(padding, query)[:, None, None, :]
        added = hidden if added is None else added + hidden
    return added if added is None or not extra else F.pad(added, (0, extra))


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return attention (n, heads, l, e) and its weights (n, heads, l, s)."""
    scores = (query / query.shape[-1] ** 0.5) @ key.transpose(2, 3)
    weights = torch.softmax(scores if mask is None else scores + mask, dim=3)
    return weights @ value, weights
