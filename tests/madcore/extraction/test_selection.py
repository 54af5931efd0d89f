"""Which parameters shell patterns over module names choose."""

import pytest
from torch import nn

from madcore import LayerError, select_layers
from madcore.extraction.selection import Coverage


def a_model() -> nn.Module:
    """Modules `stem`, `blocks.0`, `blocks.1`, `norm`, `words` and `head`."""
    model = nn.Module()
    model.stem, model.blocks = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    model.norm, model.words, model.head = nn.BatchNorm1d(4), nn.Embedding(7, 4), nn.Linear(4, 2)
    return model


def names(coverage: Coverage) -> list[str]:
    """Full names of the covered parameters."""
    return [layer.name for layer in coverage.covered]


PATTERNS = {
    "all": (["*"], ["stem.weight", "blocks.0.weight", "blocks.1.weight", "head.weight"]),
    "one by name": (["head"], ["head.weight"]),
    "a folder": (["blocks.*"], ["blocks.0.weight", "blocks.1.weight"]),
    "a question mark": (["blocks.?"], ["blocks.0.weight", "blocks.1.weight"]),
    "a set": (["blocks.[1-9]"], ["blocks.1.weight"]),
    "two in the order of the model": (["head", "stem"], ["stem.weight", "head.weight"]),
    "exclusion": (["*", "!blocks.*"], ["stem.weight", "head.weight"]),
    "only exclusions": (["!stem", "!head"], ["blocks.0.weight", "blocks.1.weight"]),
    "exclusion first": (["!blocks.0", "blocks.*"], ["blocks.1.weight"]),
}


@pytest.mark.parametrize(("patterns", "expected"), PATTERNS.values(), ids=PATTERNS.keys())
def test_patterns(patterns: list[str], expected: list[str]) -> None:
    coverage = select_layers(a_model(), patterns)
    assert names(coverage) == expected
    assert coverage.not_covered == {}


def test_shapes_are_the_two_sides_of_the_gradient() -> None:
    shapes = {layer.name: layer.shape for layer in select_layers(a_model(), parameters="all").covered}
    assert shapes["stem.weight"] == (4, 27)
    assert shapes["stem.bias"] == (4, 1)
    assert shapes["head.weight"] == (2, 4)
    assert shapes["norm.weight"] == (4, 1)


def test_all_parameters_and_what_has_no_formula() -> None:
    coverage = select_layers(a_model(), parameters="all")
    assert names(coverage) == [name for name, _ in a_model().named_parameters()]


def test_a_parameter_of_the_model_itself_is_named_without_a_dot() -> None:
    assert names(select_layers(nn.Linear(3, 2), parameters="all")) == ["weight", "bias"]


UNMATCHED = {"a name": ["nothing.*"], "an exclusion": ["*", "!nothing"], "only a norm": ["norm"], "case": ["HEAD"]}


@pytest.mark.parametrize("patterns", UNMATCHED.values(), ids=UNMATCHED.keys())
def test_a_pattern_that_matches_nothing_is_refused_naming_the_layers(patterns: list[str]) -> None:
    with pytest.raises(LayerError, match=r"matches no layer; layers here: stem, blocks\.0, blocks\.1, head$") as caught:
        select_layers(a_model(), patterns)
    assert list(caught.value.reasons) == [patterns[-1]]


def test_many_layers_are_named_in_short() -> None:
    with pytest.raises(LayerError, match=r"layers here: 0, 1, 2, 3, 4, 5, 6, 7 and 4 more$"):
        select_layers(nn.Sequential(*[nn.Linear(2, 2) for _ in range(12)]), ["x"])


def test_patterns_that_exclude_every_layer_are_refused() -> None:
    with pytest.raises(LayerError, match="exclude every layer; layers here: stem"):
        select_layers(a_model(), ["blocks.*", "!b*"])
