"""Adapters of PEFT on a base that the config names: the same outputs as PEFT's own, and what is refused."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import SourceError
from pipeline.models.identity import identify
from pipeline.models.interface import LoadedModel
from pipeline.models.load import load_model, load_shapes
from tests.languages import llama, save

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's own, of PeftModel

TOKENS = torch.arange(8).unsqueeze(0)


def trained(base: torch.nn.Module, settings: peft.LoraConfig, folder: Path) -> peft.PeftModel:
    """An adapter whose matrices are all random, saved by PEFT."""
    model = peft.get_peft_model(base, settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, and `lora` on it."""
    folder = tmp_path_factory.mktemp("adapted")
    save(llama(), folder / "base")
    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    trained(llama(), settings, folder / "lora")
    return folder


@pytest.fixture
def lora(folders: Path, tmp_path: Path) -> Path:
    """A copy of both to break; the adapter's."""
    for name in ("base", "lora"):
        shutil.copytree(folders / name, tmp_path / name)
    return tmp_path / "lora"


def config(folder: Path, task: str = "causal_lm", **settings: JsonValue) -> AuditConfig:
    data: JsonValue = {"trusted": "a", "audited": "b"}
    models: JsonValue = [{"name": "m", "huggingface": "base", "adapter": "lora"}]
    return AuditConfig.parse({"root": "r", "task": task, "models": models, "data": data, **settings}, str(folder))


def load(folder: Path, task: str = "causal_lm") -> LoadedModel:
    audit = config(folder, task)
    return load_model(audit, audit.models[0])


def complaint(lora: Path) -> str:
    with pytest.raises(SourceError) as caught:
        load(lora.parent)
    message = str(caught.value)
    assert message.startswith("adapter lora: ")
    return message.removeprefix("adapter lora: ")


def configure(lora: Path, **keys: JsonValue) -> None:
    path = lora / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_outputs_are_those_of_peft_and_not_those_of_the_base(folders: Path) -> None:
    loaded = load(folders)
    expected = peft.PeftModel.from_pretrained(llama(), folders / "lora").eval()
    with torch.no_grad():
        found = loaded.module(TOKENS).logits
        torch.testing.assert_close(found, expected(TOKENS).logits)
        assert not torch.allclose(found, llama()(TOKENS).logits, atol=0.1)
    assert not any(module.training for module in loaded.module.modules())


def test_a_classifier_keeps_the_head_that_its_adapter_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    base = BertForSequenceClassification(BertConfig(vocab_size=40, **sizes)).eval()
    save(base, tmp_path / "base")
    settings = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", use_dora=True)
    expected = trained(base, settings, tmp_path / "lora")
    with torch.no_grad():
        found = load(tmp_path, "classification").module(TOKENS).logits
        torch.testing.assert_close(found, expected(TOKENS).logits)


def test_the_adapters_matrices_are_the_default_layers(folders: Path) -> None:
    default, own = config(folders), config(folders, estimator={"layers": ["*"]})
    assert default.models[0].gradient.layers == ("*.default*",)
    assert own.models[0].gradient.layers == ("*",)


def test_shapes_are_those_of_the_loaded_model(folders: Path) -> None:
    audit = config(folders)
    shapes = load_shapes(audit, audit.models[0]).module
    loaded = load(folders).module
    assert {name: one.shape for name, one in shapes.named_parameters()} == {
        name: one.shape for name, one in loaded.named_parameters()
    }
    assert all(parameter.is_meta for parameter in shapes.parameters())


def test_digest_and_identity_are_of_base_and_adapter(lora: Path) -> None:
    audit = config(lora.parent)

    def seen() -> tuple[str, object]:
        return load(lora.parent).digest, identify(audit, audit.models[0])

    first = seen()
    assert seen() == first
    configure(lora, lora_alpha=8)
    second = seen()
    weights = load_file(lora / "adapter_model.safetensors")
    save_file({key: tensor + 1 for key, tensor in weights.items()}, lora / "adapter_model.safetensors")
    third = seen()
    base = load_file(lora.parent / "base" / "model.safetensors")
    save_file(
        {key: tensor + 1 for key, tensor in base.items()}, lora.parent / "base" / "model.safetensors", {"format": "pt"}
    )
    every = [first, second, third, seen()]
    assert len({digest for digest, _ in every}) == len({files for _, files in every}) == 4


CHOOSING: dict[str, tuple[dict[str, JsonValue], str]] = {
    "code of another package": ({"megatron_config": {"a": 1}}, "sets megatron_config, which may choose code"),
    "quantized starts": ({"loftq_config": {"loftq_bits": 4}}, "sets loftq_config"),
    "starts by data": ({"corda_config": {"cache_file": "/x"}}, "sets corda_config"),
    "more starts by data": ({"eva_config": {"rho": 2}}, "sets eva_config"),
    "another base": ({"init_lora_weights": "pissa"}, "began with other weights of its base than the base's own"),
    "repeated layers": ({"layer_replication": [[0, 9]]}, "sets layer_replication"),
    "a key of the future": ({"hook": "os:system"}, "sets hook, which may choose code"),
    "another kind": ({"peft_type": "IA3"}, "is of the kind IA3, and LORA alone is read"),
}


@pytest.mark.parametrize("case", CHOOSING)
def test_a_config_that_chooses_more_than_matrices_is_refused_by_the_key(lora: Path, case: str) -> None:
    keys, says = CHOOSING[case]
    configure(lora, **keys)
    assert says in complaint(lora)


def test_what_would_name_a_base_or_its_code_is_not_followed(lora: Path) -> None:
    before = load(lora.parent).module(TOKENS).logits
    configure(
        lora,
        auto_mapping={"base_model_class": "system", "parent_library": "evil_module"},
        revision="main",
        base_model_name_or_path="nobody/evil",
    )
    assert torch.equal(load(lora.parent).module(TOKENS).logits, before)
    assert "evil_module" not in sys.modules


def change(lora: Path, how: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> None:
    state = load_file(lora / "adapter_model.safetensors")
    save_file(dict(how(key, value) for key, value in state.items()), lora / "adapter_model.safetensors")


def test_weights_that_do_not_fit_are_refused_with_their_names(lora: Path) -> None:
    change(lora, lambda key, value: (key.replace("layers.1.mlp.down_proj.lora_A", "layers.7.lora_A"), value))
    message = complaint(lora)
    assert "1 missing in the file: model.layers.1.mlp.down_proj.lora_A.weight" in message
    assert "1 unknown to the model: model.layers.7.lora_A.weight" in message


def test_matrices_of_another_rank_are_refused_with_both_shapes(lora: Path) -> None:
    configure(lora, r=3)
    assert "model.layers.0.mlp.down_proj.lora_A.weight ((2, 36) in the file, (3, 36) in the model)" in complaint(lora)


def test_quantized_matrices_are_refused(lora: Path) -> None:
    change(lora, lambda key, value: (key, value.to(torch.int8)))
    assert complaint(lora).startswith("8 quantized: ")


def test_an_adapter_of_another_model_is_refused(lora: Path) -> None:
    configure(lora, target_modules=["query"])
    assert complaint(lora).startswith("failed with NoMatchingPeftModuleError: Target modules {'query'} not found")


def test_what_is_no_adapter_is_refused(lora: Path) -> None:
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    assert complaint(lora).startswith("adapter_model.safetensors is a pickle (adapter_model.bin), which runs whatever")
    (lora / "adapter_model.bin").unlink()
    assert complaint(lora).startswith("adapter_model.safetensors is not there; save it")
    (lora / "adapter_config.json").write_text("[" * 100_000)
    assert complaint(lora).startswith("adapter_model.safetensors is not there")
    (lora / "adapter_config.json").unlink()
    assert complaint(lora) == "has no adapter_config.json; name the folder that save_pretrained of PEFT wrote"


def test_a_config_that_is_no_document_is_refused(lora: Path) -> None:
    for text, says in (("[" * 100_000, "(RecursionError"), ("[1]", "(no JSON object)")):
        (lora / "adapter_config.json").write_text(text)
        assert complaint(lora).startswith("adapter_config.json is not readable " + says)


def test_without_peft_the_extra_is_named(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert complaint(lora) == (
        "needs the package peft, which is not installed; "
        "install it with the extra of madaudit, in a clone: pip install '.[adapters]'"
    )
