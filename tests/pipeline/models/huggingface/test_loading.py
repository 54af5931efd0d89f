"""Hugging Face folders: what is loaded, and what is refused with the remedy. No code in a folder is run."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, ViTConfig
from transformers.models.gpt2 import modeling_gpt2

from infra.storage.files import digest
from pipeline.config.audit_config import AuditConfig
from pipeline.data.texts.rows import TextLimits
from pipeline.errors import SourceError
from pipeline.models.interface import LoadedModel
from pipeline.models.load import load_model
from tests.languages import POSITIONS, VOCABULARY, gpt2, llama, save


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gpt2` and `llama`."""
    folder = tmp_path_factory.mktemp("models")
    save(gpt2(), folder / "gpt2")
    save(llama(), folder / "llama")
    return folder


@pytest.fixture
def chat(folders: Path, tmp_path: Path) -> Path:
    """A copy of `gpt2` to break."""
    shutil.copytree(folders / "gpt2", tmp_path / "chat")
    return tmp_path / "chat"


def load(folder: Path, name: str) -> LoadedModel:
    """By a path relative to the config's folder."""
    data: JsonValue = {"trusted": "a", "audited": "b"}
    config = AuditConfig.parse(
        {"root": "r", "task": "causal_lm", "models": [{"name": "m", "huggingface": name}], "data": data}, str(folder)
    )
    return load_model(config, config.models[0])


def complaint(folder: Path) -> str:
    with pytest.raises(SourceError) as caught:
        load(folder.parent, str(folder))
    message = str(caught.value)
    assert message.startswith(f"huggingface {folder}: ")
    assert "\n" not in message
    return message.removeprefix(f"huggingface {folder}: ")


@pytest.mark.parametrize(("name", "build"), [("gpt2", gpt2), ("llama", llama)])
def test_a_folder_is_loaded_as_it_was_saved(
    folders: Path, name: str, build: Callable[[], torch.nn.Module], capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load(folders, name)
    assert loaded.limits == TextLimits(VOCABULARY, POSITIONS)
    assert not any(module.training for module in loaded.module.modules())
    expected = build().state_dict()
    assert loaded.module.state_dict().keys() == expected.keys()
    assert all(
        torch.equal(tensor, expected[key]) and tensor.dtype == torch.float32
        for key, tensor in loaded.module.state_dict().items()
    )
    assert capfd.readouterr() == ("", "")


def test_no_cache_of_keys_and_values_is_kept(folders: Path) -> None:
    assert load(folders, "llama").module(input_ids=torch.zeros(1, 3, dtype=torch.int64)).past_key_values is None


def test_half_precision_files_become_float32(chat: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in load_file(chat / "model.safetensors").items()}
    save_file(state, chat / "model.safetensors", metadata={"format": "pt"})
    configure(chat, dtype="bfloat16")
    assert {tensor.dtype for tensor in load(chat.parent, "chat").module.state_dict().values()} == {torch.float32}


def configure(folder: Path, **keys: JsonValue) -> None:
    """Changes its `config.json`; None removes a key."""
    config = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def shard(folder: Path) -> dict[str, str]:
    """Splits the weights into two files with an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    places = {key: names[number % 2] for number, key in enumerate(state)}
    for name in names:
        save_file(
            {key: state[key] for key, place in places.items() if place == name},
            folder / name,
            metadata={"format": "pt"},
        )
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def test_the_digest_is_of_config_and_every_shard_and_the_models_code(chat: Path) -> None:
    digests = [load(chat.parent, "chat").digest]
    files = [chat / "config.json", chat / "model.safetensors", Path(modeling_gpt2.__file__)]
    parts = [*(digest(file.read_bytes()) for file in files), "GPT2LMHeadModel"]
    assert digests == [digest("\n".join(parts).encode())]
    assert load(chat.parent, "chat").digest == digests[0]
    (chat / "tokenizer.json").write_text("{}")
    assert load(chat.parent, "chat").digest == digests[0]
    configure(chat, initializer_range=0.5)
    digests.append(load(chat.parent, "chat").digest)
    places = shard(chat)
    digests.append(load(chat.parent, "chat").digest)
    for name in sorted(set(places.values())):
        state = load_file(chat / name)
        key = next(iter(state))
        save_file({**state, key: state[key] + 1}, chat / name, metadata={"format": "pt"})
        digests.append(load(chat.parent, "chat").digest)
    assert len(set(digests)) == 5


def test_shards_make_the_same_model(chat: Path, folders: Path) -> None:
    shard(chat)
    expected, found = load(folders, "gpt2").module.state_dict(), load(chat.parent, "chat").module.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_a_place_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none") == f"no such folder ({tmp_path}/none)"
    (tmp_path / "file").write_text("")
    assert complaint(tmp_path / "file").startswith("is a file; name the folder that holds config.json")
    (tmp_path / "empty").mkdir()
    assert complaint(tmp_path / "empty") == "has no config.json; name the folder that model.save_pretrained wrote"


def test_an_id_is_looked_for_on_the_hub_and_the_folder_it_could_have_been_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    missing = rf"huggingface nobody/chat: no such folder \({tmp_path}/nobody/chat\)"
    with pytest.raises(SourceError, match=f"{missing}, and the hub gave no model of this id"):
        load(tmp_path, "nobody/chat")


def test_no_safetensors_is_refused_and_a_pickle_is_not_opened(chat: Path) -> None:
    (chat / "model.safetensors").unlink()
    assert complaint(chat) == (
        "has neither model.safetensors nor model.safetensors.index.json; "
        "files there: config.json, generation_config.json"
    )
    (chat / "pytorch_model.bin").write_text("opening this would fail otherwise")
    assert complaint(chat).startswith(
        "refused, because its weights are not safetensors but pytorch_model.bin, "
        "and a pickle runs whatever code it holds"
    )


def test_an_adapter_is_refused_since_its_base_is_elsewhere(chat: Path) -> None:
    (chat / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/base"}')
    assert complaint(chat) == (
        "holds an adapter (adapter_config.json), whose base model is elsewhere; "
        "name the base under huggingface, and this folder under adapter"
    )


INDEXES: dict[str, tuple[str, str]] = {
    "not JSON": ("{", "model.safetensors.index.json is not readable (JSONDecodeError"),
    "no map": ("{}", "model.safetensors.index.json is not readable (KeyError"),
    "a missing shard": (
        '{"weight_map": {"a": "model-2.safetensors"}}',
        "names 1 files that are not there: model-2.safetensors",
    ),
    "another folder": (
        '{"weight_map": {"a": "../model.safetensors"}}',
        "names ../model.safetensors, which is not a safetensors file of this folder",
    ),
    "a pickle": (
        '{"weight_map": {"a": "model.bin"}}',
        "names model.bin, which is not a safetensors file of this folder",
    ),
}


@pytest.mark.parametrize(("text", "expected"), INDEXES.values(), ids=INDEXES)
def test_a_broken_index_is_refused(chat: Path, text: str, expected: str) -> None:
    (chat / "model.safetensors").unlink()
    (chat / "model.safetensors.index.json").write_text(text)
    assert expected in complaint(chat)


def test_weights_that_are_no_safetensors_are_refused(chat: Path) -> None:
    (chat / "model.safetensors").write_text("weights")
    assert "not a readable safetensors file" in complaint(chat)
    (chat / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]" + bytes(100_000))
    assert complaint(chat).startswith("failed with SafetensorError")


def test_weights_that_do_not_fit_are_refused_with_their_names(chat: Path) -> None:
    state = load_file(chat / "model.safetensors")
    renamed = {name.replace("h.1.mlp.c_fc", "h.1.mlp.up"): tensor for name, tensor in state.items()}
    save_file(
        {**renamed, "transformer.wpe.weight": torch.zeros(8, 24)}, chat / "model.safetensors", metadata={"format": "pt"}
    )
    message = complaint(chat)
    for part in (
        "the weights do not fit the GPT2LMHeadModel of its config.json: ",
        "2 missing in the files: transformer.h.1.mlp.c_fc.bias, transformer.h.1.mlp.c_fc.weight",
        "2 unknown to the model: transformer.h.1.mlp.up.bias, transformer.h.1.mlp.up.weight",
        "1 of another shape: transformer.wpe.weight ((8, 24) in the file, (32, 24) in the model)",
    ):
        assert part in message


LEFTOVERS: dict[str, torch.Tensor] = {
    "transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.uint8),
    "h.1.attn.masked_bias": torch.tensor(-1e4),
}


def test_what_the_family_leaves_out_is_left_out(chat: Path, folders: Path) -> None:
    state = load_file(chat / "model.safetensors")
    save_file({**state, **LEFTOVERS}, chat / "model.safetensors", metadata={"format": "pt"})
    expected, found = load(folders, "gpt2").module.state_dict(), load(chat.parent, "chat").module.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


KERNEL = "transformer.h.0.attn.c_attn.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda kernel: kernel.to(torch.int8),
            f"1 quantized: {KERNEL} (I8 in the file); quantized weights mean nothing",
        ),
        (lambda kernel: kernel.to(torch.float8_e4m3fn), f"1 quantized: {KERNEL} (F8_E4M3 in the file)"),
    ],
)
def test_weights_that_are_not_the_parameters_values_are_refused(
    chat: Path, change: Callable[[torch.Tensor], torch.Tensor], says: str
) -> None:
    state = load_file(chat / "model.safetensors")
    save_file({**state, KERNEL: change(state[KERNEL])}, chat / "model.safetensors", metadata={"format": "pt"})
    assert complaint(chat).startswith(says)


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize(("asked", "runs"), [("eager", "eager"), ("sdpa", "sdpa"), ("flash_attention_2", "sdpa")])
def test_attention_is_that_of_the_library(chat: Path, folders: Path, key: str, asked: str, runs: str) -> None:
    configure(chat, **{key: asked})
    module = load(chat.parent, "chat").module
    assert module.config._attn_implementation == runs
    tokens = torch.arange(6).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(module(tokens).logits, load(folders, "gpt2").module(tokens).logits)


def test_a_missing_head_is_refused_where_it_is_not_tied(chat: Path) -> None:
    configure(chat, tie_word_embeddings=False)
    assert "1 missing in the files: lm_head.weight" in complaint(chat)


def test_a_model_that_is_not_a_causal_one_is_refused(chat: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    save(BertForMaskedLM(config), tmp_path / "masked")
    assert (
        complaint(tmp_path / "masked")
        == "config.json says that it is a BertForMaskedLM; the causal language model of this type is BertLMHeadModel"
    )
    configure(chat, architectures=["GPT2Model"])
    assert (
        complaint(chat)
        == "config.json says that it is a GPT2Model; the causal language model of this type is GPT2LMHeadModel"
    )
    ViTConfig().save_pretrained(chat)
    assert complaint(chat) == "a model of type vit is not a causal language model"


def test_code_in_a_folder_is_never_run(chat: Path) -> None:
    marker = chat / "was-run"
    (chat / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    own: dict[str, JsonValue] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    configure(chat, auto_map=own)
    assert load(chat.parent, "chat").limits == TextLimits(VOCABULARY, POSITIONS)
    configure(chat, auto_map=own, model_type="own")
    assert complaint(chat).startswith("failed with ValueError: The repository")
    assert not marker.exists()


def test_without_transformers_the_extra_is_named(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert complaint(chat) == (
        "needs the package transformers, which is not installed; "
        "install it with the extra of madaudit, in a clone: pip install '.[text]'"
    )


def test_a_header_that_claims_too_much_is_refused_before_it_is_parsed(chat: Path) -> None:
    (chat / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    assert complaint(chat).startswith(
        "model.safetensors: not a readable safetensors file (its header claims 1,099,511,627,776 bytes"
    )


@pytest.mark.parametrize("document", ["config.json", "model.safetensors.index.json"])
def test_a_document_of_gigabytes_is_refused_before_it_is_read(chat: Path, document: str) -> None:
    with (chat / document).open("r+b" if document == "config.json" else "wb") as file:
        file.truncate(1 << 40)
    assert (
        complaint(chat)
        == f"{document} has 1,099,511,627,776 bytes, at most 33,554,432 are read; is it the right folder?"
    )


def test_an_index_of_nothing_but_nesting_is_refused(chat: Path) -> None:
    (chat / "model.safetensors").unlink()
    (chat / "model.safetensors.index.json").write_text("[" * 100_000)
    assert "model.safetensors.index.json is not readable" in complaint(chat)


LARGER: dict[str, tuple[JsonValue, str]] = {
    "n_embd": (2_400_000, "parameters, its files hold"),
    "vocab_size": (10_000_000_000, "parameters, its files hold"),
    "n_layer": (1_000_000_000, "config.json describes 1,000,000,000 layers, its files hold"),
}


@pytest.mark.parametrize("key", LARGER)
def test_a_config_of_more_than_the_files_hold_is_refused_before_it_takes_memory(chat: Path, key: str) -> None:
    value, expected = LARGER[key]
    configure(chat, **{key: value})
    assert expected in complaint(chat)
