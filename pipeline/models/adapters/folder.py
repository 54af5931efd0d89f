"""An adapter's folder, and what its config may choose: sizes and places of low-rank matrices, no code and no file.

The config is read here, key by key, and PEFT is given these settings alone. Where the base model is said to be
(`base_model_name_or_path`, `revision`, `auto_mapping`) is not followed: the audit's own config names the base.
"""

import json
from pathlib import Path

from pydantic import JsonValue

from infra.execution.contract import describe
from pipeline.data.folders import ADAPTER
from pipeline.errors import SourceError
from pipeline.models.huggingface.folder import check_size, check_sizes

WEIGHTS = "adapter_model.safetensors"

TAKEN = (
    *("r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out", "use_rslora", "use_dora", "lora_bias"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    *("target_parameters", "modules_to_save", "trainable_token_indices"),
)

IGNORED = (
    *("base_model_name_or_path", "revision", "auto_mapping", "peft_type", "peft_version", "task_type"),
    *("inference_mode", "megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
)

PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")  # that leave the base's weights as they are


def adapter_files(folder: Path, name: str) -> tuple[Path, Path]:
    """The config and the weights of an adapter.

    Raises:
        SourceError: one of them is not there, is too large, or is no safetensors file.
    """
    config, weights = folder / ADAPTER, folder / WEIGHTS
    if not config.is_file():
        raise SourceError(f"adapter {name}: has no {ADAPTER}; name the folder that save_pretrained of PEFT wrote")
    check_size(config, name, "adapter")
    if not weights.is_file():
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        because = f"is a pickle ({pickles[0]}), which runs whatever code it holds" if pickles else "is not there"
        raise SourceError(
            f"adapter {name}: {WEIGHTS} {because}; save it with save_pretrained(folder, safe_serialization=True)"
        )
    check_sizes(folder, [weights], name, "adapter")
    return config, weights


def adapter_settings(config: Path, name: str) -> dict[str, JsonValue]:
    """The settings of an adapter's low-rank matrices.

    Raises:
        SourceError: its config is no JSON object, is of another kind than LoRA, or sets what is not read here.
    """
    try:
        found = json.loads(config.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"adapter {name}: {ADAPTER} is not readable ({describe(error)})") from error
    if not isinstance(found, dict):
        raise SourceError(f"adapter {name}: {ADAPTER} is not readable (no JSON object)")
    kind = found.get("peft_type")
    if kind != "LORA":
        raise SourceError(
            f"adapter {name}: is of the kind {kind}, and LORA alone is read; merge it into its base, save the whole "
            "model, and name that under huggingface"
        )
    start = found.pop("init_lora_weights", True)
    if start not in PLAIN_STARTS and start != "eva":
        raise SourceError(
            f"adapter {name}: began with other weights of its base than the base's own (init_lora_weights: {start!r}); "
            "save it with save_pretrained(folder, path_initial_model_for_weight_conversion=...), or merge the two"
        )
    _refuse_others(found, name)
    return {key: found[key] for key in TAKEN if found.get(key) is not None}


def _refuse_others(found: dict[str, JsonValue], name: str) -> None:
    for key, value in found.items():
        if key not in (*TAKEN, *IGNORED) and value not in (None, False, {}, [], ""):
            raise SourceError(
                f"adapter {name}: its {ADAPTER} sets {key}, which may choose code or other weights, and is not read; "
                "merge the adapter into its base, save the whole model, and name that under huggingface"
            )
