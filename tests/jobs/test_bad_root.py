"""A config or a root that is wrong as a whole, and plans that cannot fit: refused, with nothing written."""

from pathlib import Path

import pytest
import yaml
from pydantic import JsonValue

from tests.infra.stores import ForgetfulFileSystem
from tests.jobs.command import mad, section
from tests.jobs.conftest import Configure
from tests.jobs.test_bad_input import refuse

CONFIGS: dict[str, tuple[dict[str, JsonValue], str]] = {
    "a misspelt section": ({"calibraton": {}}, "calibraton: unknown key; did you mean 'calibration'?"),
    "a misspelt key": ({"run": {"rows_per_tsk": 3}}, "run.rows_per_tsk: unknown key; did you mean 'rows_per_task'?"),
    "an unknown kind": (
        {"curvature": {"kind": "hessian"}},
        "curvature.kind: input should be 'identity', 'block_moment', 'ggn', 'fisher', 'kfac' or 'ekfac', got 'hessian'",
    ),
    "no models": ({"models": []}, "models: a list of at least one model is required"),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(("sections", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_a_wrong_config(
    sections: dict[str, JsonValue], expected: str, command: str, configure: Configure, root: Path
) -> None:
    assert refuse(command, configure(**sections), root).startswith(expected)


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "audit.yaml: no such file; `mad init` writes an example config"),
        ("models: [", "audit.yaml: not valid YAML: "),
        ("- models", "audit.yaml: expected a mapping with root, models, task and data, found list"),
    ],
)
def test_no_config(text: str | None, expected: str, command: str, tmp_path: Path, root: Path) -> None:
    if text is not None:
        (tmp_path / "audit.yaml").write_text(text)
    assert refuse(command, tmp_path / "audit.yaml", root).startswith(f"{tmp_path}/{expected}")


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            ("notes.txt", "mine"),
            "/root: not a root, because it holds files (notes.txt) but no mad.json; "
            "name an empty or new folder, or an earlier root",
        ),
        (
            ("mad.json", '{"format": 2, "audit": "a"}'),
            "/root/mad.json: written in format 2, this mad reads up to 1; upgrade mad to read it",
        ),
        (("mad.json", '{"format": 1'), "/root/mad.json: cannot be read (the document: Invalid JSON"),
        (
            ("mad.json", "{}"),
            "/root/mad.json: cannot be read (audit: Field required); it is damaged, or written by a newer mad",
        ),
    ],
)
def test_a_folder_that_is_no_root_or_a_newer_one(
    file: tuple[str, str], expected: str, command: str, configure: Configure, root: Path
) -> None:
    root.mkdir()
    name, text = file
    (root / name).write_text(text)
    ended = mad(command, configure())
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint.startswith(f"{root.parent}{expected}")
    assert [path.name for path in root.iterdir()] == [name]
    assert (root / name).read_text() == text


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("below", ["", "/zoo", "/zoo/of/models"])
def test_a_root_at_or_below_a_file(below: str, command: str, configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    ended = mad(command, configure(root=f"{tmp_path}/file{below}"))
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint == f"{tmp_path}/file{below}/mad.json: a part of this path is a file, not a folder"
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_is_a_new_root(configure: Configure, root: Path) -> None:
    root.mkdir()
    assert mad("run", configure(), "--until", "gradients").code == 0
    assert (root / "mad.json").is_file()


def test_a_store_without_exclusive_create(configure: Configure) -> None:
    config = configure(root="forgetful://zoo")
    ended = mad("run", config)
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint.startswith(
        "forgetful://zoo: this store lets a second writer replace a file that must be created only once "
        "(it ignores exclusive create"
    )
    assert "use a store that honours it: a local disk, Amazon S3, Ceph RGW or MinIO" in ended.complaint
    assert not [path for path in ForgetfulFileSystem.store if "/zoo" in path]


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_root_of_an_unknown_protocol(command: str, configure: Configure, root: Path) -> None:
    assert refuse(command, configure(root="s4://zoo"), root).startswith(
        "root s4://zoo: cannot be opened (Protocol not known: s4)"
    )


@pytest.mark.parametrize(
    "sections",
    [{"curvature": {"damping": {"factor": float("inf")}}}, {"run": {"gpus_per_worker": float("inf")}}],
    ids=["damping", "gpus"],
)
def test_a_number_that_is_not_finite(sections: dict[str, JsonValue], configure: Configure, root: Path) -> None:
    refuse("run", configure(**sections), root)


CANNOT_FIT = (
    "the stage curvature would need 0.60 GiB a worker, run.memory_per_worker grants 0.25 GiB "
    "(0.59 GiB of it for Python and torch alone); "
    "lower estimator.projection.rank, or use fewer trusted samples, or grant more"
)


def test_a_plan_that_cannot_fit_is_shown_and_not_run(configure: Configure, root: Path) -> None:
    config = configure(run={"memory_per_worker": "256MiB"})
    planned = mad("plan", config)
    assert (planned.code, planned.err) == (3, "")
    assert f"cannot fit: model digits: {CANNOT_FIT}" in planned.out
    assert "numbers a row" in planned.out
    document = mad("plan", config, "--output", "json")
    assert (document.code, document.document["cannot_fit"]) == (3, {"digits": CANNOT_FIT})
    assert max(section(document.document, "models", "digits", "projected_memory_bytes").values()) > 256 << 20
    ended = mad("run", config)
    assert (ended.code, ended.out, ended.complaint) == (3, "", f"model digits: {CANNOT_FIT}")
    assert not root.exists()


@pytest.mark.parametrize(
    ("rank", "stage", "remedy"),
    [
        (1, "gradients", "lower run.batch_size or run.rows_per_task, or grant more"),
        (16, "curvature", "lower estimator.projection.rank, or use fewer trusted samples, or grant more"),
    ],
)
def test_the_remedy_belongs_to_the_stage_that_needs_most(
    rank: int, stage: str, remedy: str, configure: Configure
) -> None:
    config = configure(run={"memory_per_worker": "600MiB"}, estimator={"projection": {"rank": rank}})
    ended = mad("run", config)
    assert ended.code == 3
    assert f"the stage {stage} would need" in ended.complaint
    assert ended.complaint.endswith(remedy)


def test_without_preprocess_images_go_in_scaled_only_and_the_summary_says_so(
    configure: Configure, inputs: Path
) -> None:
    path = configure()
    raw = yaml.safe_load(path.read_text())
    del raw["data"]["preprocess"]
    path.write_text(yaml.safe_dump(raw))
    ended = mad("run", path, "--output", "json")
    assert ended.code == 0
    assert "data.preprocess is not given: images are only scaled to [0, 1]" in ended.summary["warnings"]
    assert "data.preprocess is not given: images are only scaled to [0, 1]" in mad("run", path).out
    assert not [
        line for line in mad("run", configure(), "--output", "json").summary["warnings"] if "preprocess" in line
    ]
