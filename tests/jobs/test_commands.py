"""The commands that plan and run: what they print, where, with which exit code, and what they leave behind."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.version import installed_version
from jobs.main import app
from pipeline.config.audit_config import AuditConfig
from tests.jobs.command import mad, published, section, table, tasks, without_planning
from tests.jobs.conftest import Configure
from tests.jobs.workshop import AUDITED, TRUSTED

COMMANDS = ("demo", "init", "plan", "run", "rescore", "sweep", "status", "verify", "inspect", "report", "explain", "gc")


REPOSITORY = Path(__file__).parents[2]


HEAVY = ("torch", "zarr", "pyarrow", "pydantic", "dask", "numpy", "fsspec", "sklearn", "yaml")


STAGES = ("gradients", "curvature", "scoring", "reporting")


def test_help_lists_every_command_and_the_exit_codes() -> None:
    ended = mad("--help")
    assert (ended.code, ended.err) == (0, "")
    assert [name for name in COMMANDS if f"\n  {name} " not in ended.out] == []
    assert len(app.registered_commands) == len(COMMANDS)
    text = " ".join(ended.out.split())
    for meaning in (
        "0 done",
        "1 a model, file or task failed",
        "2 usage, config, model or data wrong",
        "3 cannot fit",
        "4 done, and a model has the verdict",
    ):
        assert meaning in text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("spelling", ["--help", "-h"])
def test_every_command_explains_itself(command: str, spelling: str) -> None:
    ended = mad(command, spelling)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: mad {command} ")
    assert [
        option for option in ("--output <text|json>", "-v, --verbose", "-q, --quiet") if option not in ended.out
    ] == []


def test_the_version_is_the_installed_one() -> None:
    ended = mad("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"mad {installed_version()}\n", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Usage: mad "),
        (["audit"], "No such command 'audit'"),
        (["run"], "Missing argument 'CONFIG'"),
        (
            ["run", "a.yaml", "--until", "scores"],
            "'scores' is not one of 'gradients', 'curvature', 'scoring', 'reporting'",
        ),
        (["run", "a.yaml", "--executor", "dask"], "'dask' is not one of 'serial'"),
        (["plan", "a.yaml", "--output", "xml"], "'xml' is not one of 'text', 'json'"),
        (["report", "root", "--top", "-1"], "Invalid value for '--top'"),
        (["status"], "Missing argument 'ROOT'"),
    ],
)
def test_wrong_usage(arguments: list[str], expected: str) -> None:
    ended = mad(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert expected in ended.err


def test_help_waits_for_nothing_heavy() -> None:
    code = f"import sys, jobs.main; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_init_writes_an_example_that_holds_the_defaults(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "audit"
    ended = mad("init", folder)
    assert (ended.code, ended.err) == (0, "")
    assert (
        ended.out
        == f"{folder}/audit.yaml is written; fill in your models and data, then: mad plan {folder}/audit.yaml\n"
    )
    (model,) = AuditConfig.load(folder / "audit.yaml").models
    raw = yaml.safe_load((folder / "audit.yaml").read_text())
    optional = ("estimator", "curvature", "score", "calibration", "run")
    plain = AuditConfig.parse({key: value for key, value in raw.items() if key not in optional}, str(folder))
    assert AuditConfig.load(folder / "audit.yaml") == plain
    assert model.weights == "my-model.safetensors"


def test_init_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mad("init", "--output", "json").document == {"config": "audit.yaml"}
    (tmp_path / "audit.yaml").write_text("mine")
    for arguments in ([], ["."], [str(tmp_path)]):
        ended = mad("init", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert ended.complaint.endswith("audit.yaml: exists already and is left unchanged; name another folder")
    assert (tmp_path / "audit.yaml").read_text() == "mine"


@pytest.mark.parametrize("below", ["file", "file/audits"])
def test_init_at_or_below_a_file(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    ended = mad("init", tmp_path / below)
    assert (ended.code, ended.out) == (2, "")
    assert f"{tmp_path}/file" in ended.complaint


def test_demo_audits_and_the_second_demo_has_nothing_to_do(digits: Path, root: Path) -> None:
    shutil.copytree(digits, f"{root}-inputs")
    first, second = mad("demo", "--root", root), mad("demo", "--root", root)
    for ended in (first, second):
        assert ended.code == 0
        heading, row = (line.split() for line in ended.out.splitlines()[1:3])
        assert heading == ["model", "verdict", "audited", "flagged", "not", "scored", "target", "AUROC", "TPR", "FPR"]
        assert row[:4] == ["digits", "unusual", "inputs", str(len(table(root, "digits")))]
        assert f"page: {root}/report/index.html" in ended.out.splitlines()
        assert (
            f"config: {root}-inputs/audit.yaml (change it, then: mad run {root}-inputs/audit.yaml)"
            in ended.out.splitlines()
        )
    assert (root / "report" / "index.html").read_text().startswith("<!doctype html>")
    assert "gradients: 2 of 2 tasks, 0 of them reused" in first.err
    assert [line.rpartition(",")[0] for line in second.err.splitlines()] == [
        "gradients: 2 of 2 tasks, 2 of them reused",
        "curvature: 3 of 3 tasks, 3 of them reused",
        "scoring: 1 of 1 tasks, 1 of them reused",
        "reporting: 1 of 1 tasks, 1 of them reused",
    ]
    assert "same scores as run" in second.out


def test_demo_keeps_a_config_that_was_changed(digits: Path, root: Path) -> None:
    inputs = Path(shutil.copytree(digits, f"{root}-inputs"))
    (inputs / "audit.yaml").write_text((inputs / "audit.yaml").read_text() + "calibration: {target: {fpr: 0.05}}\n")
    changed = (inputs / "audit.yaml").read_text()
    assert mad("demo", "--root", root).code == 0
    assert (inputs / "audit.yaml").read_text() == changed


def test_plan_shows_what_a_run_will_do_and_writes_nothing(configure: Configure, root: Path) -> None:
    config = configure()
    planned = mad("plan", config, "--output", "json", "-q")
    assert (planned.code, planned.err) == (0, "")
    document = planned.document
    assert {name: document[name] for name in ("root", "stages", "refused", "cannot_fit")} == {
        "root": str(root),
        "stages": list(STAGES),
        "refused": {},
        "cannot_fit": {},
    }
    model = section(document, "models", "digits")
    assert (model["trusted"], model["audited"], model["refused_files"]) == (
        {"trusted.parquet": TRUSTED},
        {"audited.parquet": AUDITED},
        {},
    )
    layers = section(model, "layers")
    assert list(section(layers, "covered")) == ["0.weight", "2.weight", "5.weight", "8.weight"]
    assert (layers["fallback"], layers["not_covered"]) == ([], {})
    assert model["row_numbers"] == sum(int(str(size)) for size in section(layers, "covered").values())
    assert model["row_bytes"] == (TRUSTED + AUDITED) * (2 * int(str(model["row_numbers"])) + 4 * 4)
    assert not root.exists()
    text = mad("plan", config)
    assert text.out.splitlines()[:2] == [f"root: {root}", "stages: gradients, curvature, scoring, reporting"]
    assert text.out.splitlines()[3].split()[:5] == [
        "digits",
        str(TRUSTED),
        str(AUDITED),
        str(model["tasks"]),
        str(model["row_numbers"]),
    ]
    assert not root.exists()
    ran = mad("run", config, "--output", "json").summary
    assert tasks(ran)["gradients"] == (model["tasks"], 0)
    assert ran["model_digest"] == model["digest"]


def test_run_prints_results_on_stdout_and_progress_on_stderr(configure: Configure, root: Path) -> None:
    config = configure()
    first = mad("run", config, "--output", "json")
    assert first.code == 0
    assert set(first.document) >= {"run_id", "models"}
    assert first.summary["run_id"] == first.document["run_id"]
    assert (root / "runs" / str(first.document["run_id"]) / "digits.json").is_file()
    assert json.loads((root / "digits" / "summary.json").read_text()) == first.summary
    assert [line.partition(":")[0] for line in first.err.splitlines()] == list(STAGES)
    text = mad("run", config)
    assert text.code == 0
    assert text.out.startswith("run 20")
    assert text.out.splitlines()[2].split()[:5] == [
        "digits",
        "unusual",
        "inputs",
        str(AUDITED),
        str(section(first.summary, "counts")["flagged"]),
    ]
    assert f"digits: same scores as run {first.document['run_id']}" in text.out.splitlines()
    quiet = mad("run", config, "-q")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out.splitlines()[1:3] == text.out.splitlines()[1:3]


def test_run_until_a_stage_publishes_nothing_and_the_next_run_goes_on(configure: Configure, root: Path) -> None:
    config = configure()
    ended = mad("run", config, "--until", "gradients", "--output", "json")
    assert ended.code == 0
    assert {name: run for name, (run, _) in tasks(ended.summary).items()} == {
        "gradients": 3,
        "curvature": 0,
        "scoring": 0,
        "reporting": 0,
    }
    assert sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) == [
        "digits",
        "mad.json",
        "runs",
    ]
    assert {path.name for path in (root / "digits").iterdir()} == {"probe", "gradients"}
    assert "stopped after a stage, as asked" in mad("status", root).out
    rest = mad("run", config, "--output", "json")
    assert tasks(rest.summary) == {"gradients": (0, 3), "curvature": (3, 0), "scoring": (1, 0), "reporting": (1, 0)}
    assert len(published(root, "digits")) == 1


def test_a_verdict_may_be_an_exit_code(configure: Configure, root: Path) -> None:
    config = configure()
    for verdict in ("unusual inputs", "unusual-inputs", "Unusual_Inputs"):
        ended = mad("run", config, "--fail-on", verdict, "--output", "json")
        assert ended.code == 4
        assert section(ended.summary, "verdict")["value"] == "unusual inputs"
    assert len(table(root, "digits")) == AUDITED
    for verdict in ("nothing unusual", "cannot-tell"):
        assert mad("run", config, "--fail-on", verdict).code == 0


def test_an_unknown_verdict_is_refused_before_anything_runs(configure: Configure, root: Path) -> None:
    ended = mad("run", configure(), "--fail-on", "alarm")
    assert (ended.code, ended.out) == (2, "")
    assert (
        ended.complaint
        == "--fail-on 'alarm': no such verdict; valid: 'nothing unusual', 'unusual inputs', 'cannot tell'"
    )
    assert not root.exists()


def test_a_traceback_only_where_it_is_asked_for(configure: Configure) -> None:
    config = configure(models=[])
    assert "Traceback" not in mad("run", config).err
    verbose = mad("run", config, "-v")
    assert verbose.code == 2
    assert verbose.err.startswith("Traceback (most recent call last):")
    assert verbose.err.splitlines()[-1].startswith("mad: models: a list of at least one model is required")


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_an_entry_point(
    stage: str, configure: Configure, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"jobs.{stage}", str(configure()), "--output", "json"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(f"jobs.{stage}", run_name="__main__")
    assert left.value.code == 0
    assert list(json.loads(capsys.readouterr().out)["models"]) == ["digits"]
    done = [name for name in STAGES if (root / "digits" / name).exists()]
    assert done == list(STAGES[: STAGES.index(stage) + 1])
    assert len(published(root, "digits")) == (stage == "reporting")


def test_a_stage_runs_as_a_process_of_its_own(configure: Configure, root: Path) -> None:
    arguments = [sys.executable, "-m", "jobs.gradients", str(configure()), "--output", "json"]
    done = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert section(json.loads(done.stdout), "models", "digits", "stages", "gradients")["tasks_run"] == 3
    assert without_planning(done.stderr).startswith("gradients: 3 of 3 tasks, 0 of them reused")
    assert published(root, "digits") == []
    refused = mad("run", root / "none.yaml")
    assert refused.complaint.startswith(f"{root}/none.yaml: no such file")
