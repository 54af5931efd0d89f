"""What may happen to a root and a config between two runs, and must not cost a night."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.config.sections import Raw
from pipeline.data.sources import Source
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.root.layout import outcome_file, table_file
from pipeline.run import run_audit
from tests.conftest import ConfigMaker


def run(config: AuditConfig) -> Audit:
    return run_audit(plan_audit(config))


def test_a_file_spelt_otherwise_is_scored_under_its_new_name_from_the_same_rows(
    make_config: ConfigMaker, digits: Path
) -> None:
    first = run(make_config())
    absolute = str(digits / "audited.parquet")
    second = run(make_config(data={"audited": absolute}))
    assert first.outcome is not None and second.outcome is not None and second.outcome.clean
    assert second.outcome.stages["digits"]["gradients"].tasks_run == 0
    table = second.scores("digits").read_all()
    assert set(table.column("source").to_pylist()) == {absolute}
    np.testing.assert_array_equal(
        table.column("score").to_numpy(), pq.read_table(published(first)).column("score").to_numpy()
    )


def published(audit: Audit) -> Path:
    assert audit.outcome is not None
    return Path(audit.storage.url) / table_file("digits", audit.outcome.run_id)


def test_stray_files_and_damaged_summaries_of_others_are_left_alone(make_config: ConfigMaker) -> None:
    root = Path(run(make_config()).storage.url)
    (root / "notes.txt").write_text("mine")
    (root / "other").mkdir()
    (root / "other" / "summary.json").write_text("{broken")
    again = run(make_config())
    assert again.outcome is not None and again.outcome.clean
    assert again.models == ["digits", "other"]
    assert "not readable JSON" in (root / "report" / "index.html").read_text()


def test_a_newer_summary_is_refused_with_a_sentence(make_config: ConfigMaker) -> None:
    audit = run(make_config())
    path = Path(audit.storage.url) / "digits" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    with pytest.raises(OSError, match=r"summary\.json: has version 2, this mad reads up to 1; upgrade mad"):
        audit.summary("digits")


def test_a_run_cut_off_right_after_its_end_is_published_by_the_next(make_config: ConfigMaker) -> None:
    first = run(make_config())
    table = published(first)
    before = table.read_bytes()
    shutil.rmtree(table.parent)
    second = run(make_config())
    assert first.outcome is not None and second.outcome is not None
    assert table.read_bytes() == before
    assert second.summary("digits").same_as == first.outcome.run_id
    assert not published(second).exists()


def test_a_run_without_an_outcome_has_published_nothing(make_config: ConfigMaker) -> None:
    audit = run_audit(plan_audit(make_config()), until="scoring")
    assert audit.outcome is not None
    assert not (Path(audit.storage.url) / "digits" / "scores").exists()
    assert Storage(audit.storage.url).exists(outcome_file(audit.outcome.run_id))


DETACHED = """
from pipeline.demo.network import digit_cnn
import torch

class Detached(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = digit_cnn()
    def forward(self, x):
        return self.net(x).detach()

def build():
    return Detached()
"""


def test_a_model_that_detaches_its_outputs_is_refused_and_the_others_run(
    raw: Raw, digits: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    (tmp_path / "detached.py").write_text(DETACHED)
    save_file(
        {f"net.{name}": tensor for name, tensor in load_file(digits / "digits.safetensors").items()},
        tmp_path / "detached.safetensors",
    )
    bad: JsonValue = {
        "name": "bad",
        "architecture": f"{tmp_path}/detached.py:build",
        "weights": f"{tmp_path}/detached.safetensors",
    }
    models = raw["models"]
    assert isinstance(models, list)
    plan = plan_audit(AuditConfig.parse({**raw, "models": [*models, bad]}, str(digits)))
    assert [model.name for model in plan.models] == ["digits"]
    assert "do not depend on its weights through autograd" in plan.refused["bad"]


def test_a_file_that_vanishes_after_the_plan_leaves_its_rows_failed(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    table = pq.read_table(digits / "audited.parquet")
    for name, part in (("a", table.slice(0, 200)), ("b", table.slice(200))):
        pq.write_table(part, tmp_path / f"{name}.parquet")
    plan = plan_audit(make_config(data={"audited": str(tmp_path / "*.parquet")}))
    (tmp_path / "b.parquet").unlink()
    audit = run_audit(plan)
    assert audit.outcome is not None and not audit.outcome.failures
    scores = audit.scores("digits").read_all()
    statuses = scores.column("status").to_pylist()
    assert statuses[:200] == ["ok"] * 200
    assert len(statuses) == len(table) and all(
        status.startswith("failed: ") and "no such file" in status for status in statuses[200:]
    )
    assert not any(scores.column("flagged").to_pylist()[200:])


def test_a_source_is_the_same_wherever_its_path_is_written_from(make_config: ConfigMaker, digits: Path) -> None:
    def sources(path: str) -> tuple[Source, ...]:
        return plan_audit(make_config(data={"audited": path})).models[0].audited

    direct, around = sources("audited.parquet"), sources(f"../{digits.name}/audited.parquet")
    assert direct[0].key == around[0].key
