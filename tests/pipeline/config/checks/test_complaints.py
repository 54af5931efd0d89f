"""Configs that are refused: every complaint names the place, what is wrong there, and what would be right."""

import pytest
import yaml

from pipeline.config.audit_config import AuditConfig
from pipeline.config.sections import Raw
from pipeline.errors import ConfigError
from tests.pipeline.config.configs import MINIMAL, MODEL, complaint

UNKNOWN = {
    "top level": ("rot: x", "", "rot: unknown key; did you mean 'root'?"),
    "a section": ("estimater: {}", "", "estimater: unknown key; did you mean 'estimator'?"),
    "in run": ("run: {batchsize: 8}", "", "run.batchsize: unknown key; did you mean 'batch_size'?"),
    "in data": ("data: {colums: {}}", "", "data.colums: unknown key; did you mean 'columns'?"),
    "in columns": ("data: {columns: {imgae: x}}", "", "data.columns.imgae: unknown key; did you mean 'image'?"),
    "in preprocess": ("data: {preprocess: {sze: 8}}", "", "data.preprocess.sze: unknown key; did you mean 'size'?"),
    "in projection": (
        "estimator: {projection: {rnk: 8}}",
        "",
        "estimator.projection.rnk: unknown key; did you mean 'rank'?",
    ),
    "in damping": (
        "curvature: {damping: {factr: 1}}",
        "",
        "curvature.damping.factr: unknown key; did you mean 'factor'?",
    ),
    "in target": ("calibration: {target: {fd: 0.1}}", "", "calibration.target.fd: unknown key; did you mean 'fdr'?"),
    "in a model": ("", "archtecture: x", "models.net.archtecture: unknown key; did you mean 'architecture'?"),
    "in a model's section": (
        "",
        "curvature: {dampin: {}}",
        "models.net.curvature.dampin: unknown key; did you mean 'damping'?",
    ),
    "a section too high": ("estimator: {rank: 8}", "", "estimator.rank: unknown key; did you mean 'projection.rank'?"),
    "of another kind": (
        "curvature: {damping: {value: 1}}",
        "",
        "curvature.damping.value: unknown key; 'value' belongs to kind: absolute",
    ),
    "where it stands": (
        "curvature: {dampin: {}}",
        "score: {kind: leverage}",
        "curvature.dampin: unknown key; did you mean 'damping'?",
    ),
    "nothing near": ("score: {zzz: 1}", "", "score.zzz: unknown key; valid keys: kind, form, layers"),
    "of the whole, in a model": (
        "",
        "run: {}",
        "models.net.run: unknown key; valid keys: name, architecture, kwargs, weights, huggingface, adapter, timm",
    ),
    "misspelt": ("", "hugginface: /models/chat", "models.net.hugginface: unknown key; did you mean 'huggingface'?"),
    "what is noted of a control": (
        "",
        "untrained: true",
        "models.net.untrained: unknown key; did you mean control: untrained?",
    ),
    "the folder": ("folder: /tmp", "", "folder: unknown key; valid keys: root, models"),
    "no text": ("1: 2", "", "1: unknown key; valid keys: root, models"),
}


@pytest.mark.parametrize(("top", "model", "expected"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_key_names_the_nearest_valid_one(top: str, model: str, expected: str) -> None:
    assert complaint(top, model).startswith(expected)


def test_an_unknown_key_of_the_second_kind_names_that_kinds_keys() -> None:
    assert "curvature.damping.vlue: unknown key; did you mean 'value'?" in complaint(
        "curvature: {damping: {kind: absolute, vlue: 1}}"
    )


def test_a_misspelt_models_is_named() -> None:
    raw = {("modles" if key == "models" else key): value for key, value in MINIMAL.items()}
    with pytest.raises(ConfigError, match="modles: unknown key; did you mean 'models'"):
        AuditConfig.parse(raw)


ONE_OF = "input should be"


WRONG = {
    "text for a number": (
        "run: {batch_size: many}",
        "",
        "run.batch_size: input should be a valid integer",
        "got 'many'",
    ),
    "a fraction of a row": (
        "run: {rows_per_task: 1.5}",
        "",
        "run.rows_per_task: input should be a valid integer",
        "got 1.5",
    ),
    "too small": ("run: {workers: 0}", "", "run.workers: input should be greater than or equal to 1", "got 0"),
    "memory": (
        "run: {memory_per_worker: lots}",
        "",
        "run.memory_per_worker: could not parse value and unit",
        "got 'lots'",
    ),
    "q of a classifier's default": ("score: {q: 3}", "", "score: q belongs to kind: top_coupling, not to auto", ""),
    "q of another score": (
        "score: {kind: leverage, q: 3}",
        "",
        "score: q belongs to kind: top_coupling, not to leverage",
        "",
    ),
    "no q": ("score: {kind: top_coupling, q: 0}", "", "score.q: q must be auto or a whole number from 1 on", "got 0"),
    "a section as text": ("calibration: strict", "", "calibration: expected a mapping", "got 'strict'"),
    "a section as nothing": ("score:", "", "score: expected a mapping", "got None"),
    "a model's section": ("", "data: {columns: 3}", "models.net.data.columns: expected a mapping", "got 3"),
    "a list as root": ("root: [a]", "", "root: input should be a valid string", ""),
    "two of three means": (
        "data: {preprocess: {mean: [0, 0]}}",
        "",
        "data.preprocess: mean and std have a number for each channel, 1 for grey or 3 for RGB",
        "got 2 in mean and 2 in std",
    ),
    "grey mean and RGB std": (
        "data: {preprocess: {mean: [0.1], std: [1, 1, 1]}}",
        "",
        "data.preprocess: mean and std have a number for each channel, 1 for grey or 3 for RGB",
        "got 1 in mean and 3 in std",
    ),
    "std of 0": (
        "data: {preprocess: {std: [1, 0, 1]}}",
        "",
        "data.preprocess: std must be positive",
        "got [1.0, 0.0, 1.0]",
    ),
    "no files": ("data: {trusted: []}", "", "data.trusted: value should have at least 1 item", "not 0"),
    "a share of 1": ("calibration: {fraction: 1}", "", "calibration.fraction: input should be less than 1", "got 1"),
    "no damping": (
        "curvature: {damping: {factor: 0}}",
        "",
        "curvature.damping.factor: input should be greater than 0",
        "got 0",
    ),
    "absolute without value": (
        "curvature: {damping: {kind: absolute}}",
        "",
        "curvature.damping.value: required, but not given",
        "",
    ),
    "kwargs as a list": ("", "kwargs: [8]", "models.net.kwargs: expected a mapping", ""),
    "both targets": (
        "calibration: {target: {fpr: 0.1, fdr: 0.1}}",
        "",
        "calibration.target: give exactly one of fpr and fdr",
        "{fpr: 0.01}",
    ),
    "no target": (
        "calibration: {target: {}}",
        "",
        "calibration.target: give exactly one of fpr and fdr",
        "{fpr: 0.01}",
    ),
    "a target of 1": (
        "calibration: {target: {fdr: 1}}",
        "",
        "calibration.target.fdr: input should be less than 1",
        "got 1",
    ),
    "unknown task": (
        "task: causal",
        "",
        f"task: {ONE_OF} 'classification', 'causal_lm', 'binary', 'multi_label' or 'regression'",
        "got 'causal'",
    ),
    "unknown estimator": (
        "estimator: {kind: hessian}",
        "",
        "estimator: kind must be one of 'gradient', 'loss_trace'",
        "'loss_trace'",
    ),
    "traces of nothing": ("estimator: {kind: loss_trace}", "", "estimator.sampling: required, but not given", ""),
    "too few draws": (
        "estimator: {kind: loss_trace, sampling: s.parquet, draws: 9, burn_in: 5}",
        "",
        "estimator: of 9 draws, 4 are kept",
        "lower burn_in",
    ),
    "unknown measurement": (
        "estimator: {measurement: loss}",
        "",
        f"estimator.measurement: {ONE_OF} 'auto', 'margin', 'token_margin'",
        "got 'loss'",
    ),
    "unknown curvature": (
        "curvature: {kind: hessian}",
        "",
        f"curvature.kind: {ONE_OF} 'identity', 'block_moment', 'ggn', 'fisher', 'kfac' or 'ekfac'",
        "got 'hessian'",
    ),
    "unknown score": (
        "score: {kind: knn}",
        "",
        f"score.kind: {ONE_OF} 'auto', 'prediction_coupling', 'class_coupling'",
        "got 'knn'",
    ),
    "concordance of gradients": (
        "score: {kind: concordance}",
        "",
        "score: concordance is of loss traces, not of the estimator gradient",
        "leverage",
    ),
    "later tail": ("calibration: {tail: gpd}", "", f"calibration.tail: {ONE_OF} 'conformal'", "got 'gpd'"),
    "nothing to fit": (
        "curvature: {kind: identity, transductive: true}",
        "",
        "curvature: transductive says which samples the curvature is computed from",
        "choose one",
    ),
    "unknown damping": (
        "curvature: {damping: {kind: ridge}}",
        "",
        "curvature.damping: kind must be one of 'relative_mean'",
        "'relative_mean', 'absolute'",
    ),
    "unknown precision": (
        "estimator: {precision: fp16}",
        "",
        f"estimator.precision: {ONE_OF} 'float32', 'bfloat16' or 'float16'",
        "got 'fp16'",
    ),
    "nothing to debias": (
        "score: {kind: mean_coupling, debiased: true}",
        "",
        "score: debiased belongs to a score of class means",
        "not to mean",
    ),
    "of the model": (
        "",
        "curvature: {kind: hessian}",
        f"models.net.curvature.kind: {ONE_OF} 'identity', 'block_moment', 'ggn', 'fisher', 'kfac' or 'ekfac'",
        "got 'hessian'",
    ),
    "reviews of two files": ("review: [a.csv, b.csv]", "", "review: input should be a valid string", ""),
    "on_verdict of a number": ("on_verdict: 3", "", "on_verdict: expected a mapping, got 3", ""),
    "a name with a space": (
        "",
        "name: a net",
        "models.a net.name: string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'",
        "got 'a net'",
    ),
    "a name that hides": ("", "name: .net", "models..net.name: string should match pattern", "got '.net'"),
    "a path as a name": ("", "name: a/b", "models.a/b.name: string should match pattern", "got 'a/b'"),
    "a long name": ("", f"name: {'x' * 101}", ".name: string should match pattern", "x" * 101),
    "a name with a line break": ("", 'name: "net\\r"', ".name: string should match pattern", "got 'net\\r'"),
    "a number as a name": ("", "name: 5", "models.5.name: input should be a valid string", "got 5"),
    **{
        f"reserved: {name}": ("", f"name: {name}", f"'{name}' is taken by the root's own files", "choose another")
        for name in ("runs", "report", "mad.json")
    },
}


@pytest.mark.parametrize(("top", "model", "what", "detail"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_says_where_and_what_would_be_right(top: str, model: str, what: str, detail: str) -> None:
    message = complaint(top, model)
    assert what in message
    assert detail in message


def test_all_complaints_come_at_once_and_each_once() -> None:
    raw: Raw = {
        **MINIMAL,
        "models": [{**MODEL, "name": name} for name in ("one", "two")],
        "score": {"kind": "best"},
        "run": {"worker": 1},
    }
    with pytest.raises(ConfigError) as caught:
        AuditConfig.parse(raw)
    parts = str(caught.value).split("; ")
    assert [part.partition(":")[0] for part in parts if not part.startswith("did you")] == ["score.kind", "run.worker"]


@pytest.mark.parametrize(
    ("top", "where"),
    [
        ("curvature: {damping: {factor: .inf}}", "curvature.damping.factor"),
        ("curvature: {damping: {kind: absolute, value: .inf}}", "curvature.damping.value"),
        ("run: {gpus_per_worker: .inf}", "run.gpus_per_worker"),
        ("data: {preprocess: {mean: [.nan, 0, 0]}}", "data.preprocess.mean"),
        ("data: {preprocess: {std: [.nan, 1, 1]}}", "data.preprocess"),
        ("data: {preprocess: {std: [.inf, 1, 1]}}", "data.preprocess"),
    ],
)
def test_numbers_must_be_finite(top: str, where: str) -> None:
    assert where in complaint(top)


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3", ".001"])
def test_all_spellings_of_a_number_are_one_number(text: str) -> None:
    raw: Raw = {**MINIMAL, **yaml.safe_load(f"curvature: {{damping: {{factor: {text}}}}}")}
    assert AuditConfig.parse(raw).models[0].curvature.damping.model_dump() == {"kind": "relative_mean", "factor": 0.001}
