"""What a pass records of each layer, by its way, and that nothing of it is left behind."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from madcore import Layer, LayerError, Projection
from madcore.extraction.preparation import Preparation, prepare
from madcore.extraction.recording import Recorder
from madcore.formulas.matrices import EmbeddingWeight, LinearWeight
from madcore.rows import Way, row_layout

PROJECTION = Projection(rank=2, seed=1)


class Tied(nn.Module):
    """A language model's ends: a table that is a head's weight too, and a vector of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head, self.scale = nn.Embedding(5, 3), nn.Linear(3, 5), nn.Parameter(torch.ones(3))
        self.head.weight = self.table.weight
        self.inner = nn.Sequential(nn.Linear(3, 3))

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) to (n, 5)."""
        return self.head(self.scale * self.inner(self.table(ids)))


def prepared(model: nn.Module, *layers: Layer, projection: Projection = PROJECTION) -> Preparation:
    return prepare(model, layers, row_layout(layers, projection), projection)


TABLE, SCALE, INNER = Layer("table", "weight", (5, 3)), Layer("", "scale", (3, 1)), Layer("inner.0", "weight", (3, 3))


def test_all_holders_of_a_tied_parameter_add_to_the_same_place() -> None:
    model = Tied()
    made = prepared(model, INNER, TABLE)
    members = {module: own["weight"] for module, own in made.members.items()}
    assert set(members) == {model.inner[0], model.table, model.head}
    assert members[model.inner[0]].place == slice(0, 4)
    assert members[model.table].place == members[model.head].place == slice(4, 8)
    assert members[model.table].formula == EmbeddingWeight((5, 3), None, 1.0)
    assert members[model.head].formula == LinearWeight((5, 3))
    assert {member.name for member in members.values()} == {"table.weight", "inner.0.weight"}


def test_projections_are_those_of_the_layers_name_in_the_models_precision() -> None:
    sides = prepared(Tied(), TABLE).members.popitem()[1]["weight"].sides
    assert sides.p0 is not None and sides.p1 is not None and sides.sketch is None
    assert torch.equal(sides.p0, PROJECTION.matrix("table.weight", 0, 5).float())
    assert torch.equal(sides.p1, PROJECTION.matrix("table.weight", 1, 3).float())
    hashed = prepared(Tied().double(), TABLE, projection=Projection(rank=9, sketch=4)).members.popitem()[1]["weight"]
    assert hashed.sides.p0 is None and hashed.sides.p1 is None
    assert hashed.sides.sketch is not None and hashed.sides.sketch.signs.dtype == torch.float64


@pytest.mark.parametrize(
    ("way", "samples"), [("formula, samples second", "second"), ("formula, no samples", "nowhere")]
)
def test_the_way_says_where_the_samples_are(way: Way, samples: str) -> None:
    model = Tied()
    assert prepared(model, replace(INNER, way=way)).members[model.inner[0]]["weight"].samples == samples


def test_copies_are_of_the_parameter_wherever_it_is_held() -> None:
    model = Tied()
    made = prepared(model, replace(TABLE, way="copies"), replace(SCALE, way="copies before one axis"))
    assert [copied.holders for copied in made.copied] == [
        [(model.table, "weight"), (model.head, "weight")],
        [(model, "scale")],
    ]
    assert made.copied[0].parameter is model.table.weight and made.copied[1].place == slice(4, 6)
    assert not made.members and not made.reruns


def test_a_fallback_reruns_the_module_or_one_around_it() -> None:
    """Both layers go through one run of `inner`, but not where one of them needs a loop over samples."""
    model = Tied()
    own, bias = replace(INNER, way="fallback", levels=1), Layer("inner.0", "bias", (3, 1), "fallback", 1)
    (together,) = prepared(model, own, bias).reruns
    assert together.module is model.inner and set(together.wanted) == {"0.weight", "0.bias"}
    assert not together.one_by_one and together.wanted["0.bias"].place == slice(4, 6)
    assert set(together.parameters) == {"0.weight", "0.bias"}
    apart = prepared(model, own, replace(bias, way="fallback, one by one")).reruns
    assert [(list(rerun.wanted), rerun.one_by_one) for rerun in apart] == [(["0.weight"], False), (["0.bias"], True)]
    (alone,) = prepared(model, replace(own, levels=0)).reruns
    assert alone.module is model.inner[0] and list(alone.wanted) == ["weight"]


def test_a_layer_without_a_formula_is_refused_by_name() -> None:
    with pytest.raises(LayerError, match="scale: no per-sample formula for the parameter 'scale' of a Tied"):
        prepared(Tied(), SCALE)


def test_attention_is_replaced_where_its_output_projection_is_recorded() -> None:
    model = nn.Sequential(nn.MultiheadAttention(4, 2))
    assert prepared(model, Layer("0.out_proj", "weight", (4, 4))).members[model[0]] == {}


def test_hooks_and_forward_passes_are_as_before_afterwards() -> None:
    model = nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4), nn.Linear(4, 4))
    layers = [
        Layer("0", "in_proj_weight", (12, 4)),
        Layer("1", "weight", (4, 4)),
        Layer("2", "weight", (4, 4), "fallback"),
    ]
    made = prepared(model, *layers)
    with made.recorded(Recorder(torch.zeros(1, 12), torch.zeros((), requires_grad=True))):
        assert "forward" in vars(model[0])
        assert len(model[1]._forward_hooks) == len(model[2]._forward_hooks) == len(model[2]._forward_pre_hooks) == 1
    assert "forward" not in vars(model[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
