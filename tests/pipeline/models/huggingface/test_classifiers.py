"""Classifiers in Hugging Face folders: which are loaded, what is known of them, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BeitConfig,
    BeitForImageClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from pipeline.config.audit_config import AuditConfig
from pipeline.data.texts.rows import TextLimits
from pipeline.errors import SourceError
from pipeline.models.identity import identify
from pipeline.models.interface import Knowledge, LoadedModel, SequenceFacts
from pipeline.models.load import load_model, load_shapes
from tests.languages import llama, save

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 3,
}
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
NAMED = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 3}

IMAGES: dict[str, Callable[[], PreTrainedModel]] = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL)),
    "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**SMALL, mlp_ratio=2)),
    "beit": lambda: BeitForImageClassification(BeitConfig(**SMALL, use_relative_position_bias=True)),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2)
    ),
    "resnet": lambda: ResNetForImageClassification(ResNetConfig(embedding_size=8, layer_type="basic", **STAGES)),
    "convnext": lambda: ConvNextForImageClassification(ConvNextConfig(num_stages=2, **STAGES)),
    "deit": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**SMALL)),
}


def bert(**settings: object) -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=32, **TINY, **settings))


def config(folder: Path, task: str = "classification") -> AuditConfig:
    """Of a model in a folder, named by a path relative to the config's own."""
    models: JsonValue = [{"name": "m", "huggingface": folder.name}]
    data: JsonValue = {"trusted": "a", "audited": "b"}
    return AuditConfig.parse({"root": "r", "task": task, "models": models, "data": data}, str(folder.parent))


def load(folder: Path, task: str = "classification") -> LoadedModel:
    audit = config(folder, task)
    return load_model(audit, audit.models[0])


def complaint(folder: Path, task: str = "classification") -> str:
    with pytest.raises(SourceError) as caught:
        load(folder, task)
    return str(caught.value).removeprefix(f"huggingface {folder.name}: ")


def written(folder: Path, build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """A model, saved by the library, which writes some tensors under the names of earlier versions."""
    torch.manual_seed(0)
    model = build().eval()
    save(model, folder)
    return model


def configure(folder: Path, **keys: JsonValue) -> None:
    settings = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in settings.items() if value is not None})
    )


@pytest.mark.parametrize("kind", IMAGES)
def test_a_classifier_of_images_is_loaded_as_it_was_saved(tmp_path: Path, kind: str) -> None:
    model = written(tmp_path / kind, IMAGES[kind])
    loaded = load(tmp_path / kind)
    assert loaded.known == Knowledge("images")
    assert loaded.limits is None
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.module(images).logits, model(images).logits)
    audit = config(tmp_path / kind)
    shapes = load_shapes(audit, audit.models[0])
    described = {name: tensor.shape for name, tensor in shapes.module.named_parameters()}
    assert described == {name: tensor.shape for name, tensor in model.named_parameters()}
    assert all(parameter.is_meta for parameter in shapes.module.parameters())


def test_names_of_classes_and_the_kind_of_problem_are_known(tmp_path: Path) -> None:
    written(tmp_path / "named", lambda: bert(**NAMED, problem_type="single_label_classification"))
    known = load(tmp_path / "named").known
    facts = SequenceFacts(TextLimits(40, 32), pad=0, tokenizer=None)
    assert known == Knowledge("texts", ("cat", "dog", "owl"), "single_label_classification", sequences=facts)
    written(
        tmp_path / "heard",
        lambda: ASTForAudioClassification(ASTConfig(**TINY, max_length=40, num_mel_bins=32, **NAMED)),
    )
    assert load(tmp_path / "heard").known == Knowledge("audio", ("cat", "dog", "owl"))


TASKS: dict[str, tuple[Callable[[], PreTrainedModel], str, str]] = {
    "a chat model": (
        llama,
        "classification",
        "config.json says that it is a LlamaForCausalLM, which is a causal language model, not for the task "
        "classification; set task: causal_lm",
    ),
    "a classifier": (
        bert,
        "causal_lm",
        "config.json says that it is a BertForSequenceClassification, which is a text classifier, not for the task "
        "causal_lm; set task: classification",
    ),
    "several labels": (
        lambda: bert(problem_type="multi_label_classification"),
        "classification",
        "its problem_type is multi_label_classification in config.json, which is not for the task classification; "
        "set task: multi_label",
    ),
    "one output": (
        lambda: bert(num_labels=1),
        "classification",
        "it has one output in config.json, which is not for the task classification; set task: binary or regression",
    ),
    "no head": (
        lambda: BertForMaskedLM(BertConfig(vocab_size=40, **TINY)),
        "classification",
        "config.json says that it is a BertForMaskedLM, which is none of these: causal language model, image "
        "classifier, audio classifier, text classifier; name a folder of such a model, or give architecture and "
        "weights",
    ),
}


@pytest.mark.parametrize("case", TASKS)
def test_a_task_that_the_model_is_not_for_is_refused_with_the_right_one(tmp_path: Path, case: str) -> None:
    build, task, says = TASKS[case]
    written(tmp_path / "model", build)
    assert complaint(tmp_path / "model", task) == says


def test_a_folder_that_names_no_architecture_is_no_classifier(tmp_path: Path) -> None:
    written(tmp_path / "vit", IMAGES["vit"])
    configure(tmp_path / "vit", architectures=None)
    assert complaint(tmp_path / "vit").startswith("config.json names no architectures: none of these:")


def test_weights_that_do_not_fit_are_refused_with_their_names(tmp_path: Path) -> None:
    written(tmp_path / "vit", IMAGES["vit"])
    state = load_file(tmp_path / "vit" / "model.safetensors")
    odd = {**{name: tensor for name, tensor in state.items() if name != "classifier.bias"}, "head.bias": torch.zeros(3)}
    save_file(odd, tmp_path / "vit" / "model.safetensors", metadata={"format": "pt"})
    message = complaint(tmp_path / "vit")
    assert "do not fit the ViTForImageClassification of its config.json: " in message
    assert "1 missing in the files: classifier.bias" in message
    assert "1 unknown to the model: head.bias" in message


def test_quantized_weights_are_refused_under_the_name_that_the_file_has(tmp_path: Path) -> None:
    model = written(tmp_path / "vit", IMAGES["vit"])
    state = load_file(tmp_path / "vit" / "model.safetensors")
    own = set(model.state_dict())
    renamed = next(name for name in state if name.endswith("weight") and name not in own)
    save_file({**state, renamed: state[renamed].to(torch.int8)}, tmp_path / "vit" / "model.safetensors")
    assert complaint(tmp_path / "vit").startswith(f"1 quantized: {renamed} (I8 in the file); quantized weights")


def test_more_layers_than_the_files_hold_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "resnet", IMAGES["resnet"])
    configure(tmp_path / "resnet", depths=[1, 1_000_000_000])
    assert "config.json describes 1,000,000,001 layers" in complaint(tmp_path / "resnet")


def test_the_digest_and_the_identity_are_of_the_processor_too(tmp_path: Path) -> None:
    written(tmp_path / "vit", IMAGES["vit"])
    audit = config(tmp_path / "vit")
    seen = [(load(tmp_path / "vit").digest, identify(audit, audit.models[0]))]
    for document in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / "vit" / document).write_text('{"image_mean": [0.5, 0.5, 0.5]}')
        seen.append((load(tmp_path / "vit").digest, identify(audit, audit.models[0])))
    assert len({digest for digest, _ in seen}) == len(seen) == 3
    assert None not in {files for _, files in seen}
    assert len({files for _, files in seen}) == 3


DOCUMENTS: dict[str, tuple[str, JsonValue, str]] = {
    "code": (
        "preprocessor_config.json",
        {"auto_map": {"AutoImageProcessor": "own.Processor"}},
        "its preprocessor_config.json names code of its own (auto_map:",
    ),
    "code of a part": (
        "processor_config.json",
        {"image_processor": {"auto_map": {"AutoImageProcessor": "own.Processor"}}},
        "its processor_config.json names code of its own (auto_map:",
    ),
    "trust": ("tokenizer_config.json", {"trust_remote_code": True}, "its tokenizer_config.json names code of its own"),
    "another file": (
        "tokenizer_config.json",
        {"vocab_file": "/etc/passwd"},
        "its tokenizer_config.json names a file elsewhere (vocab_file: '/etc/passwd'), of which the model's digest",
    ),
    "a file of a list": ("tokenizer_config.json", {"fast_tokenizer_files": ["../t.json"]}, "names a file elsewhere"),
    "no object": ("preprocessor_config.json", [1], "preprocessor_config.json is not readable (no JSON object)"),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_that_chooses_code_or_files_is_refused(tmp_path: Path, case: str) -> None:
    document, content, says = DOCUMENTS[case]
    written(tmp_path / "vit", IMAGES["vit"])
    (tmp_path / "vit" / document).write_text(json.dumps(content))
    assert says in complaint(tmp_path / "vit")


def test_a_document_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "vit", IMAGES["vit"])
    (tmp_path / "vit" / "preprocessor_config.json").write_text("[" * 100_000)
    assert "preprocessor_config.json is not readable (RecursionError" in complaint(tmp_path / "vit")
