"""Audits by the paper's estimator: stored chains that all samples share, rows of losses, and their correlations."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from infra.storage.storage import Storage
from madcore.sampling.langevin import flat_weights, place_weights
from pipeline.artifacts.chains import read_draws, read_snapshots
from pipeline.config.audit_config import AuditConfig
from pipeline.config.estimators import LossTrace
from pipeline.errors import ConfigError
from pipeline.operations.verify import verify
from pipeline.planning.chains import chain_log, segments
from pipeline.planning.from_models import plan_audit
from pipeline.planning.plan import ModelPlan
from pipeline.results.audit import Audit, open_audit
from pipeline.run import run_audit
from pipeline.stages.gradients import chain_worker
from tests.audits import audited, gradient_tasks, images, network, references, scores, table, with_column
from tests.conftest import ConfigMaker
from tests.end_to_end.killing import AuditProcess
from tests.input_files import put_in_place
from tests.languages import gpt2, texts

CHAIN: dict[str, JsonValue] = {"kind": "loss_trace", "draws": 60, "burn_in": 20, "batch": 32, "step": 4e-6}


PARTS = {"trusted": "few", "audited": "some"}


pytestmark = pytest.mark.usefixtures("one_thread")


Traced = Callable[..., AuditConfig]


@pytest.fixture
def traced(make_config: ConfigMaker, digits: Path, tmp_path: Path) -> Traced:
    """A config of 120 audited digits, the last 200 trusted ones the sampling set: `traced(draws=80, score={...})`."""
    trusted, some = pq.read_table(digits / "trusted.parquet"), pq.read_table(digits / "audited.parquet").slice(0, 120)
    pq.write_table(some, tmp_path / "some.parquet")
    pq.write_table(trusted.slice(0, 300), tmp_path / "few.parquet")
    pq.write_table(trusted.slice(300), tmp_path / "sampling.parquet")

    def make(root: str = "root", data: dict[str, JsonValue] | None = None, **settings: JsonValue) -> AuditConfig:
        sections = {
            name: settings.pop(name)
            for name in ("score", "curvature", "run", "models", "calibration")
            if name in settings
        }
        estimator: JsonValue = {**CHAIN, "sampling": str(tmp_path / "sampling.parquet"), **settings}
        files: JsonValue = {name: str(tmp_path / f"{few}.parquet") for name, few in PARTS.items()} | (data or {})
        return make_config(
            root=str(tmp_path / root),
            estimator=estimator,
            data=files,
            **{"calibration": {"target": {"fpr": 0.05}}, **sections},
        )

    return make


def snapshots(storage: Storage, plan: ModelPlan) -> Tensor:
    """All kept draws, (k, P)."""
    settings = plan.config.estimator
    assert isinstance(settings, LossTrace)
    folders = []
    for chain in range(settings.chains):
        log = chain_log(storage, plan, chain)
        receipts = [log.receipts()[segment.name] for segment in segments(plan, settings) if segment.keeps(settings)]
        folders += [log.attempt_folder(receipt) for receipt in receipts]
    return torch.stack(list(read_snapshots(storage, folders)))


def test_a_row_is_the_losses_under_the_stored_weights_and_a_score_their_correlation(
    traced: Traced, digits: Path
) -> None:
    config = traced(chains=2, thin=4, draws=64)
    audit, plan = audited(config), plan_audit(config).models[0]
    draws, model = snapshots(audit.storage, plan), network(digits)
    assert draws.shape == (22, flat_weights(model).numel()) and plan.layout.sizes == (11, 11)
    inputs = images(digits / "audited.parquet", config.models[0].data.preprocess)[:24]
    with torch.no_grad():
        own, expected = model(inputs).argmax(dim=1), []
        for weights in draws:
            place_weights(model, weights)
            expected.append(F.cross_entropy(model(inputs).double(), own, reduction="none"))
    rows = audit.rows("digits").compute()
    np.testing.assert_allclose(rows[:24], torch.stack(expected, dim=1).numpy(), rtol=1e-3, atol=1e-7)
    reference, classes = reference_traces(audit), table(audit).column("prediction").to_numpy()
    units, others = (
        centred / np.linalg.norm(centred, axis=1, keepdims=True)
        for centred in (centre(rows, 11), centre(reference[0], 11))
    )
    means = np.stack([others[reference[1] == label].mean(axis=0) for label in range(10)])
    assert min(np.bincount(reference[1], minlength=10)) >= 10
    np.testing.assert_allclose(scores(audit), -(units * means[classes]).sum(axis=1), atol=1e-4)


def centre(rows: NDArray[np.float32], draws: int) -> NDArray[np.float64]:
    """Each chain's own mean subtracted."""
    chains = rows.astype(np.float64).reshape(len(rows), -1, draws)
    return (chains - chains.mean(axis=2, keepdims=True)).reshape(len(rows), -1)


def reference_traces(audit: Audit) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The reference part's traces and predictions."""
    trusted, _ = references(audit)
    return audit.rows("digits", "trusted").compute()[trusted.of("reference")], trusted.reference_predictions.numpy()


def test_a_chain_is_reproducible(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another root the same bits, also where it is cut into segments and tasks; another seed draws others."""
    one, plan = audited(traced()), plan_audit(traced()).models[0]
    whole = snapshots(one.storage, plan)
    monkeypatch.setattr("pipeline.planning.chains.TASK_DRAWS", 13)
    cut = audited(traced(root="cut"))
    settings = plan.config.traced
    assert settings is not None
    assert [segment.stop for segment in segments(plan, settings)] == [13, 26, 39, 52, 60]
    assert torch.equal(snapshots(cut.storage, plan), whole) and np.array_equal(scores(cut), scores(one))
    other = audited(traced(root="other", seed=1))
    assert not torch.equal(snapshots(other.storage, plan_audit(traced(root="other", seed=1)).models[0]), whole)
    assert not verify(cut.storage).problems


def test_more_draws_and_chains_continue_those_that_are_stored(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.planning.chains.TASK_DRAWS", 20)
    first = snapshots(audited(traced()).storage, plan_audit(traced()).models[0])
    rows = len(plan_audit(traced()).models[0].row_tasks)
    longer = traced(draws=80, chains=2)
    audit = audited(longer)
    assert gradient_tasks(audit) == rows + 1 + 4  # three of the first chain's four segments were there
    drawn = snapshots(audit.storage, plan_audit(longer).models[0])
    assert drawn.shape[0] == 120 and torch.equal(drawn[:40], first)


def test_a_chain_killed_between_segments_resumes_under_another_run_section(
    traced: Traced, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at a file operation between two segments; the next process reads other batches and gets the same bits."""
    settings: dict[str, JsonValue] = {"draws": 60, "burn_in": 40}
    monkeypatch.setattr("pipeline.planning.chains.TASK_DRAWS", 20)

    def run(root: str, kill_at: int | None = None, **run: JsonValue) -> int:
        config = traced(root=root, run={"rows_per_task": 128, **run}, **settings)
        raw = {**config.model_dump(mode="json", exclude={"folder"}, exclude_unset=True), "root": config.root}
        return AuditProcess(raw, digits, tmp_path / "notes.json", task_draws=20).run(kill_at)

    def segments_done() -> int:
        plan = plan_audit(traced(root="killed", **settings)).models[0]
        return len(chain_log(Storage(str(tmp_path / "killed")), plan, 0).receipts())

    assert run("undisturbed") == 0
    for moment in (16, 12, 20, 24):
        assert run("killed", kill_at=moment) == -signal.SIGKILL
        if 0 < segments_done() < 3:
            break
    assert 0 < segments_done() < 3, "the process was never killed between two segments"
    assert run("killed", batch_size=17) == 0
    one, other = (open_audit(str(tmp_path / name)) for name in ("undisturbed", "killed"))
    plan = plan_audit(traced(**settings)).models[0]
    assert torch.equal(snapshots(one.storage, plan), snapshots(other.storage, plan))
    np.testing.assert_allclose(scores(other), scores(one), atol=1e-5)


def test_a_batch_without_a_readable_sample_costs_its_rows_alone(traced: Traced, digits: Path, tmp_path: Path) -> None:
    some = pq.read_table(digits / "audited.parquet").slice(0, 40)
    pictures = some.column("image").to_pylist()
    pictures[8:16] = [{"bytes": b"no picture", "path": None}] * 8
    pq.write_table(with_column(some, "image", pictures), tmp_path / "broken.parquet")
    whole = scores(audited(traced()))[:40]
    audit = audited(traced(data={"audited": str(tmp_path / "broken.parquet")}, run={"batch_size": 8}))
    counts, found = audit.summary("digits").counts, scores(audit)
    assert counts.unreadable == 8 and counts.audited == 40
    assert np.isnan(found[8:16]).all()
    np.testing.assert_allclose(np.delete(found, range(8, 16)), np.delete(whole, range(8, 16)), atol=1e-5)


def test_what_is_there_is_reused(traced: Traced, digits: Path, tmp_path: Path) -> None:
    first = audited(traced())
    before = gradient_tasks(first)
    assert before == len(plan_audit(traced()).models[0].row_tasks) + 1
    concordant = audited(traced(score={"kind": "concordance"}))
    assert gradient_tasks(concordant) == 0
    pq.write_table(pq.read_table(digits / "audited.parquet").slice(0, 20), tmp_path / "later.parquet")
    later = audited(traced(data={"audited": [str(tmp_path / "some.parquet"), str(tmp_path / "later.parquet")]}))
    assert gradient_tasks(later) == 1
    np.testing.assert_allclose(scores(later)[-20:], scores(later)[:20], atol=1e-5)


def test_it_detects_and_reports_the_effective_sample_size(traced: Traced) -> None:
    audit = audited(traced(draws=100, burn_in=20))
    assert audit.outcome is not None and audit.outcome.failures == {}
    summary = audit.summary("digits")
    evaluation, sampling = summary.evaluation, summary.sampling
    assert evaluation is not None and evaluation.all is not None and sampling is not None
    assert evaluation.all.auroc is not None and evaluation.all.auroc > 0.9
    assert sampling.draws_kept == 80 and summary.settings["batchnorm"] == "frozen"
    assert 1 <= sampling.autocorrelation_time < 80
    assert sampling.effective_sample_size == pytest.approx(80 / sampling.autocorrelation_time)
    assert sampling.loss_inflation > 0


@pytest.mark.parametrize("form", ["class", "mean"])
def test_concordances_are_those_of_the_formula(traced: Traced, form: str) -> None:
    audit = audited(traced(score={"kind": "concordance", "form": form}))
    rows, (others, predictions) = audit.rows("digits").compute().astype(np.float64), reference_traces(audit)
    centred, centred_others = centre(rows, 40), centre(others, 40)
    cov = centred @ centred_others.T / 40
    gaps = rows.mean(axis=1)[:, None] - others.astype(np.float64).mean(axis=1)
    values = 2 * cov / (centred.var(axis=1)[:, None] + centred_others.var(axis=1) + gaps**2)
    classes = np.stack([values[:, predictions == label].mean(axis=1) for label in range(10)], axis=1)
    expected = -(classes.max(axis=1) if form == "class" else values.mean(axis=1))
    np.testing.assert_allclose(scores(audit), expected, atol=1e-5)


def test_a_chain_that_leaves_the_trained_weights_stops_its_model_and_no_other(traced: Traced) -> None:
    models = [
        {"name": "digits", "architecture": "pipeline.demo.network:digit_cnn", "weights": "digits.safetensors"},
        {
            "name": "plain",
            "architecture": "pipeline.demo.network:digit_cnn",
            "weights": "digits.safetensors",
            "estimator": {"kind": "gradient"},
            "curvature": {"kind": "identity"},
        },
    ]
    audit = audited(traced(models=models, step=10.0))
    assert audit.outcome is not None and not audit.outcome.clean and "plain" in audit.outcome.summaries
    reason = audit.outcome.failures["digits"]
    assert "draw 1 of chain 0 has left the trained weights" in reason and "lower `step` (now 10)" in reason


def test_a_sampling_set_whose_labels_do_not_fit_is_named(traced: Traced, tmp_path: Path) -> None:
    config, sampling = traced(), pq.read_table(tmp_path / "sampling.parquet")
    wrong = [(label + 1) % 10 for label in sampling.column("label").to_pylist()]
    pq.write_table(with_column(sampling, "label", wrong), tmp_path / "sampling.parquet")
    outcome = audited(config).outcome
    assert outcome is not None
    assert "check estimator.sampling, its labels, and data.preprocess" in outcome.failures["digits"]


def test_unlabelled_and_unreadable_samples_of_the_sampling_set_are_left_out(traced: Traced, tmp_path: Path) -> None:
    config = traced()
    sampling = pq.read_table(tmp_path / "sampling.parquet")
    labels, pictures = sampling.column("label").to_pylist(), sampling.column("image").to_pylist()
    labels[0], pictures[1] = None, {"bytes": b"no picture", "path": None}
    damaged = with_column(with_column(sampling, "label", labels), "image", pictures)
    pq.write_table(damaged, tmp_path / "sampling.parquet")
    audit = audited(config)
    assert audit.outcome is not None and audit.outcome.clean
    assert any("2 of 200 samples of the sampling set" in line for line in audit.summary("digits").warnings)


REFUSED: dict[str, tuple[dict[str, JsonValue], str]] = {
    "curvature": (
        {"curvature": {"kind": "ggn"}},
        "curvature: the estimator loss_trace compares traces as they are, without ggn; leave curvature out",
    ),
    "draws": (
        {"draws": 20, "burn_in": 15},
        r"of 20 draws, 5 are kept after a burn_in of 15, thinned by 1; a trace needs 8: raise draws",
    ),
    "leading form": (
        {"score": {"kind": "class_coupling", "form": "mean"}},
        "form belongs to kind: concordance, not to class_coupling",
    ),
    "setting of gradients": ({"projection": {"rank": 4}}, "'projection' belongs to kind: gradient"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_config_that_makes_no_sense_is_refused(traced: Traced, settings: dict[str, JsonValue], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        traced(**settings)


def test_gradients_have_no_concordance(make_config: ConfigMaker) -> None:
    with pytest.raises(
        ConfigError, match="concordance is of loss traces, not of the estimator gradient; valid: prediction_coupling"
    ):
        make_config(score={"kind": "concordance"})


def test_sampling_sets_that_cannot_be_used_are_refused(traced: Traced, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"estimator.sampling: 300 of 500 samples have the id of a trusted one"):
        plan_audit(traced(sampling=str(digits / "trusted.parquet")))
    with pytest.raises(ConfigError, match=r"estimator.sampling: no usable file"):
        plan_audit(traced(sampling="nowhere.parquet"))
    config = traced()
    pq.write_table(pq.read_table(tmp_path / "sampling.parquet").drop_columns(["label"]), tmp_path / "sampling.parquet")
    with pytest.raises(ConfigError, match=r"has no column 'label' \(data.columns.label\)"):
        plan_audit(config)


def test_memory_that_a_chain_does_not_have_is_refused_with_what_to_lower(traced: Traced) -> None:
    plan = plan_audit(traced(run={"memory_per_worker": "600MiB"}))
    assert "lower estimator.batch, run.batch_size or run.rows_per_task" in plan.misfits["digits"]


def answered(model: nn.Module, count: int) -> list[tuple[Tensor, int]]:
    """Prompts with the model's own likeliest completions: ids, and where the completion starts."""
    found = []
    for ids, start in texts(tuple(6 + number % 5 for number in range(count))):
        for place in range(start, len(ids)):
            with torch.no_grad():
                ids[place] = model(ids[:place].unsqueeze(0)).logits[0, -1].argmax()
        found.append((ids, start))
    return found


def test_a_language_models_rows_are_the_losses_of_its_completions(tmp_path: Path) -> None:
    """A language model's loss is that of the completion; traces are compared with the nearest, or with all."""
    model = gpt2().float()
    model.save_pretrained(tmp_path / "model")
    rows = {"trusted": 60, "sampling": 40, "audited": 12}
    numbers = iter(range(1000))
    for name, count in rows.items():
        samples = answered(model, count)
        columns = {
            "id": [f"{name}-{next(numbers)}" for _ in samples],
            "input_ids": [ids.tolist() for ids, _ in samples],
            "completion_start": [start for _, start in samples],
        }
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    raw: dict[str, JsonValue] = {
        "root": "root",
        "task": "causal_lm",
        "models": [{"name": "chat", "huggingface": "model"}],
        "data": {"trusted": "trusted.parquet", "audited": "audited.parquet"},
        "calibration": {"target": {"fpr": 0.1}},
        "estimator": {**CHAIN, "sampling": "sampling.parquet", "draws": 16, "burn_in": 4, "step": 1e-6},
    }
    config = AuditConfig.parse(raw, str(tmp_path))
    audit, plan = audited(config), plan_audit(config).models[0]
    assert audit.outcome is not None and audit.outcome.clean and plan.config.score.kind == "top_coupling"
    draws, loaded = snapshots(audit.storage, plan), AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    found = audit.rows("chat").compute()
    for number, (ids, start) in enumerate(answered(model, 12)):
        for draw in (0, 11):
            place_weights(loaded, draws[draw])
            with torch.no_grad():
                logs = loaded(ids.unsqueeze(0)).logits[0].double().log_softmax(dim=1)
            expected = -sum(float(logs[t - 1, ids[t]]) for t in range(start, len(ids)))
            assert found[number, draw] == pytest.approx(expected, rel=1e-4)
    concordant = audited(AuditConfig.parse({**raw, "score": {"kind": "concordance"}}, str(tmp_path)))
    assert np.isfinite(scores(concordant, "chat")).all()
    score = concordant.summary("chat").settings["score"]
    assert isinstance(score, dict) and score["form"] == "mean"


def test_draws_record_their_distance_from_the_trained_weights(traced: Traced) -> None:
    config = traced(chains=2)
    audit, plan = audited(config), plan_audit(config).models[0]
    kept, anchor = snapshots(audit.storage, plan), flat_weights(network(Path(config.folder)))
    losses = []
    for chain, weights in enumerate(kept.split(40)):
        log = chain_log(audit.storage, plan, chain)
        (receipt,) = log.receipts().values()
        draws = read_draws(audit.storage, log.attempt_folder(receipt))
        assert [draw.number for draw in draws] == list(range(61)) and draws[0].distance == 0
        np.testing.assert_allclose(
            [draw.distance for draw in draws[21:]], (weights - anchor).norm(dim=1).numpy(), rtol=1e-5
        )
        losses.append(draws[0].probe_loss)
    assert losses[0] == losses[1], "every chain starts at the trained weights"


@pytest.mark.faults
def test_on_ray_scores_are_those_of_one_process(traced: Traced, ray_cluster: None) -> None:
    """Two chains, each a task of its own, and rows of tasks on two workers."""
    here, there = (
        run_audit(plan_audit(traced(root=name, chains=2, draws=40)), executor=name) for name in ("serial", "ray")
    )
    np.testing.assert_allclose(scores(there), scores(here), atol=1e-5)


def test_a_sampling_set_that_is_replaced_after_planning_is_not_used(traced: Traced, tmp_path: Path) -> None:
    plan, path = plan_audit(traced()), tmp_path / "sampling.parquet"
    put_in_place(path, path.read_bytes()[::-1])
    assert_nothing_stored(run_audit(plan), tmp_path)


def test_a_chain_is_not_committed_once_another_file_has_the_place_of_its_sampling_set(
    traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, step = tmp_path / "sampling.parquet", chain_worker.encode_segment

    def late(*args: object) -> object:
        put_in_place(path, path.read_bytes()[::-1])
        return step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(chain_worker, "encode_segment", late)
    assert_nothing_stored(run_audit(plan_audit(traced())), tmp_path)


def assert_nothing_stored(audit: Audit, folder: Path) -> None:
    outcome = audit.outcome
    assert outcome is not None and "sampling.parquet: changed while the audit ran" in outcome.failures["digits"]
    assert not list((folder / "root").glob("digits/gradients/**/receipts/*"))
