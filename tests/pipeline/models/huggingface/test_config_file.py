"""A config may choose sizes and settings, and no code and no file."""

import json
from pathlib import Path

import pytest
from pydantic import JsonValue

from pipeline.errors import SourceError
from pipeline.models.huggingface.config_file import check_config

QUANTIZED: JsonValue = {"quant_method": "gptq", "bits": 4}
ELSEWHERE = "asks for code of another package or of a hub"

CHOOSING: dict[str, tuple[dict[str, JsonValue], str]] = {
    "a file of weights": (
        {"transformers_weights": "other.safetensors"},
        "names the file of its weights (transformers_weights: 'other.safetensors'), of which the model's digest would "
        "not know; name the file model.safetensors, or list files in model.safetensors.index.json, and remove the key",
    ),
    "quantized": (
        {"quantization_config": QUANTIZED},
        "has a quantization_config (gptq), and quantized weights have no gradient; name the model before it was "
        "quantized, or one saved after model.dequantize()",
    ),
    "compressed, in a part": ({"text_config": {"compression_config": {}}}, "has a compression_config (of no named"),
    "quantized in some way": ({"quantization_config": "awq"}, "has a quantization_config (of no named method)"),
    "a kernel of a hub": ({"attn_implementation": "x/kernel"}, f"{ELSEWHERE} (attn_implementation: 'x/kernel')"),
    "as a private setting": ({"_attn_implementation": "x/kernel:f"}, ELSEWHERE),
    "as it is held": ({"_attn_implementation_internal": "x/kernel"}, ELSEWHERE),
    "for one of its parts": ({"attn_implementation": {"": "sdpa", "text_config": "x/kernel"}}, ELSEWHERE),
    "in one of its parts": ({"text_config": {"attn_implementation": "x/kernel"}}, ELSEWHERE),
    "in a list of parts": ({"parts": [{"_attn_implementation": "x/kernel"}]}, ELSEWHERE),
    "paged": ({"attn_implementation": "paged|x/kernel"}, ELSEWHERE),
    "kernels of experts": ({"experts_implementation": "deepgemm"}, f"{ELSEWHERE} (experts_implementation: 'deepgemm')"),
    "a model of timm": (
        {"model_type": "timm_wrapper"},
        "asks for a model of the package timm (model_type: 'timm_wrapper')",
    ),
    "a part of timm": ({"backbone_config": {"use_timm_backbone": True}}, "asks for a model of the package timm"),
    "no name": ({"attn_implementation": 3}, ELSEWHERE),
}


def checked(folder: Path, document: JsonValue) -> None:
    (folder / "config.json").write_text(json.dumps(document))
    check_config(folder, "chat")


@pytest.mark.parametrize(("settings", "says"), CHOOSING.values(), ids=CHOOSING)
def test_what_chooses_code_or_files_is_refused_by_name(
    tmp_path: Path, settings: dict[str, JsonValue], says: str
) -> None:
    with pytest.raises(SourceError) as caught:
        checked(tmp_path, {"model_type": "gpt2", **settings})
    assert str(caught.value).startswith("huggingface chat: its config.json ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attn_implementation": "eager", "text_config": {"_attn_implementation": "flash_attention_2"}},
        {"quantization_config": None, "transformers_weights": None, "attn_implementation": None},
        {"experts_implementation": "grouped_mm", "architectures": ["GPT2LMHeadModel"]},
    ],
)
def test_what_runs_the_librarys_own_code_is_taken(tmp_path: Path, settings: dict[str, JsonValue]) -> None:
    checked(tmp_path, {"model_type": "gpt2", **settings})


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000])
def test_a_config_that_is_no_json_is_said_to_be_none(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "config.json").write_bytes(body)
    with pytest.raises(SourceError, match=r"huggingface chat: config\.json is not readable"):
        check_config(tmp_path, "chat")
