"""`audit.yaml` to a frozen config: defaults, merging, paths, and complaints that say where, what and what would be right."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from madcore.scoring.coupling import CLASS_SCORES
from pipeline.config.audit_config import AuditConfig, merge
from pipeline.config.schema import CLASS_MEANS
from pipeline.config.sections import Raw
from pipeline.errors import ConfigError

MODEL: Raw = {"name": "net", "architecture": "net.py:build", "weights": "net.safetensors"}


MINIMAL: Raw = {
    "root": "audits",
    "task": "classification",
    "models": [MODEL],
    "data": {"trusted": "trusted.parquet", "audited": "inputs/*.parquet"},
}


DEFAULT_SECTIONS = """
kwargs: {}
huggingface: null
task: classification
data:
  trusted: [trusted.parquet]
  audited: [inputs/*.parquet]
  columns: {id: id, image: image, input_ids: input_ids, completion_start: completion_start, label: label, anomalous: anomalous, target: target}
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


def parse(top: str = "", model: str = "") -> AuditConfig:
    """The minimal config, with YAML merged over its top level and over its model."""
    own: Raw = {**MODEL, **(yaml.safe_load(model) or {})}
    return AuditConfig.parse(merge({**MINIMAL, "models": [own]}, yaml.safe_load(top) or {}), "/configs")


def complaint(top: str = "", model: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(top, model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def at(config: AuditConfig, path: str) -> object:
    """A value of the config's only model, by its dotted path."""
    value: object = config.models[0]
    for part in path.split("."):
        value = getattr(value, part)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def test_what_is_not_given_has_the_documented_default() -> None:
    config = parse()
    assert config.models[0].model_dump(mode="json") == MODEL | yaml.safe_load(DEFAULT_SECTIONS)
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


CHAT: Raw = {"name": "chat", "huggingface": "/models/chat", "task": "causal_lm"}


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


def test_relative_paths_count_from_the_folder_of_the_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "audit.yaml").write_text(yaml.safe_dump(MINIMAL))
    monkeypatch.chdir(tmp_path)
    for place in ("configs/audit.yaml", folder / "audit.yaml"):
        config = AuditConfig.load(place)
        assert config.root == str(folder / "audits")
        located = [
            config.locate(path) for path in ("net.safetensors", "../w.pt", "/data/a.parquet", "s3://bucket/a.parquet")
        ]
        assert located == [
            str(folder / "net.safetensors"),
            str(folder.parent / "w.pt"),
            "/data/a.parquet",
            "s3://bucket/a.parquet",
        ]


@pytest.mark.parametrize("root", ["s3://audits/zoo", "memory://zoo", "/srv/audits"])
def test_a_root_that_is_a_url_or_absolute_stays_as_it_is(root: str) -> None:
    assert parse(f"root: {root}").root == root


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("", "root", "elsewhere"),
        ("", "models", ()),
        ("run", "batch_size", 1),
        ("models.0", "weights", "x"),
        ("models.0.calibration.target", "fpr", 0.5),
    ],
)
def test_a_config_is_frozen(section: str, name: str, value: object) -> None:
    held: object = parse()
    for part in section.split(".") if section else []:
        held = held[int(part)] if isinstance(held, tuple) else getattr(held, part)
    before = getattr(held, name)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(held, name, value)
    assert getattr(held, name) == before


def unchanged(mapping: Mapping[str, JsonValue]) -> str:
    return yaml.safe_dump(dict(mapping))


def test_merging_changes_neither_side() -> None:
    below: Raw = {"curvature": {"damping": {"factor": 2}}, "data": {"columns": {"id": "a"}}}
    over: Raw = {"curvature": {"damping": {"factor": 3}}, "data": {"columns": {"image": "b"}}}
    texts = unchanged(below), unchanged(over)
    assert merge(below, over) == {"curvature": {"damping": {"factor": 3}}, "data": {"columns": {"image": "b"}}}
    assert (unchanged(below), unchanged(over)) == texts


def test_names_of_models_are_plain_and_long_enough() -> None:
    names = ["a", "Z9", "0", "a.b-c_d", "x" * 100]
    config = AuditConfig.parse({**MINIMAL, "models": [{**MODEL, "name": name} for name in names]})
    assert [model.name for model in config.models] == names


def test_what_can_be_debiased_is_what_compares_with_class_means() -> None:
    """A config is parsed without torch, so it has the names of its own."""
    assert CLASS_MEANS == CLASS_SCORES
