"""Which models are audited first, which go together, and which files are gone."""

from dataclasses import replace

import pytest

from infra.storage.identity import InputFile
from pipeline.planning.earlier_runs.order import LastAudit, gone_files, in_order, waves
from pipeline.planning.plan import AuditPlan, ModelPlan
from pipeline.root.records import ModelRecord
from tests.pipeline.planning.plans import audit_config, model_plan

EARLY, LATE = "20260101T000000000Z-aaaaaaaa", "20260201T000000000Z-bbbbbbbb"


def plan_of(*names: str) -> AuditPlan:
    config = audit_config(names)
    return AuditPlan(config, tuple(replace(model_plan(), config=model) for model in config.models), {})


def audited(model: ModelPlan, run_id: str, digest: str = "digest", files: int = 3) -> LastAudit:
    """A run that had the model as it is planned, or another digest, or fewer of its files."""
    sources = {source.key: source.file for source in model.sources[:files]}
    planned = ModelRecord(digest=digest, row_key=model.row_key, sources=sources)
    return LastAudit(run_id, model.config.model_dump(mode="json"), planned)


def test_new_models_come_first_then_changed_ones_then_the_oldest() -> None:
    plan = plan_of("same-late", "same-early", "fewer-files", "new", "retrained", "also-new")
    models = {model.name: model for model in plan.models}
    audits = {
        "same-late": audited(models["same-late"], LATE),
        "same-early": audited(models["same-early"], EARLY),
        "fewer-files": audited(models["fewer-files"], LATE, files=2),
        "retrained": audited(models["retrained"], EARLY, digest="another"),
    }
    names = [model.name for model in in_order(plan, audits).models]
    assert names == ["new", "also-new", "retrained", "fewer-files", "same-early", "same-late"]


def test_an_audit_is_like_a_plan_whatever_its_files() -> None:
    (model,) = plan_of("net").models
    fewer = audited(model, LATE, files=1)
    assert fewer.is_like(model) and not fewer.is_of(model)
    assert not replace(fewer, settings={}).is_like(model)
    assert not audited(model, LATE, digest="another").is_like(model)


@pytest.mark.parametrize(
    ("workers", "sizes"),
    [(1, [1, 1, 1, 1]), (2, [2, 2]), (4, [3, 1]), (100, [4])],
)
def test_a_wave_has_four_tasks_for_each_worker_and_one_worker_takes_model_by_model(
    workers: int, sizes: list[int]
) -> None:
    """Models of six tasks each: two make 12 of 8, three make 18 of 16."""
    models = plan_of("a", "b", "c", "d").models
    found = list(waves(models, workers))
    assert [len(wave) for wave in found] == sizes
    assert tuple(model for wave in found for model in wave) == models


def test_files_are_gone_that_a_glob_found_and_finds_no_more() -> None:
    (model,) = plan_of("net").models
    others = {
        name: InputFile(name, f"/data/{name}", 1, "1") for name in ("day-0.parquet", "other.parquet", "day-9.parquet")
    }
    last = LastAudit(LATE, {}, ModelRecord(sources={**{one.key: one.file for one in model.sources}, **others}))
    assert gone_files(model, last) == ("day-0.parquet", "day-9.parquet")
    assert gone_files(replace(model, refused_files={"day-9.parquet": "damaged"}), last) == ("day-0.parquet",)
    assert gone_files(model, None) == ()
