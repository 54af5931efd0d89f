"""Adapters from config to scores: their own matrices are the layers, and one base serves several."""

from pathlib import Path

import peft
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.run import run_audit
from tests.languages import llama, save, table

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's own, of PeftModel


def test_adapters_are_audited_by_their_own_matrices(tmp_path: Path) -> None:
    save(llama(), tmp_path / "base")
    for seed, name in enumerate(("first", "second")):
        settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(llama(), settings)
        torch.manual_seed(seed)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(tmp_path / name)
    for split, seed in (("trusted", 1), ("audited", 2)):
        pq.write_table(table(40, seed, split), tmp_path / f"{split}.parquet")
    config = AuditConfig.parse(
        {
            "root": "root",
            "task": "causal_lm",
            "models": [{"name": name, "huggingface": "base", "adapter": name} for name in ("first", "second")],
            "data": {"trusted": "trusted.parquet", "audited": "audited.parquet"},
            "calibration": {"target": {"fpr": 0.1}},
        },
        str(tmp_path),
    )
    plan = plan_audit(config)
    for model in plan.models:
        names = {layer.name for layer in model.layers}
        assert len(names) == 8
        assert all(".lora_A." in name or ".lora_B." in name for name in names)
        assert not model.not_covered
    first, second = plan.models
    assert first.digest != second.digest
    audit = run_audit(plan)
    scores = [audit.scores(name).read_all()["score"].to_pylist() for name in ("first", "second")]
    assert scores[0] != scores[1]
    assert audit.outcome is not None and audit.outcome.clean
    assert all(model.known for model in plan_audit(config).models)
