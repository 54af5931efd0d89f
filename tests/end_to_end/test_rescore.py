"""Reprocessing from stored rows: equal to a run with the same settings, and possible when the model and all data files are gone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig, merge
from pipeline.errors import ConfigError
from pipeline.operations.rescore import rescore_audit
from pipeline.planning.from_models import plan_audit
from pipeline.planning.from_rows import plan_rescore
from pipeline.publication.history import changes_since
from pipeline.results.audit import Audit
from pipeline.root.runs import Runs
from pipeline.run import run_audit
from tests.conftest import Raw
from tests.jobs.command import mad
from tests.languages import gpt2, save
from tests.languages import table as texts

Maker = Callable[..., AuditConfig]


LESS_DAMPED: Raw = {"curvature": {"damping": {"factor": 0.1}}}


BACK = 1e-5


@pytest.fixture
def inputs(digits: Path, tmp_path: Path) -> Path:
    """A copy of the demo's inputs, of which any can be removed, with the architecture in a file of its own."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name in ("trusted.parquet", "audited.parquet", "digits.safetensors"):
        shutil.copy(digits / name, folder)
    (folder / "net.py").write_text(
        "from pipeline.demo.network import digit_cnn\n\n\ndef build():\n    return digit_cnn()\n"
    )
    return folder


@pytest.fixture
def make(raw: Raw, inputs: Path) -> Maker:
    """A config of these inputs, with sections merged over it; `root` names one of the test's own roots."""

    def configured(root: str = "root", **sections: JsonValue) -> AuditConfig:
        model: JsonValue = {"name": "digits", "architecture": "net.py:build", "weights": "digits.safetensors"}
        return AuditConfig.parse(
            merge({**raw, "models": [model], "root": str(inputs.parent / root)}, sections), str(inputs)
        )

    return configured


def table(audit: Audit) -> bytes:
    """The published table of the latest run, byte for byte."""
    outcome = audit.outcome
    assert outcome is not None
    assert outcome.clean
    place = outcome.summaries["digits"].table_run
    return (Path(audit.storage.url) / f"digits/scores/run={place}/part-00000.parquet").read_bytes()


def counts(audit: Audit) -> dict[str, tuple[int, int]]:
    """(tasks run, tasks reused) by stage."""
    assert audit.outcome is not None
    return {stage: (cost.tasks_run, cost.tasks_reused) for stage, cost in audit.outcome.stages["digits"].items()}


def scores(audit: Audit) -> dict[str, tuple[float, float]]:
    """Score and p-value by sample."""
    columns = audit.scores("digits").read_all().select(["sample_id", "score", "p_value"]).to_pydict()
    return dict(zip(columns["sample_id"], zip(columns["score"], columns["p_value"], strict=True), strict=True))


def test_with_the_models_and_all_data_files_gone_it_equals_a_run_with_the_same_settings(
    make: Maker, inputs: Path
) -> None:
    config = make()
    run_audit(plan_audit(config))
    run_audit(plan_audit(make(root="other")))
    wanted = run_audit(plan_audit(make(root="other", **LESS_DAMPED)))
    shutil.rmtree(inputs)
    rescored = rescore_audit(make(**LESS_DAMPED))
    assert table(rescored) == table(wanted)
    assert counts(rescored)["gradients"] == (0, 8)
    assert rescored.summary("digits").evaluation == wanted.summary("digits").evaluation is not None
    assert rescored.summary("digits").verdict == wanted.summary("digits").verdict
    assert rescored.outcome is not None
    assert (Path(config.root) / f"runs/{rescored.outcome.run_id}/_run.json").exists()
    assert rescored.rows("digits").shape[0] == wanted.rows("digits").shape[0]


def test_with_the_settings_of_the_last_run_it_publishes_no_second_table(make: Maker, inputs: Path) -> None:
    run = run_audit(plan_audit(make()))
    shutil.rmtree(inputs)
    again = rescore_audit(make())
    assert run.outcome is not None
    assert again.summary("digits").same_as == run.outcome.run_id
    assert again.summary("digits").rows_of == run.outcome.run_id
    folders = [
        Path(audit.storage.url) / audit.outcome.summaries["digits"].report_folder
        for audit in (run, again)
        if audit.outcome
    ]
    assert [(folder / "images.json").read_bytes() for folder in folders][1:] == [
        (folders[0] / "images.json").read_bytes()
    ]


def test_a_run_that_follows_finds_curvature_and_scores_done(make: Maker) -> None:
    run_audit(plan_audit(make()))
    rescored = rescore_audit(make(**LESS_DAMPED))
    followed = run_audit(plan_audit(make(**LESS_DAMPED)))
    assert counts(followed) == {"gradients": (0, 8), "curvature": (0, 3), "scoring": (0, 4), "reporting": (1, 0)}
    assert followed.outcome is not None
    assert table(followed) == table(rescored)


def test_another_split_is_drawn_from_labels_that_were_kept_also_of_a_rescore(make: Maker, inputs: Path) -> None:
    other: Raw = {
        "calibration": {"seed": 3, "fraction": 0.4, "screen": True, "target": {"fdr": 0.2}},
        "score": {"kind": "mean_coupling"},
    }
    run_audit(plan_audit(make(root="other")))
    wanted = run_audit(plan_audit(make(root="other", **other)))
    run_audit(plan_audit(make()))
    shutil.rmtree(inputs)
    rescore_audit(make(**LESS_DAMPED))
    again = rescore_audit(make(**other))
    assert table(again) == table(wanted)
    assert again.summary("digits").calibration == wanted.summary("digits").calibration


def test_fewer_layers_score_like_a_run_on_those_alone(make: Maker, inputs: Path) -> None:
    fewer: Raw = {"estimator": {"layers": ["!8"]}}
    wanted = run_audit(plan_audit(make(root="other", **fewer)))
    run_audit(plan_audit(make()))
    shutil.rmtree(inputs)
    rescored = rescore_audit(make(**fewer))
    found, expected = scores(rescored), scores(wanted)
    assert rescored.summary("digits").layers.covered == wanted.summary("digits").layers.covered
    assert list(found) == list(expected)
    np.testing.assert_allclose([found[name][0] for name in found], [expected[name][0] for name in found], atol=1e-5)
    rescore_audit(make())
    assert len(scores(rescored)) == len(found)
    with pytest.raises(ConfigError, match=r"'nothing\*' chooses none of the \d layers whose rows are stored \(0, "):
        plan_rescore(make(estimator={"layers": ["nothing*"]}))


def test_dropped_trusted_samples_are_as_if_they_had_never_been_there(make: Maker, inputs: Path, tmp_path: Path) -> None:
    whole = run_audit(plan_audit(make())).summary("digits")
    trusted = pq.read_table(inputs / "trusted.parquet")
    dropped = trusted["id"].to_pylist()[5:200:7]
    pq.write_table(
        trusted.filter(pc.invert(pc.is_in(trusted["id"], pa.array(dropped, trusted["id"].type)))),
        inputs / "trusted.parquet",
    )
    wanted = run_audit(plan_audit(make(root="other")))
    shutil.rmtree(inputs)
    rescored = rescore_audit(make(), frozenset(map(str, dropped)))
    found, expected = scores(rescored), scores(wanted)
    np.testing.assert_allclose([found[name][0] for name in found], [expected[name][0] for name in found], atol=BACK)
    calibrations = [audit.summary("digits").calibration for audit in (rescored, wanted)]
    expected_parts = (calibrations[1].reference, calibrations[1].calibration)
    assert [(one.reference, one.calibration) for one in calibrations] == 2 * [expected_parts]
    assert calibrations[0].dropped == len(dropped)
    compared = changes_since(Runs(rescored.storage), ["digits"], whole.run_id, top=1).models["digits"]
    assert compared is not None and compared.changed == ("trusted set",)
    with pytest.raises(ConfigError, match="1 of 1 ids to drop are of no trusted sample"):
        plan_rescore(make(), frozenset(["nobody"]))


@pytest.mark.parametrize("kind", ["ggn", "kfac"])
def test_a_curvature_whose_inputs_nobody_stored_is_refused_and_had_once_a_run_stored_them(
    make: Maker, inputs: Path, kind: str
) -> None:
    run_audit(plan_audit(make()))
    asked: Raw = {"curvature": {"kind": kind, "damping": {"factor": 0.5}}}
    with pytest.raises(
        ConfigError, match=rf"curvature.kind: {kind} is fitted on .*; `mad run` with curvature.kind: {kind} stores them"
    ):
        plan_rescore(make(**asked))
    run_audit(plan_audit(make(curvature={"kind": kind})))
    wanted = run_audit(plan_audit(make(root="other", **asked)))
    shutil.rmtree(inputs)
    assert table(rescore_audit(make(**asked))) == table(wanted)


def test_rows_of_another_estimator_or_model_or_files_are_not_taken_for_those_asked_for(make: Maker) -> None:
    with pytest.raises(OSError, match="not a root, there is nothing here"):
        plan_rescore(make())
    run_audit(plan_audit(make()))
    for sections, place in (
        (
            {"estimator": {"projection": {"rank": 8}}},
            r"estimator.projection.rank is 8, the stored rows have 16; `mad run`",
        ),
        (
            {"data": {"audited": "tonight.parquet"}},
            r"data.audited is \['tonight.parquet'\], the stored rows have \['audited.parquet'\]",
        ),
    ):
        with pytest.raises(ConfigError, match=place):
            plan_rescore(make(**sections))  # type: ignore[arg-type]


def test_the_command_says_what_is_wrong_and_else_prints_what_a_run_prints(
    make: Maker, inputs: Path, tmp_path: Path
) -> None:
    import yaml  # noqa: PLC0415

    model: JsonValue = {"name": "digits", "architecture": "net.py:build", "weights": "digits.safetensors"}
    data = make().models[0].data.model_dump(mode="json", exclude={"columns"})
    path = inputs / "audit.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "root": make().root,
                "task": "classification",
                "models": [model],
                "data": data,
                "run": {"rows_per_task": 128},
            }
        )
    )
    assert mad("run", path, "-q").code == 0
    for name, text in (("ids.txt", "nobody\n"), ("ids.csv", "name\nnobody\n"), ("none.txt", "\n")):
        (tmp_path / name).write_text(text)
        ended = mad("rescore", make().root, path, "--drop-trusted", tmp_path / name, "-q")
        assert ended.code == 2, ended.err
        assert "drop" in ended.complaint or "has no column sample_id or id (columns there: name)" in ended.complaint
    ids = pq.read_table(inputs / "trusted.parquet")["id"].to_pylist()[:3]
    pq.write_table(pa.table({"sample_id": ids}), tmp_path / "ids.parquet")
    (tmp_path / "ids.csv").write_text("verdict,id\n" + "".join(f"bad,{name}\n" for name in ids))
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in ids))
    (inputs / "net.py").unlink()
    ended = [
        mad("rescore", make().root, path, "--drop-trusted", tmp_path / name, "--output", "json", "-q")
        for name in ("ids.txt", "ids.csv", "ids.parquet")
    ]
    assert [one.code for one in ended] == [0, 0, 0]
    assert [one.summary["calibration"]["dropped"] for one in ended] == [3, 3, 3]  # type: ignore[index,call-overload]
    assert [bool(one.summary["same_as"]) for one in ended] == [False, True, True]


def forget(audit: Audit, split: str, task: str) -> None:
    """Removes the receipt of a task of rows of the latest run, as a task that was given up never had one."""
    manifests = audit.summary("digits").manifests
    log = (Path(audit.storage.url) / manifests[split][0]).parent.parent
    for gone in [*log.glob("manifests/*"), *log.glob(f"receipts/{task}*")]:
        gone.unlink()


def test_audited_rows_that_are_not_there_stay_failed_and_the_others_are_scored(make: Maker, inputs: Path) -> None:
    forget(run_audit(plan_audit(make())), "audited", "000000000384-")
    shutil.rmtree(inputs)
    rescored = rescore_audit(make(**LESS_DAMPED))
    assert rescored.outcome is not None
    assert not rescored.outcome.clean
    statuses = rescored.scores("digits").read_all()["status"].to_pylist()
    assert [status[:7] for status in statuses[380:388]] == ["ok"] * 4 + ["failed:"] * 4
    assert "`mad rescore` computes none" in statuses[-1]


def test_trusted_rows_that_are_not_there_are_refused(make: Maker) -> None:
    forget(run_audit(plan_audit(make())), "trusted", "000000000384-")
    with pytest.raises(
        ConfigError, match=r"1 tasks of rows of trusted.parquet are not stored any more; `mad run` computes them"
    ):
        plan_rescore(make())


def test_what_an_earlier_version_recorded_is_refused_until_a_run_has_recorded_more(make: Maker) -> None:
    audit = run_audit(plan_audit(make()))
    for record in Path(audit.storage.url).glob("runs/*/_run.json"):
        document = json.loads(record.read_text())
        del document["models"]["digits"]["rows"]
        record.write_text(json.dumps(document))
    with pytest.raises(
        ConfigError,
        match=r"of an earlier version of mad, which did not record what rows are made of; `mad run` with this config",
    ):
        plan_rescore(make())
    assert counts(run_audit(plan_audit(make())))["gradients"] == (0, 8)
    assert table(rescore_audit(make())) == table(audit)


def test_traces_are_scored_anew_without_their_chains(make: Maker, inputs: Path) -> None:
    trusted = pq.read_table(inputs / "trusted.parquet")
    pq.write_table(trusted.slice(300), inputs / "sampling.parquet")
    pq.write_table(trusted.slice(0, 300), inputs / "trusted.parquet")
    traces: Raw = {
        "estimator": {
            "kind": "loss_trace",
            "sampling": "sampling.parquet",
            "draws": 60,
            "burn_in": 20,
            "batch": 32,
            "step": 4e-6,
        }
    }
    traces |= {"calibration": {"target": {"fpr": 0.05}}}
    concordance: Raw = {"score": {"kind": "concordance"}}
    run_audit(plan_audit(make(**traces)))
    run_audit(plan_audit(make(root="other", **traces)))
    wanted = run_audit(plan_audit(make(root="other", **traces, **concordance)))
    shutil.rmtree(inputs)
    rescored = rescore_audit(make(**traces, **concordance))
    assert table(rescored) == table(wanted)
    assert rescored.summary("digits").sampling == wanted.summary("digits").sampling


def test_language_models_are_scored_anew_with_what_is_unreadable_among_their_texts(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    save(gpt2(), folder / "gpt2")
    unreadable = pa.Table.from_pylist(
        [{"id": "bad", "input_ids": [], "completion_start": 0}], schema=texts(1, 4, "text").schema
    )
    for name, table_of in {
        "trusted": texts(60, 3, "trusted"),
        "audited": pa.concat_tables([texts(20, 4, "text"), unreadable]),
    }.items():
        pq.write_table(table_of, folder / f"{name}.parquet")

    def configured(root: str, **sections: JsonValue) -> AuditConfig:
        raw: Raw = {
            "root": str(tmp_path / root),
            "task": "causal_lm",
            "models": [{"name": "digits", "huggingface": "gpt2"}],
        }
        raw |= {
            "data": {"trusted": "trusted.parquet", "audited": "audited.parquet"},
            "calibration": {"target": {"fpr": 0.1}},
            "run": {"rows_per_task": 8},
        }
        return AuditConfig.parse(merge(raw, sections), str(folder))

    for root, sections in (("root", {}), ("other", {}), ("other", LESS_DAMPED)):
        wanted = run_audit(plan_audit(configured(root, **sections)))
    shutil.rmtree(folder)
    assert table(rescore_audit(configured("root", **LESS_DAMPED))) == table(wanted)


@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_it_scores_as_in_this_process(make: Maker, inputs: Path) -> None:
    run_audit(plan_audit(make()))
    shutil.copytree(make().root, make(root="other").root)
    shutil.rmtree(inputs)
    found, expected = (
        scores(rescore_audit(make(**LESS_DAMPED), executor="ray")),
        scores(rescore_audit(make(root="other", **LESS_DAMPED))),
    )
    np.testing.assert_allclose([found[name] for name in found], [expected[name] for name in found], atol=1e-5)


def test_truth_that_an_earlier_version_did_not_keep_is_read_from_its_files_which_must_be_there(
    make: Maker, inputs: Path
) -> None:
    audit = run_audit(plan_audit(make()))
    for path in Path(audit.storage.url).glob("digits/reporting/*/*/*/truth.arrow"):
        path.unlink()
    assert rescore_audit(make()).summary("digits").evaluation == audit.summary("digits").evaluation
    (inputs / "audited.parquet").unlink()
    rescore_audit(make())  # the rescore above has kept it
    for path in Path(audit.storage.url).glob("digits/reporting/*/*/*/truth.arrow"):
        path.unlink()
    with pytest.raises(
        ConfigError,
        match=r"audited.parquet: its labels or truth are not stored, because an earlier version of mad kept none",
    ):
        plan_rescore(make())
