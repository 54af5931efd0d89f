"""What differs in value from the file is refused, and numbers that are not finite are named."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.pipeline.models.weights.nets import (
    Refusal,
    Tied,
    lazy,
    load,
    net,
    normed,
    older_weight_norm,
    unsaid,
)

QUANTIZED = "quantized weights mean nothing without their scale: export the dequantized ones"


def converted(name: str, dtype: torch.dtype) -> Callable[[nn.Module], object]:
    """A state dict with one tensor of another type."""
    return lambda own: own.state_dict() | {name: own.state_dict()[name].to(dtype)}


def quantized(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors as int8."""
    return {name: value.to(torch.int8) for name, value in state.items()}


UNTRUE: dict[str, Refusal] = {
    "int8": (
        net,
        converted("0.weight", torch.int8),
        ("1 quantized: 0.weight (int8 in the file, float32 in the architecture)", QUANTIZED),
    ),
    "uint8": (net, converted("3.weight", torch.uint8), ("3.weight (uint8 in the file", QUANTIZED)),
    "int64": (net, converted("3.bias", torch.int64), ("3.bias (int64 in the file", QUANTIZED)),
    "truths": (net, converted("3.weight", torch.bool), ("3.weight (bool in the file", QUANTIZED)),
    "float8": (net, converted("3.weight", torch.float8_e4m3fn), ("3.weight (float8_e4m3fn in the file", QUANTIZED)),
    "statistics of int8": (net, converted("1.running_var", torch.int8), ("1.running_var (int8", QUANTIZED)),
    "int8 with its scale": (
        net,
        lambda own: (
            own.state_dict() | {"3.weight": torch.ones(3, 8, dtype=torch.int8), "3.weight_scale": torch.ones(1)}
        ),
        ("1 unknown to the architecture: 3.weight_scale",),
    ),
    "int8 in a lazy module": (lazy, lambda _: converted("0.weight", torch.int8)(net()), ("0.weight (int8", QUANTIZED)),
    "int8 under a former name": (
        normed,
        lambda _: quantized(older_weight_norm()),
        ("3 quantized: 0.", QUANTIZED),
    ),
    "fractions for whole numbers": (
        Tied,
        lambda own: own.state_dict() | {"steps": torch.tensor([0.5])},
        ("1 of a type that does not hold their numbers: steps (float32 in the file, int64 in the architecture)",),
    ),
    "two values for one tensor": (
        Tied,
        lambda own: own.state_dict() | {"head.weight": torch.zeros(4, 4)},
        ("embedding.weight and head.weight are one tensor in the architecture, and differ in the file",),
    ),
}


@pytest.mark.parametrize("refusal", UNTRUE.values(), ids=UNTRUE)
def test_what_is_not_the_parameters_value_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    assert unsaid(tmp_path, *refusal) == []


def test_a_mask_of_truths_may_become_floats(tmp_path: Path) -> None:
    state = Tied().state_dict() | {"scale": torch.tensor([True, False])}
    assert load(tmp_path, Tied, state).module.get_buffer("scale").tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "values", "lacking"),
    [
        ("3.bias", [0.0, float("nan"), float("inf")], "2 of the 3 numbers of 3.bias are not finite; check how the"),
        ("3.bias", [0.0, 1e300, 0.0], "1 of the 3 numbers of 3.bias are not finite"),
        ("1.running_mean", [0.0, float("nan")], "1 of the 2 numbers of 1.running_mean are NaN"),
        ("1.running_mean", [0.0, float("inf")], ""),
    ],
)
def test_numbers_that_are_not_finite_are_named(name: str, values: list[float], lacking: str, tmp_path: Path) -> None:
    state = net().state_dict() | {name: torch.tensor(values, dtype=torch.float64)}
    found = load(tmp_path, net, state).lacking
    assert found.startswith(lacking) and bool(found) == bool(lacking)
