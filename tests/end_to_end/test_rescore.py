"""Rescoring from stored rows: equal to a run with the same settings, also when model and data files are gone."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig, merge
from pipeline.errors import ConfigError
from pipeline.operations.rescore import rescore_audit
from pipeline.planning.from_rows import plan_rescore
from pipeline.publication.history import changes_since
from pipeline.results.audit import Audit
from pipeline.root.runs import Runs
from tests.audits import INPUTS, Prepared, audited, counts, table
from tests.conftest import Raw
from tests.jobs.command import mad, section
from tests.languages import gpt2, save
from tests.languages import table as texts

Maker = Callable[..., AuditConfig]


LESS_DAMPED: Raw = {"curvature": {"damping": {"factor": 0.1}}}


BACK = 1e-5


def copy_inputs(digits: Path, folder: Path) -> Path:
    """A copy of the demo's inputs, with the architecture in a file of its own."""
    folder.mkdir()
    for name in INPUTS:
        shutil.copy(digits / name, folder)
    architecture = "from pipeline.demo.network import digit_cnn\n\n\ndef build():\n    return digit_cnn()\n"
    (folder / "net.py").write_text(architecture)
    return folder


@pytest.fixture(scope="module")
def shared(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs that the tests of this file share, so that they share audits of them; no test changes a file."""
    return copy_inputs(digits, tmp_path_factory.mktemp("rescore") / "inputs")


@pytest.fixture
def inputs(shared: Path) -> Iterator[Path]:
    """The shared inputs, which a test may remove by `take_away`; they are back afterwards."""
    yield shared
    if away(shared).exists():
        away(shared).rename(shared)


def away(inputs: Path) -> Path:
    return inputs.with_name("away")


def take_away(inputs: Path) -> None:
    """Removes the inputs of a test: whoever opens one of them fails."""
    inputs.rename(away(inputs))


@pytest.fixture
def own_inputs(digits: Path, tmp_path: Path) -> Path:
    """Inputs of a test's own, whose files it may change."""
    return copy_inputs(digits, tmp_path / "inputs")


def maker(raw: Raw, inputs: Path, folder: Path) -> Maker:
    """Makes configs of these inputs, with sections merged over them; `root` names a root in the folder."""

    def configured(root: str = "root", **sections: JsonValue) -> AuditConfig:
        model: JsonValue = {"name": "digits", "architecture": "net.py:build", "weights": "digits.safetensors"}
        whole: Raw = {**raw, "models": [model], "root": str(folder / root)}
        return AuditConfig.parse(merge(whole, sections), str(inputs))

    return configured


@pytest.fixture
def make(raw: Raw, inputs: Path, tmp_path: Path) -> Maker:
    """A config of the shared inputs."""
    return maker(raw, inputs, tmp_path)


@pytest.fixture
def make_own(raw: Raw, own_inputs: Path, tmp_path: Path) -> Maker:
    """A config of the test's own inputs."""
    return maker(raw, own_inputs, tmp_path)


def table_bytes(audit: Audit) -> bytes:
    """The published table of the latest run, byte for byte."""
    outcome = audit.outcome
    assert outcome is not None
    assert outcome.clean
    place = outcome.summaries["digits"].table_run
    return (Path(audit.storage.url) / f"digits/scores/run={place}/part-00000.parquet").read_bytes()


def scores(audit: Audit) -> dict[str, tuple[float, float]]:
    """Score and p-value by sample."""
    columns = table(audit).select(["sample_id", "score", "p_value"]).to_pydict()
    return dict(zip(columns["sample_id"], zip(columns["score"], columns["p_value"], strict=True), strict=True))


def assert_close(found: Audit, expected: Audit) -> None:
    """Assert equal samples, and scores and p-values equal up to rounding."""
    one, other = scores(found), scores(expected)
    assert list(one) == list(other)
    np.testing.assert_allclose(list(one.values()), list(other.values()), atol=BACK)


def test_with_the_models_and_all_data_files_gone_it_equals_a_run_with_the_same_settings(
    make: Maker, prepared: Prepared, inputs: Path
) -> None:
    config = make()
    prepared(config)
    prepared(make(root="other"))
    wanted = audited(make(root="other", **LESS_DAMPED))
    take_away(inputs)
    rescored = rescore_audit(make(**LESS_DAMPED))
    assert table_bytes(rescored) == table_bytes(wanted)
    assert counts(rescored)["gradients"] == (0, 8)
    assert rescored.summary("digits").evaluation == wanted.summary("digits").evaluation is not None
    assert rescored.summary("digits").verdict == wanted.summary("digits").verdict
    assert rescored.outcome is not None
    assert (Path(config.root) / f"runs/{rescored.outcome.run_id}/_run.json").exists()
    assert rescored.rows("digits").shape[0] == wanted.rows("digits").shape[0]


def test_with_the_settings_of_the_last_run_it_publishes_no_second_table(
    make: Maker, prepared: Prepared, inputs: Path
) -> None:
    run = prepared(make())
    take_away(inputs)
    again = rescore_audit(make())
    assert run.outcome is not None
    assert again.summary("digits").same_as == run.outcome.run_id
    assert again.summary("digits").rows_of == run.outcome.run_id
    outcomes = [audit.outcome for audit in (run, again) if audit.outcome]
    folders = [Path(run.storage.url) / outcome.summaries["digits"].report_folder for outcome in outcomes]
    first, second = ((folder / "images.json").read_bytes() for folder in folders)
    assert first == second


def test_a_run_that_follows_finds_curvature_and_scores_done(make: Maker, prepared: Prepared) -> None:
    prepared(make())
    rescored = rescore_audit(make(**LESS_DAMPED))
    followed = audited(make(**LESS_DAMPED))
    assert counts(followed) == {"gradients": (0, 8), "curvature": (0, 3), "scoring": (0, 4), "reporting": (1, 0)}
    assert followed.outcome is not None
    assert table_bytes(followed) == table_bytes(rescored)


def test_another_split_is_drawn_from_labels_that_were_kept_also_of_a_rescore(
    make: Maker, prepared: Prepared, inputs: Path
) -> None:
    other: Raw = {
        "calibration": {"seed": 3, "fraction": 0.4, "screen": True, "target": {"fdr": 0.2}},
        "score": {"kind": "mean_coupling"},
    }
    prepared(make(root="other"))
    wanted = audited(make(root="other", **other))
    prepared(make())
    take_away(inputs)
    rescore_audit(make(**LESS_DAMPED))
    again = rescore_audit(make(**other))
    assert table_bytes(again) == table_bytes(wanted)
    assert again.summary("digits").calibration == wanted.summary("digits").calibration


def test_fewer_layers_score_like_a_run_on_those_alone(make: Maker, prepared: Prepared, inputs: Path) -> None:
    fewer: Raw = {"estimator": {"layers": ["!8"]}}
    wanted = audited(make(root="other", **fewer))
    prepared(make())
    take_away(inputs)
    rescored = rescore_audit(make(**fewer))
    layers = [audit.summary("digits").layers.covered for audit in (rescored, wanted)]
    assert layers[0] == layers[1]
    assert_close(rescored, wanted)
    rescore_audit(make())
    assert len(scores(rescored)) == len(scores(wanted))
    with pytest.raises(ConfigError, match=r"'nothing\*' chooses none of the \d layers whose rows are stored \(0, "):
        plan_rescore(make(estimator={"layers": ["nothing*"]}))


def test_dropped_trusted_samples_are_as_if_they_had_never_been_there(
    make: Maker, make_own: Maker, prepared: Prepared, inputs: Path, own_inputs: Path
) -> None:
    whole = prepared(make()).summary("digits")
    trusted = pq.read_table(inputs / "trusted.parquet")
    dropped = trusted["id"].to_pylist()[5:200:7]
    others = trusted.filter(pc.invert(pc.is_in(trusted["id"], pa.array(dropped, trusted["id"].type))))
    pq.write_table(others, own_inputs / "trusted.parquet")
    wanted = audited(make_own(root="other"))
    take_away(inputs)
    rescored = rescore_audit(make(), frozenset(map(str, dropped)))
    assert_close(rescored, wanted)
    calibrations = [audit.summary("digits").calibration for audit in (rescored, wanted)]
    sizes = [(one.reference, one.calibration) for one in calibrations]
    assert sizes[0] == sizes[1]
    assert calibrations[0].dropped == len(dropped)
    compared = changes_since(Runs(rescored.storage), ["digits"], whole.run_id, top=1).models["digits"]
    assert compared is not None and compared.changed == ("trusted set",)
    with pytest.raises(ConfigError, match="1 of 1 ids to drop are of no trusted sample"):
        plan_rescore(make(), frozenset(["nobody"]))


@pytest.mark.parametrize("kind", ["ggn", "kfac"])
def test_a_curvature_is_refused_until_a_run_has_stored_what_it_is_fitted_on(
    make: Maker, prepared: Prepared, inputs: Path, kind: str
) -> None:
    prepared(make())
    asked: Raw = {"curvature": {"kind": kind, "damping": {"factor": 0.5}}}
    with pytest.raises(
        ConfigError, match=rf"curvature.kind: {kind} is fitted on .*; `mad run` with curvature.kind: {kind} stores them"
    ):
        plan_rescore(make(**asked))
    audited(make(curvature={"kind": kind}))
    wanted = audited(make(root="other", **asked))
    take_away(inputs)
    assert table_bytes(rescore_audit(make(**asked))) == table_bytes(wanted)


def test_rows_of_another_estimator_or_other_files_are_refused(make: Maker, prepared: Prepared) -> None:
    with pytest.raises(OSError, match="not a root, there is nothing here"):
        plan_rescore(make())
    prepared(make())
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


def test_the_command_says_what_is_wrong_and_otherwise_prints_what_a_run_prints(
    raw: Raw, own_inputs: Path, tmp_path: Path
) -> None:
    root, path = Path(str(raw["root"])), own_inputs / "audit.yaml"
    model: JsonValue = {"name": "digits", "architecture": "net.py:build", "weights": "digits.safetensors"}
    path.write_text(yaml.safe_dump({**raw, "models": [model]}))
    assert mad("run", path, "-q").code == 0
    for name, text in (("ids.txt", "nobody\n"), ("ids.csv", "name\nnobody\n"), ("none.txt", "\n")):
        (tmp_path / name).write_text(text)
        ended = mad("rescore", root, path, "--drop-trusted", tmp_path / name, "-q")
        assert ended.code == 2, ended.err
        assert "drop" in ended.complaint or "has no column sample_id or id (columns there: name)" in ended.complaint
    ids = pq.read_table(own_inputs / "trusted.parquet")["id"].to_pylist()[:3]
    pq.write_table(pa.table({"sample_id": ids}), tmp_path / "ids.parquet")
    (tmp_path / "ids.csv").write_text("verdict,id\n" + "".join(f"bad,{name}\n" for name in ids))
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in ids))
    (own_inputs / "net.py").unlink()
    calls = [
        mad("rescore", root, path, "--drop-trusted", tmp_path / name, "--output", "json", "-q")
        for name in ("ids.txt", "ids.csv", "ids.parquet")
    ]
    assert [one.code for one in calls] == [0, 0, 0]
    assert [section(one.summary, "calibration")["dropped"] for one in calls] == [3, 3, 3]
    assert [bool(one.summary["same_as"]) for one in calls] == [False, True, True]


def forget(audit: Audit, split: str, task: str) -> None:
    """Removes the receipt of a task of rows of the latest run, as a task that was given up never had one."""
    manifests = audit.summary("digits").manifests
    log = (Path(audit.storage.url) / manifests[split][0]).parent.parent
    for gone in [*log.glob("manifests/*"), *log.glob(f"receipts/{task}*")]:
        gone.unlink()


def test_audited_rows_that_are_not_there_stay_failed_and_the_others_are_scored(
    make: Maker, prepared: Prepared, inputs: Path
) -> None:
    forget(prepared(make()), "audited", "000000000384-")
    take_away(inputs)
    rescored = rescore_audit(make(**LESS_DAMPED))
    assert rescored.outcome is not None
    assert not rescored.outcome.clean
    statuses = table(rescored)["status"].to_pylist()
    assert [status[:7] for status in statuses[380:388]] == ["ok"] * 4 + ["failed:"] * 4
    assert "`mad rescore` computes none" in statuses[-1]


def test_trusted_rows_that_are_not_there_are_refused(make: Maker, prepared: Prepared) -> None:
    forget(prepared(make()), "trusted", "000000000384-")
    with pytest.raises(
        ConfigError, match=r"1 tasks of rows of trusted.parquet are not stored any more; `mad run` computes them"
    ):
        plan_rescore(make())


def test_what_an_earlier_version_recorded_is_refused_until_a_run_has_recorded_more(
    make: Maker, prepared: Prepared
) -> None:
    audit = prepared(make())
    for record in Path(audit.storage.url).glob("runs/*/_run.json"):
        document = json.loads(record.read_text())
        del document["models"]["digits"]["rows"]
        record.write_text(json.dumps(document))
    with pytest.raises(
        ConfigError,
        match=r"of an earlier version of mad, which did not record what rows are made of; `mad run` with this config",
    ):
        plan_rescore(make())
    assert counts(audited(make()))["gradients"] == (0, 8)
    assert table_bytes(rescore_audit(make())) == table_bytes(audit)


def test_traces_are_rescored_without_their_chains(make_own: Maker, own_inputs: Path) -> None:
    trusted = pq.read_table(own_inputs / "trusted.parquet")
    pq.write_table(trusted.slice(300), own_inputs / "sampling.parquet")
    pq.write_table(trusted.slice(0, 300), own_inputs / "trusted.parquet")
    chain: JsonValue = {"kind": "loss_trace", "draws": 60, "burn_in": 20, "batch": 32, "step": 4e-6}
    traces: Raw = {"estimator": {**chain, "sampling": "sampling.parquet"}, "calibration": {"target": {"fpr": 0.05}}}
    concordance: Raw = {"score": {"kind": "concordance"}}
    audited(make_own(**traces))
    shutil.copytree(make_own().root, make_own(root="other").root)
    wanted = audited(make_own(root="other", **traces, **concordance))
    shutil.rmtree(own_inputs)
    rescored = rescore_audit(make_own(**traces, **concordance))
    assert table_bytes(rescored) == table_bytes(wanted)
    assert rescored.summary("digits").sampling == wanted.summary("digits").sampling


def test_language_models_are_rescored_with_what_is_unreadable_among_their_texts(tmp_path: Path) -> None:
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

    audited(configured("root"))
    shutil.copytree(configured("root").root, configured("other").root)
    wanted = audited(configured("other", **LESS_DAMPED))
    shutil.rmtree(folder)
    assert table_bytes(rescore_audit(configured("root", **LESS_DAMPED))) == table_bytes(wanted)


@pytest.mark.faults
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_it_scores_as_in_this_process(make: Maker, prepared: Prepared, inputs: Path) -> None:
    prepared(make())
    prepared(make(root="other"))
    take_away(inputs)
    found = rescore_audit(make(**LESS_DAMPED), executor="ray")
    assert_close(found, rescore_audit(make(root="other", **LESS_DAMPED)))


def test_truth_that_an_earlier_version_did_not_keep_is_read_from_its_files_which_must_be_there(
    make: Maker, prepared: Prepared, inputs: Path
) -> None:
    audit = prepared(make())
    for path in Path(audit.storage.url).glob("digits/reporting/*/*/*/truth.arrow"):
        path.unlink()
    assert rescore_audit(make()).summary("digits").evaluation == audit.summary("digits").evaluation
    take_away(inputs)
    rescore_audit(make())  # the rescore above has kept it
    for path in Path(audit.storage.url).glob("digits/reporting/*/*/*/truth.arrow"):
        path.unlink()
    with pytest.raises(
        ConfigError,
        match=r"audited.parquet: its labels or truth are not stored, because an earlier version of mad kept none",
    ):
        plan_rescore(make())
