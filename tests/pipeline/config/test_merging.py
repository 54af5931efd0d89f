"""A model's sections over those of the top level, and both over the defaults."""

from collections.abc import Mapping

import pytest
import yaml
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig, merge
from pipeline.config.sections import Raw
from tests.pipeline.config.configs import CHAT, MINIMAL, MODEL, at, parse

DEFAULT_SECTIONS = """
kwargs: {}
huggingface: null
task: classification
data:
  trusted: [trusted.parquet]
  audited: [inputs/*.parquet]
  identity: version
  columns:
    {id: id, image: image, input_ids: input_ids, attention_mask: attention_mask, completion_start: completion_start,
     completion_end: completion_end, labels: labels, label: label, anomalous: anomalous, target: target, ignored: []}
  preprocess: {mean: [0.0, 0.0, 0.0], std: [1.0, 1.0, 1.0], size: null}
estimator:
  kind: gradient
  measurement: margin
  layers: ["*"]
  parameters: matrices
  projection: {kind: rademacher, rank: 16, seed: 0}
  rows_dtype: float16
  precision: float32
curvature: {kind: block_moment, damping: {kind: relative_mean, factor: 1.0}, transductive: false}
score: {kind: prediction_coupling, layers: concatenated, q: auto}
calibration: {fraction: 0.3, seed: 0, target: {fpr: 0.01, fdr: null}, tail: conformal}
"""


def test_what_is_not_given_has_the_documented_default() -> None:
    config = parse()
    assert config.models[0].model_dump(mode="json") == MODEL | {"outputs": None} | yaml.safe_load(DEFAULT_SECTIONS)
    run = {
        "rows_per_task": 8192,
        "batch_size": 256,
        "workers": 2,
        "gpus_per_worker": 0,
        "memory_per_worker": 4 * 2**30,
        "on_nonfinite": "flag",
    }
    assert config.run.model_dump(mode="json") == run
    assert (config.review, config.on_verdict) == (None, None)


@pytest.mark.parametrize("section", ["estimator", "curvature", "score", "calibration"])
def test_an_empty_section_is_its_default(section: str) -> None:
    assert at(parse(f"{section}: {{}}"), section) == yaml.safe_load(DEFAULT_SECTIONS)[section]


MERGED = {
    "a key of the top level": ("calibration: {fraction: 0.5}", "", "calibration.fraction", 0.5),
    "a model's key over it": (
        "calibration: {fraction: 0.5}",
        "calibration: {fraction: 0.2}",
        "calibration.fraction",
        0.2,
    ),
    "its neighbours stay": (
        "calibration: {fraction: 0.5, seed: 7}",
        "calibration: {fraction: 0.2}",
        "calibration.seed",
        7,
    ),
    "deeper ones too": (
        "estimator: {projection: {rank: 8}}",
        "estimator: {projection: {seed: 3}}",
        "estimator.projection.rank",
        8,
    ),
    "a gaussian projection": (
        "estimator: {projection: {kind: gaussian, sketch: 64}}",
        "",
        "estimator.projection.sketch",
        64,
    ),
    "which replaces the other whole": (
        "estimator: {projection: {rank: 8}}",
        "estimator: {projection: {kind: gaussian}}",
        "estimator.projection.rank",
        16,
    ),
    "no sketch is the default": (
        "estimator: {projection: {sketch: 64}}",
        "estimator: {projection: {sketch: null}}",
        "estimator.projection",
        {"kind": "rademacher", "rank": 16, "seed": 0},
    ),
    "a list is one value": ("estimator: {layers: [a, b]}", "estimator: {layers: [c]}", "estimator.layers", ("c",)),
    "the task": ("", "task: classification", "task", "classification"),
    "one file of data": (
        "data: {audited: a.parquet}",
        "data: {audited: b.parquet}",
        "data.trusted",
        ("trusted.parquet",),
    ),
    "columns whole": (
        "data: {columns: {id: key, image: picture}}",
        "data: {columns: {image: bild}}",
        "data.columns.id",
        "id",
    ),
    "columns of the model": (
        "data: {columns: {id: key}}",
        "data: {columns: {image: bild}}",
        "data.columns.image",
        "bild",
    ),
    "preprocess whole": (
        "data: {preprocess: {size: 32, mean: [1, 1, 1]}}",
        "data: {preprocess: {size: 16}}",
        "data.preprocess.mean",
        (0.0, 0.0, 0.0),
    ),
    "target whole": (
        "calibration: {target: {fpr: 0.1}}",
        "calibration: {target: {fdr: 0.2}}",
        "calibration.target",
        {"fpr": None, "fdr": 0.2},
    ),
    "another kind whole": (
        "curvature: {damping: {factor: 2.0}}",
        "curvature: {damping: {kind: absolute, value: 0.5}}",
        "curvature.damping",
        {"kind": "absolute", "value": 0.5},
    ),
    "back to the first kind": (
        "curvature: {damping: {kind: absolute, value: 0.5}}",
        "curvature: {damping: {kind: relative_mean}}",
        "curvature.damping",
        {"kind": "relative_mean", "factor": 1.0},
    ),
    "another kind drops what is below": (
        "curvature: {kind: identity, damping: {factor: 3}}",
        "curvature: {kind: block_moment}",
        "curvature.damping.factor",
        1.0,
    ),
    "the same kind keeps it": (
        "curvature: {kind: identity, damping: {factor: 3}}",
        "curvature: {kind: identity}",
        "curvature.damping.factor",
        3.0,
    ),
    "a kind not given is inherited": (
        "curvature: {kind: identity}",
        "curvature: {damping: {factor: 3}}",
        "curvature.kind",
        "identity",
    ),
    "damping without kind": (
        "curvature: {damping: {factor: 2}}",
        "",
        "curvature.damping",
        {"kind": "relative_mean", "factor": 2.0},
    ),
    "score without kind": (
        "score: {layers: apart}",
        "",
        "score",
        {"kind": "prediction_coupling", "layers": "apart", "q": "auto"},
    ),
    "auto spelt out": (
        "score: {kind: auto, layers: auto}\nestimator: {measurement: auto}",
        "",
        "score",
        {"kind": "prediction_coupling", "layers": "concatenated", "q": "auto"},
    ),
    "auto of the measurement": ("estimator: {measurement: auto}", "", "estimator.measurement", "margin"),
    "what is not auto stays": ("score: {kind: top_coupling}", "", "score.kind", "top_coupling"),
    "a number as text, as YAML reads 1e-3": (
        "curvature: {damping: {kind: absolute, value: 1e-3}}",
        "",
        "curvature.damping.value",
        0.001,
    ),
    "and in the target": ("calibration: {target: {fpr: 1e-2}}", "", "calibration.target.fpr", 0.01),
    "one pattern as text": ("estimator: {layers: conv*}", "", "estimator.layers", ("conv*",)),
    "a list of files": ("data: {audited: [a.parquet, b/*.parquet]}", "", "data.audited", ("a.parquet", "b/*.parquet")),
    "no label": ("data: {columns: {label: null}}", "", "data.columns.label", None),
    "kwargs": ("", "kwargs: {width: 8, act: {name: relu}}", "kwargs", {"width": 8, "act": {"name": "relu"}}),
}


@pytest.mark.parametrize(("top", "model", "path", "expected"), MERGED.values(), ids=MERGED)
def test_sections_merge(top: str, model: str, path: str, expected: object) -> None:
    assert at(parse(top, model), path) == expected


@pytest.mark.parametrize(
    ("top", "model", "path", "expected"),
    [
        ("curvature: {damping: {factor: 2}}", "curvature: {kind: block_moment}", "curvature.damping.factor", 2.0),
        (
            "curvature: {damping: {factor: 2}}",
            "curvature: {damping: {kind: relative_mean}}",
            "curvature.damping.factor",
            2.0,
        ),
        ("estimator: {projection: {rank: 8}}", "estimator: {kind: gradient}", "estimator.projection.rank", 8),
        ("score: {layers: apart}", "score: {kind: auto}", "score.layers", "apart"),
    ],
)
def test_the_default_kind_spelt_out_is_the_kind_left_out(top: str, model: str, path: str, expected: object) -> None:
    assert at(parse(top, model), path) == expected


TEXT_DEFAULTS = {
    "nothing given": ({}, "token_margin", {"kind": "top_coupling", "layers": "concatenated", "q": "auto"}),
    "auto spelt out": (
        {"estimator": {"measurement": "auto"}, "score": {"kind": "auto", "layers": "auto"}},
        "token_margin",
        {"kind": "top_coupling", "layers": "concatenated", "q": "auto"},
    ),
    "what is given stays": (
        {"estimator": {"measurement": "completion_nll"}, "score": {"kind": "leverage", "layers": "apart"}},
        "completion_nll",
        {"kind": "leverage", "layers": "apart", "q": "auto"},
    ),
    "q alone": ({"score": {"q": 3}}, "token_margin", {"kind": "top_coupling", "layers": "concatenated", "q": 3}),
}


@pytest.mark.parametrize(("sections", "measurement", "score"), TEXT_DEFAULTS.values(), ids=TEXT_DEFAULTS)
def test_a_language_model_has_defaults_of_its_own(sections: Raw, measurement: str, score: Raw) -> None:
    model = AuditConfig.parse({**MINIMAL, "models": [{**CHAT, **sections}]}).models[0]
    assert (model.estimator.measurement, model.score.model_dump(mode="json")) == (measurement, score)
    assert (model.huggingface, model.architecture, model.weights, model.task) == (
        "/models/chat",
        None,
        None,
        "causal_lm",
    )


def test_models_of_both_tasks_stand_side_by_side() -> None:
    for task, models in (
        ("classification", [MODEL, CHAT]),
        ("causal_lm", [{**MODEL, "task": "classification"}, {"name": "chat", "huggingface": "chat"}]),
    ):
        net, chat = AuditConfig.parse({**MINIMAL, "task": task, "models": models}).models
        assert (net.task, net.score.kind, net.estimator.measurement) == (
            "classification",
            "prediction_coupling",
            "margin",
        )
        assert (chat.task, chat.score.kind, chat.estimator.measurement) == ("causal_lm", "top_coupling", "token_margin")


def test_each_model_is_its_own() -> None:
    second: Raw = {**MODEL, "name": "second", "data": {"audited": "other.parquet"}, "score": {"kind": "leverage"}}
    first, other = AuditConfig.parse({**MINIMAL, "models": [MODEL, second]}).models
    assert (first.score.kind, first.data.audited) == ("prediction_coupling", ("inputs/*.parquet",))
    assert (other.score.kind, other.data.audited, other.data.trusted) == (
        "leverage",
        ("other.parquet",),
        ("trusted.parquet",),
    )


def test_task_and_data_may_stand_with_the_models_alone() -> None:
    own = {**MODEL, "task": "classification", "data": MINIMAL["data"]}
    assert AuditConfig.parse({"root": "audits", "models": [own]}).models == parse().models


def unchanged(mapping: Mapping[str, JsonValue]) -> str:
    return yaml.safe_dump(dict(mapping))


def test_merging_changes_neither_side() -> None:
    below: Raw = {"curvature": {"damping": {"factor": 2}}, "data": {"columns": {"id": "a"}}}
    over: Raw = {"curvature": {"damping": {"factor": 3}}, "data": {"columns": {"image": "b"}}}
    texts = unchanged(below), unchanged(over)
    assert merge(below, over) == {"curvature": {"damping": {"factor": 3}}, "data": {"columns": {"image": "b"}}}
    assert (unchanged(below), unchanged(over)) == texts
