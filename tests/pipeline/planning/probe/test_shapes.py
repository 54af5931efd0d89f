"""What a plan tells of models that are not loaded: for want of weights, or because they do not fit a worker."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import load_file
from transformers import LlamaConfig, PreTrainedModel

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.errors import CannotFit, ConfigError
from pipeline.planning.from_models import plan_audit
from pipeline.planning.memory import PROCESS_BYTES
from pipeline.planning.plan import ModelPlan
from pipeline.planning.probe.found import Probe
from pipeline.planning.probe.model import probe
from pipeline.planning.probe.shapes import probe_shapes
from pipeline.run import run_audit
from tests.conftest import ConfigMaker
from tests.jobs.command import mad
from tests.languages import VOCABULARY, gpt2, llama

TOO_LITTLE, PLENTY = "600MiB", "900GiB"

RANK = 16


def text_audit(folder: Path, memory: str, vocabulary: int = VOCABULARY) -> AuditConfig:
    """An audit of the model in the folder `model`, on texts of 24 tokens."""
    generator = torch.Generator().manual_seed(0)
    for split in ("trusted", "audited"):
        ids = [torch.randint(vocabulary, (24,), generator=generator).tolist() for _ in range(40)]
        texts = pa.table({"id": [f"{split}{row}" for row in range(40)], "input_ids": ids, "completion_start": [4] * 40})
        pq.write_table(texts, folder / f"{split}.parquet")
    raw: dict[str, JsonValue] = {
        "root": "root",
        "task": "causal_lm",
        "models": [{"name": "chat", "huggingface": "model"}],
        "data": {"trusted": "trusted.parquet", "audited": "audited.parquet"},
        "estimator": {"projection": {"rank": RANK}},
        "calibration": {"target": {"fpr": 0.1}},
        "run": {"memory_per_worker": memory, "batch_size": 8},
    }
    (folder / "audit.yaml").write_text(json.dumps(raw))
    return AuditConfig.parse(raw, str(folder))


def both(config: AuditConfig) -> tuple[Probe, Probe]:
    """What follows from a model's shapes, and from the model."""
    plan_sources = plan_audit(config).models[0].trusted
    shapes = probe_shapes(config, config.models[0], plan_sources)
    assert shapes is not None
    return shapes, probe(config, config.models[0], plan_sources)


def assert_alike(shapes: Probe, loaded: Probe) -> None:
    assert (shapes.coverage.covered, shapes.sides) == (loaded.coverage.covered, loaded.sides)
    assert (shapes.model_bytes, shapes.weights, shapes.classes) == (loaded.model_bytes, loaded.weights, loaded.classes)
    assert shapes.sizes.retained_bytes_per_sample == loaded.sizes.retained_bytes_per_sample
    assert shapes.sizes.sample_bytes == pytest.approx(loaded.sizes.sample_bytes, rel=0.2)
    assert shapes.sizes.samples_per_pass == loaded.sizes.samples_per_pass
    assert (shapes.digest, shapes.shares, loaded.from_shapes) == ("", {}, "")


@pytest.mark.parametrize("build", [gpt2, llama])
def test_shapes_of_a_language_model_tell_what_loading_it_tells(
    tmp_path: Path, build: Callable[[], PreTrainedModel]
) -> None:
    build().save_pretrained(tmp_path / "model")
    shapes, loaded = both(text_audit(tmp_path, TOO_LITTLE))
    assert_alike(shapes, loaded)
    assert shapes.from_shapes.startswith("loading it takes 0.59 GiB, run.memory_per_worker grants 0.59 GiB")


def test_shapes_of_an_image_classifier_tell_what_loading_it_tells(make_config: ConfigMaker) -> None:
    shapes, loaded = both(make_config(run={"memory_per_worker": TOO_LITTLE}))
    assert_alike(shapes, loaded)
    assert shapes.inputs == loaded.inputs


def without_weights(folder: Path, config: LlamaConfig) -> None:
    (folder / "model").mkdir()
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder / "model")


def expected_gib(config: LlamaConfig) -> tuple[float, int]:
    """By the usual formulas: a Llama's weights twice in float32 beside Python and torch; and its layers."""
    hidden, heads = config.hidden_size, config.hidden_size // config.num_attention_heads
    attention = 2 * hidden * hidden + 2 * hidden * heads * config.num_key_value_heads
    block = attention + 3 * hidden * config.intermediate_size
    weights = config.num_hidden_layers * block + 2 * config.vocab_size * hidden
    return (PROCESS_BYTES + 2 * 4 * weights) / 2**30, 7 * config.num_hidden_layers + 1


@pytest.mark.parametrize(
    ("hidden", "blocks", "vocabulary"),
    [(2048, 2, 4000), pytest.param(4096, 32, 128256, marks=pytest.mark.faults, id="Llama-3-8B")],
)
def test_a_config_without_weights_is_planned_by_formulas_and_not_run(
    tmp_path: Path, hidden: int, blocks: int, vocabulary: int
) -> None:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=7 * hidden // 2,
        num_hidden_layers=blocks,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    without_weights(tmp_path, config)
    audit = text_audit(tmp_path, PLENTY, vocabulary)
    (plan,) = plan_audit(audit).models
    memory, layers = expected_gib(config)
    assert plan.memory.gradients / 2**30 == pytest.approx(memory, rel=0.2)
    assert plan.layout.k == layers * RANK * RANK
    assert plan.row_bytes == 80 * layers * (2 * RANK * RANK + 4)
    assert_refused(tmp_path, plan)


def test_a_config_of_more_layers_than_any_model_has_is_refused(tmp_path: Path) -> None:
    without_weights(tmp_path, LlamaConfig(num_hidden_layers=10**9))
    with pytest.raises(ConfigError, match=r"describes 1,000,000,000 layers, at most 10,000 are planned without their"):
        plan_audit(text_audit(tmp_path, PLENTY))


def assert_refused(folder: Path, plan: ModelPlan) -> None:
    """By `mad run`, which needs weights; `mad plan` shows the plan."""
    shown = mad("plan", folder / "audit.yaml")
    reason = "huggingface model: has neither model.safetensors nor model.safetensors.index.json"
    assert shown.code == 1 and f"chat: planned from shapes alone, no layer is checked: {reason}" in shown.out
    assert plan.weightless and plan.from_shapes.startswith(reason)
    refused = mad("run", folder / "audit.yaml")
    assert refused.code == 2 and f"model chat: {reason}" in refused.err
    assert not (folder / "root").exists()


ARCHITECTURE = """
import torch
from torch import nn
from pipeline.demo.network import digit_cnn

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = digit_cnn()

    def forward(self, pictures):
        return self.inner(torch.from_numpy(pictures.numpy()))

def odd():
    return Odd()

def net():
    return digit_cnn()
"""


def architecture(folder: Path, function: str, weights: Path) -> JsonValue:
    (folder / "net.py").write_text(ARCHITECTURE)
    return {"name": "net", "architecture": f"{folder}/net.py:{function}", "weights": str(weights)}


def test_a_model_that_does_not_fit_is_planned_and_not_run(make_config: ConfigMaker) -> None:
    config = make_config(run={"memory_per_worker": TOO_LITTLE})
    plan = plan_audit(config)
    assert plan.models[0].from_shapes and not plan.models[0].weightless
    with pytest.raises(CannotFit, match=r"model digits: the stage .* would need"):
        run_audit(plan)
    assert Storage(config.root).list("") == []


def test_code_that_needs_numbers_is_refused_with_the_reason(
    make_config: ConfigMaker, tmp_path: Path, digits: Path
) -> None:
    models = [architecture(tmp_path, "odd", digits / "digits.safetensors")]
    with pytest.raises(
        ConfigError,
        match=r"net.py:odd: loading it takes .* grants 0.59 GiB; a pass followed on shapes alone: failed with",
    ):
        plan_audit(make_config(models=models, run={"memory_per_worker": TOO_LITTLE}))


def test_a_checkpoint_that_holds_more_than_its_model_is_loaded(
    make_config: ConfigMaker, tmp_path: Path, digits: Path
) -> None:
    weights = load_file(digits / "digits.safetensors")
    torch.save({"model": weights, "optimizer": {"state": torch.zeros(60 << 20)}}, tmp_path / "w.pt")
    models = [architecture(tmp_path, "net", tmp_path / "w.pt")]
    (plan,) = plan_audit(make_config(models=models, run={"memory_per_worker": "900MiB"})).models
    assert plan.from_shapes == "" and plan.digest
