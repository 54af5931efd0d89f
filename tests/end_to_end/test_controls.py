"""`control: untrained`: the same audit on random weights, beside the model's."""

from pathlib import Path

import pytest
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from tests.audits import audited, counts
from tests.conftest import ConfigMaker
from tests.end_to_end.test_quiet_nights import audited_language_model

DIGITS: JsonValue = {
    "name": "digits",
    "architecture": "pipeline.demo.network:digit_cnn",
    "weights": "digits.safetensors",
    "control": "untrained",
}


def test_the_same_samples_are_audited_on_random_weights_and_stand_beside_the_model(make_config: ConfigMaker) -> None:
    config = make_config(models=[DIGITS])
    assert [model.name for model in config.models] == ["digits", "digits.untrained"]
    audit = audited(config)
    own, control = audit.summary("digits"), audit.summary("digits.untrained")
    assert own.controls is not None and own.evaluation is not None and control.evaluation is not None
    beside = own.controls["untrained"]
    assert control.evaluation.all is not None and own.evaluation.all is not None
    assert beside.auroc == control.evaluation.all.auroc is not None
    assert beside.flagged_share == control.counts.flagged / control.counts.audited
    assert own.evaluation.all.auroc is not None and own.evaluation.all.auroc > beside.auroc + 0.2
    assert control.calibration.reference > 100, "labels do not filter what is right by chance"
    assert any("its weights are random" in warning for warning in control.warnings)
    assert {"confidence", "gradient_norm"} < set(own.controls)
    page = (Path(config.root) / "report/digits.html").read_text()
    assert "With random weights, this audit flags" in page and 'digits.untrained.html"' in page
    again = audited(config)
    assert [counts(again, name)["gradients"][0] for name in ("digits", "digits.untrained")] == [0, 0]


def test_without_truth_a_control_has_its_share_of_flagged_samples(make_config: ConfigMaker, digits: Path) -> None:
    audit = audited(make_config(models=[DIGITS], data={"columns": {"anomalous": None}}))
    controls = audit.summary("digits").controls
    assert controls is not None and list(controls) == ["untrained"]
    assert controls["untrained"].auroc is None and controls["untrained"].flagged_share is not None


def test_a_control_needs_no_weights_file_and_takes_part_in_no_row_of_the_model(make_config: ConfigMaker) -> None:
    own, control = plan_audit(make_config(models=[DIGITS])).models
    (alone,) = plan_audit(make_config()).models
    assert own.row_key == alone.row_key != control.row_key
    assert control.config.weights is None and control.digest != own.digest
    assert control.digest == plan_audit(make_config(models=[DIGITS])).models[1].digest


def test_a_name_that_a_control_takes_is_refused(make_config: ConfigMaker) -> None:
    other = {"name": "digits.untrained", "architecture": "a.py:b", "weights": "w"}
    with pytest.raises(ConfigError, match=r"names must be unique, repeated: digits\.untrained"):
        make_config(models=[DIGITS, other])
    adapter = {"name": "lora", "huggingface": "base", "adapter": "lora", "control": "untrained"}
    with pytest.raises(ConfigError, match=r"models\.lora\.control: untrained is of a whole model"):
        make_config(models=[adapter], task="causal_lm")


def test_a_language_model_has_a_control_as_its_library_begins_to_train_it(tmp_path: Path) -> None:
    config = audited_language_model(tmp_path, embedding=24, blocks=2)
    raw: dict[str, JsonValue] = {
        "root": "another",
        "task": "causal_lm",
        "models": [{"name": "gpt", "huggingface": "model", "control": "untrained"}],
        "data": {"trusted": "trusted.parquet", "audited": "audited.parquet"},
        "estimator": config.models[0].estimator.model_dump(mode="json"),
        "calibration": {"target": {"fpr": 0.1}},
    }
    audit = audited(AuditConfig.parse(raw, str(tmp_path)))
    own, control = audit.summary("gpt"), audit.summary("gpt.untrained")
    assert own.model_digest != control.model_digest
    assert own.layers.covered == control.layers.covered
    assert own.controls is not None and own.controls["untrained"].flagged_share is not None
