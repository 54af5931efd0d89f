"""What `config.json` may choose, whoever wrote it: sizes and settings of the library's own code, no other code or file.

The digest of a model is made from the files that are named here, and its gradients are those of plain attention, so
what would load another file, fetch a kernel or need another package is fixed, or refused by name.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from infra.execution.contract import describe
from pipeline.data.folders import CONFIG, INDEX, WEIGHTS
from pipeline.errors import SourceError

IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
OWN = (  # of the same function, by the library's own code; which of them runs, it chooses for this machine
    *("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"),
    *("batched_mm", "grouped_mm"),
)
QUANTIZED = ("quantization_config", "compression_config")
FILE = "transformers_weights"
OF_TIMM, BACKBONES = ("timm_wrapper", "timm_backbone"), ("use_timm_backbone", "use_pretrained_backbone")


def check_config(folder: Path, name: str) -> None:
    """Refuses a config that chooses code or files, in any of its parts.

    Raises:
        SourceError: it does, or it is no JSON object; naming the key.
    """
    try:
        settings = list(_settings(json.loads((folder / CONFIG).read_bytes())))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"huggingface {name}: {CONFIG} is not readable ({describe(error)})") from error
    for key, value in settings:
        if key == FILE:
            raise SourceError(
                f"huggingface {name}: its {CONFIG} names the file of its weights ({FILE}: {value!r}), of which the "
                f"model's digest would not know; name the file {WEIGHTS}, or list files in {INDEX}, and remove the key"
            )
        if key in QUANTIZED:
            method = value.get("quant_method", "") if isinstance(value, dict) else ""
            raise SourceError(
                f"huggingface {name}: its {CONFIG} has a {key} ({method or 'of no named method'}), and quantized "
                "weights have no gradient; name the model before it was quantized, or one saved after "
                "model.dequantize()"
            )
        if (key == "model_type" and value in OF_TIMM) or (key in BACKBONES and value is True):
            raise SourceError(
                f"huggingface {name}: its {CONFIG} asks for a model of the package timm ({key}: {value!r}), which may "
                "load other files; give timm, the model's name, and weights instead of huggingface"
            )
        if key.lstrip("_").removesuffix("_internal") in IMPLEMENTATIONS:
            _check_implementation(key, value, name)


def _check_implementation(key: str, value: JsonValue, name: str) -> None:
    for chosen in value.values() if isinstance(value, dict) else [value]:
        if chosen is not None and chosen not in OWN:
            raise SourceError(
                f"huggingface {name}: its {CONFIG} asks for code of another package or of a hub ({key}: {chosen!r}); "
                "no code but that of transformers is run, so remove the key if that computes the same"
            )


def _settings(document: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    """Every setting of a config and of the configs in it that is not null."""
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    for key, value in document.items() if isinstance(document, dict) else ():
        if value is not None:
            yield key, value
    for part in inner:
        yield from _settings(part)
