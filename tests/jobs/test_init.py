"""`mad init --from FOLDER`: the config for what lies there, which a plan takes once the data are there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from pipeline.config.audit_config import AuditConfig
from tests.jobs.command import mad
from tests.languages import gpt2, save

TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def vit() -> PreTrainedModel:
    return ViTForImageClassification(ViTConfig(**TINY, image_size=8, patch_size=4))


def bert(**settings: object) -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(vocab_size=40, **TINY, **settings))


FOLDERS: dict[str, tuple[Callable[[], PreTrainedModel], str, str]] = {
    "images": (vit, "classification", "images"),
    "tokens": (bert, "classification", "sequences"),
    "labels": (lambda: bert(problem_type="multi_label_classification"), "multi_label", "sequences"),
    "number": (lambda: bert(num_labels=1, problem_type="regression"), "regression", "sequences"),
    "decision": (lambda: bert(num_labels=1), "binary", "sequences"),
    "chat": (gpt2, "causal_lm", "texts"),
    "audio": (lambda: ASTForAudioClassification(ASTConfig(**TINY, max_length=40)), "classification", "tensors"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_a_model_gets_its_config(tmp_path: Path, kind: str) -> None:
    build, task, samples = FOLDERS[kind]
    save(build(), tmp_path / "models" / kind)
    ended = mad("init", str(tmp_path / "new"), "--from", str(tmp_path / "models" / kind))
    assert ended.code == 0, ended.err
    (model,) = AuditConfig.load(tmp_path / "new" / "audit.yaml").models
    assert (model.name, model.huggingface) == (kind, str(tmp_path / "models" / kind))
    assert (model.task, model.samples) == (task, samples)
    assert model.data.preprocesses == (kind == "images")


def test_a_tokenizer_and_an_image_processor_are_used_where_they_are(tmp_path: Path) -> None:
    save(vit(), tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text("{}")
    save(bert(), tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").write_text("{}")
    for name in ("vit", "bert"):
        assert mad("init", str(tmp_path / f"{name}-audit"), "--from", str(tmp_path / name)).code == 0
    (vit_model,), (bert_model,) = (
        AuditConfig.load(tmp_path / f"{name}-audit" / "audit.yaml").models for name in ("vit", "bert")
    )
    assert not vit_model.data.preprocesses
    assert bert_model.data.columns.text == "text"


def test_an_adapter_needs_a_base_that_the_user_names(tmp_path: Path) -> None:
    lora = tmp_path / "report"
    lora.mkdir()
    settings = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "evil\nroot: /etc"}
    (lora / "adapter_config.json").write_text(json.dumps(settings))
    assert mad("init", str(tmp_path), "--from", str(lora)).code == 0
    config = AuditConfig.load(tmp_path / "audit.yaml")
    (model,) = config.models
    assert (model.name, model.huggingface, model.adapter) == ("model-report", "base", str(lora))
    assert model.task == "classification"
    assert config.root == str(tmp_path / "audits")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds neither config.json nor adapter_config.json ("),
        ({"config.json": "["}, "config.json is not readable (JSONDecodeError"),
        ({"config.json": '{"model_type": "net"}'}, "says that it is a model that names no architecture"),
    ],
)
def test_a_folder_without_a_model_is_refused_and_nothing_is_written(
    tmp_path: Path, files: dict[str, str], says: str
) -> None:
    (tmp_path / "odd").mkdir()
    for name, text in files.items():
        (tmp_path / "odd" / name).write_text(text)
    ended = mad("init", str(tmp_path / "new"), "--from", str(tmp_path / "odd"))
    assert ended.code == 2
    assert says in ended.complaint
    assert not (tmp_path / "new").exists()


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    save(BertForMaskedLM(BertConfig(vocab_size=40, **TINY)), tmp_path / "masked")
    ended = mad("init", str(tmp_path / "new"), "--from", str(tmp_path / "masked"))
    assert ended.code == 2
    assert (
        "says that it is BertForMaskedLM, which is neither a causal language model nor a classifier" in ended.complaint
    )
