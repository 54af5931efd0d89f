"""Models and files that cannot be audited: alone they are refused with nothing written; among others, left out."""

from pathlib import Path

import pytest
from pydantic import JsonValue

from pipeline.config.audit_config import merge
from tests.jobs.command import Json, mad, published, section, table
from tests.jobs.conftest import Configure
from tests.jobs.workshop import AUDITED, MARKER, small_config

REFUSED: dict[str, tuple[Json, tuple[str, ...]]] = {
    "no trusted file": (
        {"data": {"trusted": "none.parquet"}},
        ("data.trusted: no usable file", "none.parquet: no such file"),
    ),
    "no audited file": (
        {"data": {"audited": ["none.parquet"]}},
        ("data.audited: no usable file", "none.parquet: no such file"),
    ),
    "an empty glob": (
        {"data": {"audited": "night/*.parquet"}},
        ("data.audited", "night/*.parquet: no file matches this glob", "/night/*.parquet)"),
    ),
    "a file named twice": (
        {"data": {"audited": ["audited.parquet", "audite?.parquet"]}},
        ("data.audited names audited.parquet twice",),
    ),
    "no trusted rows": ({"data": {"trusted": "empty.parquet"}}, ("data.trusted", "empty.parquet: has no rows")),
    "no audited rows": ({"data": {"audited": "empty.parquet"}}, ("data.audited", "empty.parquet: has no rows")),
    "not Parquet": (
        {"data": {"audited": "not-parquet.parquet"}},
        ("not-parquet.parquet: not a readable Parquet file",),
    ),
    "a folder of notes": (
        {"data": {"audited": "notes"}},
        ("notes: is a folder without files of samples, it holds read.md; name a folder of images",),
    ),
    "no such column": (
        {"data": {"columns": {"image": "picture"}}},
        (
            "trusted.parquet: has no column 'picture' (data.columns.image)",
            "columns there: id (string), image (struct<bytes: binary",
            "label (int64)",
        ),
    ),
    "no such label": (
        {"data": {"columns": {"label": "digit"}}},
        ("trusted.parquet: has no column 'digit' (data.columns.label)", "columns there: id (string)"),
    ),
    "no such truth": (
        {"data": {"columns": {"anomalous": "bad"}}},
        ("audited.parquet: has no column 'bad' (data.columns.anomalous)", "anomalous (bool)"),
    ),
    "images as text": (
        {"data": {"audited": "text.parquet"}},
        (
            "text.parquet: the column 'image' (data.columns.image) is string, "
            "expected encoded bytes, or a struct with a field `bytes`",
            "columns there: id (string)",
        ),
    ),
    "ids as decimals": (
        {"data": {"trusted": "decimal.parquet"}},
        (
            "decimal.parquet: row 0 of the column 'id' (data.columns.id) holds 0.5, which is no whole number; "
            "expected a string or an integer",
        ),
    ),
    "repeated ids": (
        {"data": {"trusted": "repeated.parquet"}},
        ("data.trusted: 5 repeated ids among 125 samples", "'trusted-0000', 'trusted-0001', 'trusted-0002'"),
    ),
    "weights of another width": (
        {"kwargs": {"width": 8}},
        (
            "weights digits.safetensors do not fit",
            "kwargs {'width': 8}",
            "of another shape: 0.weight ((16, 3, 3, 3) in the file, (8, 3, 3, 3) in the architecture)",
            ", ...",
        ),
    ),
    "weights of other names": (
        {"weights": "renamed.safetensors"},
        (
            "weights renamed.safetensors do not fit",
            "2 missing in the file: 0.weight, 8.bias",
            "1 unknown to the architecture: stem.weight",
        ),
    ),
    "no weights": ({"weights": "none.safetensors"}, ("none.safetensors: no such file",)),
    "weights that are text": (
        {"weights": "not-tensors.safetensors"},
        ("weights not-tensors.safetensors: not a readable safetensors file",),
    ),
    "weights of another kind": (
        {"weights": "audited.parquet"},
        ("weights audited.parquet: is a table of Parquet, data and not weights; name the weights",),
    ),
    "a list as weights": (
        {"weights": "list.pt"},
        ("weights list.pt: holds no state dict, which is a mapping of parameter names to tensors",),
    ),
    "a full pickle": (
        {"weights": "full.pt"},
        ("weights full.pt: refused, because it is a full pickle", "save the state dict alone", "safetensors"),
    ),
    "a trap": (
        {"weights": "trap.pt"},
        ("weights trap.pt: refused, because it is a full pickle, and loading one runs whatever code it holds",),
    ),
    "a bare trap": ({"weights": "bare-trap.pth"}, ("weights bare-trap.pth: refused, because it is a full pickle",)),
    "no package": (
        {"architecture": "zoo.nets:build"},
        ("architecture zoo.nets: importing it", "is it installed", "No module named 'zoo'"),
    ),
    "no code": ({"architecture": "nets.py:build"}, ("architecture nets.py: no such file (/", "/nets.py)")),
    "no function": (
        {"architecture": "pipeline.demo.network:digit_cn"},
        ("has no function 'digit_cn'; did you mean 'digit_cnn'?",),
    ),
    "no function in a file": (
        {"architecture": "raising.py:biuld"},
        ("raising.py has no function 'biuld'; did you mean 'build'?",),
    ),
    "no name of a function": (
        {"architecture": "raising.py"},
        ("architecture raising.py: expected file.py:function or package.module:function",),
    ),
    "raises": (
        {"architecture": "raising.py:build"},
        ("architecture raising.py:build: failed with RuntimeError: no such width",),
    ),
    "raises when imported": (
        {"architecture": "importing.py:build"},
        ("architecture importing.py: importing it", "No module named 'a_package_that_nobody_has'"),
    ),
    "no Python": (
        {"architecture": "invalid.py:build"},
        ("architecture invalid.py: importing it", "SyntaxError", "line 1"),
    ),
    "no module": (
        {"architecture": "raising.py:number"},
        ("architecture raising.py:number: returned an object of type int, not a torch.nn.Module",),
    ),
    "unknown kwargs": (
        {"kwargs": {"depth": 3}},
        ("architecture pipeline.demo.network:digit_cnn: failed with TypeError", "unexpected keyword argument 'depth'"),
    ),
    "no logits": (
        {"architecture": "tuples.py:build"},
        ("architecture tuples.py:build: expected logits (samples, classes) from a forward pass", "of type tuple"),
    ),
    "no such layer": (
        {"estimator": {"layers": ["conv*"]}},
        ("conv*: this pattern matches no layer; layers here: 0, 2, 5, 8",),
    ),
    "no layer left": (
        {"estimator": {"layers": ["*", "!*"]}},
        ("* !*: these patterns together exclude every layer; layers here: 0, 2, 5, 8",),
    ),
    "a target out of reach": (
        {"calibration": {"target": {"fpr": 0.001}}},
        (
            "calibration: the target 0.001 is out of reach",
            "36 calibration samples (of 120 trusted)",
            "1/37 = 0.027",
            "needs at least 999 calibration samples",
            "add trusted",
        ),
    ),
}


CASES = {name: pytest.param(own, parts, id=name) for name, (own, parts) in REFUSED.items()}


def with_model(own: Json) -> list[JsonValue]:
    """The small audit's model, with keys and sections of its own merged over it."""
    (model,) = small_config(Path())["models"]
    return [merge(model, own)]


def refuse(command: str, config: Path, root: Path) -> str:
    """Runs a command that must be refused before it writes anything; returns its complaint."""
    before = {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")}
    ended = mad(command, config)
    assert (ended.code, ended.out) == (2, "")
    assert not root.exists()
    assert {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")} == before
    return ended.complaint


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(("own", "parts"), CASES.values())
def test_the_only_model_cannot_be_audited(
    own: Json, parts: tuple[str, ...], command: str, configure: Configure, root: Path
) -> None:
    complaint = refuse(command, configure(models=with_model(own)), root)
    assert complaint.startswith("model digits: ")
    assert [part for part in parts if part not in complaint] == []


def test_no_pickle_was_executed(configure: Configure, inputs: Path, root: Path) -> None:
    for weights in ("trap.pt", "bare-trap.pth", "full.pt"):
        refuse("run", configure(models=with_model({"weights": weights})), root)
    assert not (inputs / MARKER).exists()


def test_a_state_dict_of_torch_is_as_good_as_safetensors(configure: Configure, tmp_path: Path) -> None:
    scores = []
    for number, weights in enumerate(("digits.safetensors", "state.pt")):
        root = tmp_path / f"root{number}"
        assert mad("run", configure(root=str(root), models=with_model({"weights": weights}))).code == 0
        scores.append([row["score"] for row in table(root, "digits")])
    assert len(scores[0]) == AUDITED
    assert scores[0] == scores[1]


@pytest.fixture
def zoo(configure: Configure, root: Path) -> tuple[Path, Path]:
    """A config of every bad model and one good one, and its root."""
    bad = [{**with_model(own)[0], "name": f"bad-{number}"} for number, (own, _) in enumerate(REFUSED.values())]
    return configure(models=[*bad, *with_model({"name": "good"})]), root


def check_failures(failures: Json) -> None:
    assert list(failures) == [f"bad-{number}" for number in range(len(REFUSED))]
    for reason, (_, parts) in zip(failures.values(), REFUSED.values(), strict=True):
        assert [part for part in parts if part not in str(reason)] == []


def test_the_good_model_of_a_zoo_is_audited_and_each_bad_one_named(zoo: tuple[Path, Path]) -> None:
    config, root = zoo
    first = mad("run", config, "--output", "json")
    assert first.code == 1
    check_failures(section(first.document, "failures"))
    assert list(section(first.document, "models")) == ["good"]
    assert [row["status"] for row in table(root, "good")] == ["ok"] * AUDITED
    assert not [path for path in root.iterdir() if path.name.startswith("bad")]
    again = mad("run", config)
    assert again.code == 1
    assert "\nbad-0: FAILED: data.trusted: no usable file; none.parquet: no such file" in again.out
    assert again.out.count(": FAILED: ") == len(REFUSED)
    for run in section(mad("status", root, "--output", "json").document)["runs"]:
        assert run["state"] == "completed, with failures"
        check_failures(run["failures"])


def test_the_plan_of_a_zoo_shows_the_good_model_and_names_each_bad_one(zoo: tuple[Path, Path]) -> None:
    config, root = zoo
    ended = mad("plan", config, "--output", "json")
    assert ended.code == 1
    check_failures(section(ended.document, "refused"))
    assert list(section(ended.document, "models")) == ["good"]
    text = mad("plan", config)
    assert text.code == 1
    assert "bad-0: cannot be audited: data.trusted: no usable file; none.parquet: no such file" in text.out
    assert not root.exists()


BAD_FILES = {
    "missing": ("none.parquet", "none.parquet: no such file"),
    "an empty glob": ("night/*.parquet", "night/*.parquet: no file matches this glob"),
    "of another type": ("text.parquet", "text.parquet: the column 'image' (data.columns.image) is string"),
    "not Parquet": ("not-parquet.parquet", "not-parquet.parquet: not a readable Parquet file"),
}


@pytest.mark.parametrize(("file", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_one_of_two_audited_files_is_bad(file: str, reason: str, configure: Configure, root: Path) -> None:
    config = configure(data={"audited": [file, "audited.parquet"]})
    planned = mad("plan", config)
    assert planned.code == 1
    assert f"digits: file left out: {reason}" in planned.out
    ended = mad("run", config, "--output", "json")
    assert ended.code == 1
    refused = section(ended.summary, "files", "refused")
    assert list(refused) == [file]
    assert reason in str(refused[file])
    assert any(reason in warning for warning in ended.summary["warnings"])
    assert [row["source"] for row in table(root, "digits")] == ["audited.parquet"] * AUDITED
    assert reason in mad("run", config).out


def test_a_file_without_rows_beside_others_is_no_failure(configure: Configure) -> None:
    planned = mad("plan", configure(data={"audited": ["empty.parquet", "audited.parquet"]}))
    assert planned.code == 0
    assert "file left out" not in planned.out


def test_one_of_two_trusted_files_is_bad(configure: Configure, root: Path) -> None:
    complaint = refuse("run", configure(data={"trusted": ["trusted.parquet", "none.parquet"]}), root)
    assert "none.parquet: no such file" in complaint
    assert published(root, "digits") == []
