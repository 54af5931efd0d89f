"""Sections that make no sense together are refused, with what would be right."""

import pytest
import yaml

from pipeline.config.audit_config import AuditConfig
from pipeline.config.checks.combinations import score_kind
from pipeline.config.schema import ModelConfig
from pipeline.config.sections import Raw
from pipeline.errors import ConfigError
from tests.pipeline.config.configs import CHAT, MINIMAL, complaint

SCORES_OF_TEXTS = "valid: auto, top_coupling, mean_coupling, leverage"


MISFITS = {
    "a class score of texts": (
        "",
        "score: {kind: prediction_coupling}",
        "models.chat.score.kind: prediction_coupling makes no sense for the task causal_lm; " + SCORES_OF_TEXTS,
    ),
    "another": (
        "score: {kind: class_coupling}",
        "",
        "score.kind: class_coupling makes no sense for the task causal_lm; " + SCORES_OF_TEXTS,
    ),
    "a margin of classes": (
        "estimator: {measurement: margin}",
        "",
        "estimator.measurement: margin makes no sense for the task causal_lm; "
        "valid: auto, token_margin, completion_nll",
    ),
    "a margin of tokens": (
        "estimator: {measurement: token_margin}",
        "task: classification\nhuggingface: null\narchitecture: net.py:build\nweights: net.pt",
        "estimator.measurement: token_margin makes no sense for the task classification; valid: auto, margin",
    ),
    "probabilities of texts": (
        "",
        "outputs: probabilities",
        "models.chat.outputs: probabilities makes no sense for the task causal_lm; valid: logits",
    ),
    "two models in one": (
        "",
        "architecture: net.py:build\nkwargs: {width: 3}",
        "models.chat: name the model in one way, by architecture, huggingface, timm or torchvision "
        "(here: architecture, huggingface, kwargs)",
    ),
    "no model": ("", "huggingface: null", "models.chat: give huggingface, the folder of a causal language model"),
    "no classifier": (
        "",
        "huggingface: null\ntask: classification",
        "models.chat: give architecture and weights, or huggingface, timm or torchvision",
    ),
    "half a classifier": (
        "",
        "huggingface: null\ntask: classification\nweights: a.pt",
        "models.chat.architecture: required, but not given",
    ),
    "the other half": (
        "",
        "huggingface: null\ntask: classification\narchitecture: a.py:b",
        "models.chat.weights: required, but not given",
    ),
    "a classifier of texts": (
        "",
        "huggingface: null\narchitecture: a.py:b\nweights: a.pt",
        "models.chat: give huggingface, the folder of a causal language model; "
        "architecture and weights are for the task classification, not causal_lm",
    ),
    "arguments of a folder": (
        "",
        "kwargs: {width: 3}",
        "models.chat: kwargs does not go with huggingface; it belongs to architecture, timm, torchvision",
    ),
}


@pytest.mark.parametrize(("top", "model", "expected"), MISFITS.values(), ids=MISFITS)
def test_what_makes_no_sense_together_is_refused_with_what_would(top: str, model: str, expected: str) -> None:
    raw: Raw = {**MINIMAL, **(yaml.safe_load(top) or {}), "models": [{**CHAT, **(yaml.safe_load(model) or {})}]}
    with pytest.raises(ConfigError) as caught:
        AuditConfig.parse(raw)
    assert str(caught.value).startswith(expected)
    assert str(caught.value).count(";") == expected.count(";")


OF_ESTIMATORS = {
    "a curvature of traces": (
        "estimator: {kind: loss_trace, sampling: s}\ncurvature: {kind: kfac}",
        "curvature: the estimator loss_trace compares traces as they are, without kfac; leave curvature out, "
        "or set kind: identity",
    ),
    "concordance of gradients": (
        "score: {kind: concordance}",
        "score: concordance is of loss traces, not of the estimator gradient; valid: prediction_coupling",
    ),
    "a form of another score": (
        "score: {kind: leverage, form: mean}",
        "score: form belongs to kind: concordance, not to leverage",
    ),
    "screening of traces": (
        "estimator: {kind: loss_trace, sampling: s}\ncalibration: {screen: true}",
        "calibration: screen looks at the predicted classes of gradients' rows; it needs task: classification",
    ),
    "q of the default": ("score: {q: 3}", "score: q belongs to kind: top_coupling, not to auto"),
    "nothing to debias": (
        "score: {kind: leverage, debiased: true}",
        "score: debiased belongs to a score of class means, prediction_coupling or class_coupling, not to leverage",
    ),
}


@pytest.mark.parametrize(("top", "expected"), OF_ESTIMATORS.values(), ids=OF_ESTIMATORS)
def test_what_an_estimator_or_score_does_not_have_is_refused(top: str, expected: str) -> None:
    assert complaint(top).startswith(expected)


@pytest.mark.parametrize(
    ("top", "kind"),
    [("", "prediction_coupling"), ("score: {kind: leverage}", "leverage"), ("task: causal_lm", "top_coupling")],
)
def test_auto_is_the_first_score_of_the_task(top: str, kind: str) -> None:
    model = {"huggingface": "/m"} if "causal_lm" in top else {"architecture": "a.py:b", "weights": "w.pt"}
    raw = {"name": "m", "task": "classification", "data": {"trusted": "t", "audited": "a"}, **model}
    assert score_kind(ModelConfig.model_validate(raw | (yaml.safe_load(top) or {}))) == kind
