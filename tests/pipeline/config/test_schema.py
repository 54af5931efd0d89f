"""One model of a config: its name, and what its sections hold."""

import pytest

from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import DEFAULT_KINDS, KINDS_IN_PLACES
from pipeline.config.tasks import TASKS
from pipeline.errors import ConfigError
from tests.pipeline.config.configs import CHAT, MINIMAL, MODEL, parse


def test_names_of_models_are_plain_and_long_enough() -> None:
    names = ["a", "Z9", "0", "a.b-c_d", "x" * 100]
    config = AuditConfig.parse({**MINIMAL, "models": [{**MODEL, "name": name} for name in names]})
    assert [model.name for model in config.models] == names


NAMES = [
    "net\n",
    "net\r\n",
    "\nnet",
    "a\0",
    "a\u0661",
    "a/b",
    "a\\b",
    "..",
    ".",
    ".net",
    "-net",
    "a b",
    "a:b",
    "a*",
    "~",
    "",
    "x" * 101,
    "é",
    "a\u202eb",
    "C:",
]


@pytest.mark.parametrize("name", [*NAMES, "runs", "RUNS", "Report", "mad.json", "MAD.JSON", "index", "Index"])
def test_a_model_is_not_named(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AuditConfig.parse({**MINIMAL, "models": [{**MODEL, "name": name}]})
    assert str(caught.value).isprintable()


def test_the_defaults_of_all_kinds() -> None:
    assert DEFAULT_KINDS == {
        "estimator": "gradient",
        "projection": "rademacher",
        "curvature": "block_moment",
        "damping": "relative_mean",
        "score": "auto",
    }


def test_kinds_that_tell_sections_apart_are_those_of_unions() -> None:
    assert {"gradient", "loss_trace", "relative_mean", "absolute"} == KINDS_IN_PLACES


def test_a_language_model_has_every_curvature_but_the_gauss_newton_matrix() -> None:
    every, without = set(TASKS["classification"].curvatures), set(TASKS["causal_lm"].curvatures)
    assert every - without == {"ggn"} and without < every


def test_what_follows_from_task_and_estimator() -> None:
    net, chat = parse().models[0], AuditConfig.parse({**MINIMAL, "models": [CHAT]}).models[0]
    traced = parse("estimator: {kind: loss_trace, sampling: s.parquet}").models[0]
    assert (net.is_text, net.screened, net.measurement, net.described) == (
        False,
        True,
        "margin",
        "architecture net.py:build",
    )
    assert (chat.is_text, chat.screened, chat.described) == (True, False, "huggingface /models/chat")
    assert (traced.screened, traced.measurement, traced.curvature.kind) == (False, "margin", "identity")
    assert net.traced is None and traced.traced is traced.estimator
    with pytest.raises(TypeError, match="loss_trace, which has no gradients"):
        _ = traced.gradient
