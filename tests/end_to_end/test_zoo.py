"""The audits that the default method must get right: real images, four backdoored models and a clean one, all defaults.

A backdoored language model is in the same audit. It runs in this process, and on Ray with two workers, on a disk and on
a real S3.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pydantic import JsonValue
from sklearn.metrics import roc_auc_score

from pipeline.config.audit_config import AuditConfig
from pipeline.config.sections import Raw
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit, open_audit
from pipeline.run import run_audit
from tests.infra.stores import fresh_url

SHARED = Path(__file__).parents[3] / "shared"


ATTACKS = ("badnets", "blended", "wanet", "badnets-a2a")


IMAGES, TEXT = (*ATTACKS, "clean"), "shakespeare-gpt2"


REPOSITORY = Path(__file__).parents[2]


pytestmark = pytest.mark.skipif(not (SHARED / "zoo").is_dir(), reason=f"the zoo of trained models is not at {SHARED}")


def raw(root: Path | str, models: tuple[str, ...]) -> Raw:
    def model(name: str) -> JsonValue:
        if name == TEXT:
            texts: JsonValue = {
                split: str(SHARED / f"data/shakespeare/{split}.parquet") for split in ("trusted", "audited")
            }
            own: JsonValue = {"task": "causal_lm", "data": texts, "calibration": {"target": {"fpr": 0.05}}}
            return {"name": name, "huggingface": str(SHARED / "zoo" / TEXT), **own}  # type: ignore[dict-item]
        audited = "clean" if name == "clean" else f"audited-{name}"
        weights, data = (
            str(SHARED / f"zoo/{name}.safetensors"),
            {"audited": str(SHARED / f"data/cifar10/{audited}.parquet")},
        )
        return {
            "name": name,
            "architecture": str(SHARED / "zoo/zoo_net.py:preact_resnet"),
            "weights": weights,
            "data": data,
        }

    trusted, preprocess = (
        str(SHARED / "data/cifar10/trusted.parquet"),
        {"mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.243, 0.261], "size": 32},
    )
    data: JsonValue = {"trusted": trusted, "audited": "", "preprocess": preprocess}
    return {"root": str(root), "task": "classification", "models": [model(name) for name in models], "data": data}


def run(config: Raw) -> Audit:
    audit = run_audit(plan_audit(AuditConfig.parse(config)))
    assert audit.outcome is not None and audit.outcome.clean
    return audit


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return run(raw(tmp_path_factory.mktemp("zoo") / "root", (*IMAGES, TEXT)))


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_backdoor_is_found_at_the_calibrated_threshold(zoo: Audit, attack: str) -> None:
    scores, truth = zoo.scores(attack).read_all(), pq.read_table(SHARED / f"data/cifar10/audited-{attack}.parquet")
    assert scores.column("sample_id").to_pylist() == truth.column("id").to_pylist()
    anomalous = truth.column("anomalous").to_numpy().astype(bool)
    succeeded = anomalous & (scores.column("prediction").to_numpy() == truth.column("target").fill_null(-1).to_numpy())
    kept, flagged = succeeded | ~anomalous, scores.column("flagged").to_numpy(zero_copy_only=False)
    auroc = roc_auc_score(succeeded[kept], scores.column("score").to_numpy()[kept])
    tpr, fpr = flagged[succeeded].mean(), flagged[~anomalous].mean()
    assert auroc >= 0.99
    assert tpr >= 0.95
    assert fpr <= 0.025
    evaluation = zoo.summary(attack).evaluation
    assert evaluation is not None and evaluation.attack_succeeded is not None
    reported, rates = evaluation.attack_succeeded, evaluation.attack_succeeded.at_calibrated
    assert [reported.auroc, rates.tpr, rates.fpr] == pytest.approx([auroc, tpr, fpr])
    assert zoo.summary(attack).verdict.value == "unusual inputs"


def test_the_clean_model_is_not_accused(zoo: Audit) -> None:
    scores, verdict = zoo.scores("clean").read_all(), zoo.summary("clean").verdict
    flagged = scores.column("flagged").to_numpy(zero_copy_only=False).mean()
    assert flagged <= 0.025
    assert verdict.value == "nothing unusual"


def test_a_second_run_runs_no_task_and_publishes_nothing_again(zoo: Audit) -> None:
    again = run(raw(Path(zoo.storage.url), (*IMAGES, TEXT)))
    assert again.outcome is not None and zoo.outcome is not None
    for name, summary in again.outcome.summaries.items():
        assert [cost.tasks_run for cost in summary.stages.values()] == [0] * 4
        assert summary.same_as == zoo.outcome.run_id
        assert len(list(Path(zoo.storage.url).glob(f"{name}/scores/*/*"))) == 1


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on a disk, or in a real S3."""
    if request.param == "s3":
        request.getfixturevalue("on_s3")
    return fresh_url(request.param, tmp_path)


def on_ray(root: str, folder: Path) -> Audit:
    config = folder / "ray.yaml"
    config.write_text(json.dumps(raw(root, (*IMAGES, TEXT))))
    subprocess.run(
        [sys.executable, "-m", "jobs.main", "run", str(config), "--executor", "ray", "-q"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    return open_audit(root)


@pytest.mark.faults
def test_on_ray_the_scores_are_the_same_on_any_store(zoo: Audit, home: str, tmp_path: Path) -> None:
    """On S3 another run, in a root of its own, is equal to the byte."""
    one = on_ray(f"{home}/one", tmp_path)
    two = on_ray(f"{home}/two", tmp_path) if "://" in home else one
    for name in (*IMAGES, TEXT):
        assert one.summary(name).table == two.summary(name).table, f"{name}: the bytes of the tables differ"
        scores, expected = one.scores(name).read_all(), zoo.scores(name).read_all()
        assert scores.column("sample_id") == expected.column("sample_id")
        np.testing.assert_allclose(numbers(scores, "score"), numbers(expected, "score"), rtol=0, atol=1e-5)


@pytest.mark.faults
def test_scores_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Also through float16 rows: 500 trusted and 300 audited images of badnets, batches of 1, 7 and 256."""
    for name, rows in (("trusted", 500), ("audited-badnets", 300)):
        pq.write_table(
            pq.read_table(SHARED / f"data/cifar10/{name}.parquet").slice(0, rows), tmp_path / f"{name}.parquet"
        )
    tables = []
    for batch in (1, 7, 256):
        config = raw(tmp_path / f"root{batch}", ("badnets",))
        config["models"] = [
            {**model, "data": {"audited": str(tmp_path / "audited-badnets.parquet")}} for model in models_of(config)
        ]
        config["data"] = {**data_of(config), "trusted": str(tmp_path / "trusted.parquet")}
        tables.append(run({**config, "run": {"batch_size": batch}}).scores("badnets").read_all())
    for table in tables[:2]:
        for column in ("score", "confidence", "p_value"):
            np.testing.assert_allclose(numbers(table, column), numbers(tables[2], column), rtol=0, atol=1e-5)


def numbers(table: pa.Table, column: str) -> NDArray[np.float64]:
    return np.asarray(table.column(column).to_numpy(), np.float64)


def models_of(config: Raw) -> list[dict[str, JsonValue]]:
    models = config["models"]
    return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []


def data_of(config: Raw) -> dict[str, JsonValue]:
    data = config["data"]
    return data if isinstance(data, dict) else {}
