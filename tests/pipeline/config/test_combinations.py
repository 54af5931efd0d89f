"""Sections that make no sense together are refused, with what would be right."""

from collections.abc import Mapping
from hypothesis import given, settings
from hypothesis import strategies as st
from madcore.scoring.coupling import CLASS_SCORES
from pathlib import Path
from pipeline.config.audit_config import AuditConfig
from pipeline.config.audit_config import AuditConfig, merge
from pipeline.config.safe_yaml import DEEPEST, LONGEST_SCALAR, MOST_VALUES, parse_yaml
from pipeline.config.safe_yaml import LARGEST_CONFIG
from pipeline.config.scoring import CLASS_MEANS
from pipeline.errors import ConfigError
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic import JsonValue
from tests.strategies import LAW
import pytest
import subprocess
import sys
import yaml
from pipeline.config.sections import Raw
from tests.pipeline.config.configs import CHAT, MINIMAL, MODEL, at, complaint, parse


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
        "estimator.measurement: margin makes no sense for the task causal_lm; valid: auto, token_margin, completion_nll",
    ),
    "a margin of tokens": (
        "estimator: {measurement: token_margin}",
        "task: classification\nhuggingface: null\narchitecture: net.py:build\nweights: net.pt",
        "estimator.measurement: token_margin makes no sense for the task classification; valid: auto, margin",
    ),
    "two models in one": (
        "",
        "architecture: net.py:build\nkwargs: {width: 3}",
        "models.chat: give either architecture and weights, or huggingface, not both (here: huggingface, architecture, kwargs)",
    ),
    "no model": ("", "huggingface: null", "models.chat: give huggingface, the folder of a causal language model"),
    "no classifier": ("", "huggingface: null\ntask: classification", "models.chat: give architecture and weights"),
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
        "models.chat: give huggingface, the folder of a causal language model; architecture and weights are for the task classification, not causal_lm",
    ),
    "a language model of images": (
        "",
        "task: classification",
        "models.chat: huggingface is for the task causal_lm, not classification; set task: causal_lm",
    ),
}


@pytest.mark.parametrize(("top", "model", "expected"), MISFITS.values(), ids=MISFITS)
def test_what_makes_no_sense_together_is_refused_with_what_would(top: str, model: str, expected: str) -> None:
    raw: Raw = {**MINIMAL, **(yaml.safe_load(top) or {}), "models": [{**CHAT, **(yaml.safe_load(model) or {})}]}
    with pytest.raises(ConfigError) as caught:
        AuditConfig.parse(raw)
    assert str(caught.value).startswith(expected)
    assert str(caught.value).count(";") == expected.count(";")
