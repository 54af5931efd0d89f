"""Input that looks right until it is used: damaged pages, a file in both splits, code with side effects."""

import os
import sys
from pathlib import Path

import pytest
from pydantic import JsonValue

from tests.jobs.command import Json, mad, section, table
from tests.jobs.conftest import Configure
from tests.jobs.test_bad_input import refuse, with_model
from tests.jobs.workshop import AUDITED, MARKER


def test_a_file_whose_images_are_damaged_costs_its_rows_only(configure: Configure, root: Path) -> None:
    bad = "audited-damaged-image.parquet"
    ended = mad("run", configure(data={"audited": ["audited.parquet", bad]}), "--output", "json")
    assert ended.code == 1
    rows = table(root, "digits")
    assert [row["status"] for row in rows[:AUDITED]] == ["ok"] * AUDITED
    lost = rows[AUDITED:]
    assert {str(row["status"]).partition(":")[0] for row in lost} == {"failed"}
    assert "Corrupt snappy compressed data" in str(lost[0]["status"])
    assert [(row["source"], row["row"]) for row in lost] == [(bad, number) for number in range(AUDITED)]
    assert {(row["flagged"], row["score"], row["p_value"], row["q_value"], row["prediction"]) for row in lost} == {
        (False, None, None, None, -1)
    }
    assert section(ended.summary, "counts")["failed"] == AUDITED
    assert (
        "task given up, tried again by the next run"
        in mad("run", configure(data={"audited": ["audited.parquet", bad]})).out
    )


def test_a_file_whose_ids_are_damaged_leaves_the_others_audited(configure: Configure, root: Path) -> None:
    ended = mad(
        "run", configure(data={"audited": ["audited.parquet", "audited-damaged-id.parquet"]}), "--output", "json"
    )
    assert ended.code == 1
    assert [row["status"] for row in table(root, "digits") if row["source"] == "audited.parquet"] == ["ok"] * AUDITED


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_trusted_file_whose_ids_are_damaged(command: str, configure: Configure, root: Path) -> None:
    complaint = refuse(command, configure(data={"trusted": "trusted-damaged-id.parquet"}), root)
    assert complaint.startswith("model digits: ")
    assert "trusted-damaged-id.parquet" in complaint


@pytest.mark.parametrize("command", ["plan", "run"])
def test_two_columns_of_one_name(command: str, configure: Configure, root: Path) -> None:
    assert "twins.parquet" in refuse(command, configure(data={"audited": "twins.parquet"}), root)


@pytest.mark.parametrize(
    ("trusted", "audited"),
    [("audited.parquet", ["audited.parquet"]), ("trusted.parquet", ["audited.parquet", "./trusted.parquet"])],
    ids=["with truth", "spelt otherwise"],
)
def test_a_file_of_both_splits(trusted: str, audited: list[JsonValue], configure: Configure, root: Path) -> None:
    ended = mad(
        "run",
        configure(data={"trusted": trusted, "audited": audited}, calibration={"target": {"fpr": 0.2}}),
        "--output",
        "json",
    )
    assert ended.code == 0
    assert [row["status"] for row in table(root, "digits")] == ["ok"] * int(
        str(section(ended.summary, "counts")["audited"])
    )
    assert [line for line in ended.summary["warnings"] if "share their id with a trusted one" in str(line)]


@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_architecture_that_leaves_python(command: str, configure: Configure, root: Path) -> None:
    complaint = refuse(command, configure(models=with_model({"architecture": "leaving.py:build"})), root)
    assert complaint.startswith("model digits: architecture leaving.py: importing it")


def test_an_architecture_that_prints_leaves_stdout_alone(configure: Configure) -> None:
    ended = mad(
        "run",
        configure(models=with_model({"architecture": "talking.py:build"})),
        "--until",
        "gradients",
        "--output",
        "json",
    )
    assert ended.code == 0
    assert list(section(ended.document, "models")) == ["digits"]
    assert "loading the network" in ended.err


def test_an_architecture_with_a_dataclass_and_postponed_annotations(configure: Configure) -> None:
    assert mad("plan", configure(models=with_model({"architecture": "dataclass.py:build"}))).code == 0


def test_a_plan_leaves_no_bytecode_beside_the_code(
    configure: Configure, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (inputs / "plain.py").write_text(
        "from pipeline.demo.network import digit_cnn\n\n\ndef build():\n    return digit_cnn()\n"
    )
    assert mad("plan", configure(models=with_model({"architecture": "plain.py:build"}))).code == 0
    assert not (inputs / "__pycache__").exists()


def test_the_code_that_runs_is_the_code_whose_digest_is_recorded(
    configure: Configure, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    digests = []
    for width in (16, 99):
        code = inputs / "changing.py"
        code.write_text(
            f"from pipeline.demo.network import digit_cnn\n\n\ndef build():\n    return digit_cnn({width})\n"
        )
        os.utime(code, (1_800_000_000, 1_800_000_000))
        ended = mad("plan", configure(models=with_model({"architecture": "changing.py:build"})), "--output", "json")
        digests.append(section(ended.document, "models", "digits")["digest"] if ended.code == 0 else "does not fit")
    assert digests[1] == "does not fit"


UNCLEAR: dict[str, tuple[Json, str]] = {
    "a page instead of weights": ({"weights": "page.pt"}, "weights page.pt: is a web page; the download gave a page"),
    "a value instead of a function": (
        {"architecture": "raising.py:layers"},
        "'layers' in raising.py is not a function, but of type int",
    ),
}


@pytest.mark.parametrize(("own", "expected"), UNCLEAR.values(), ids=UNCLEAR)
def test_the_reason_is_the_right_one(own: Json, expected: str, configure: Configure, root: Path) -> None:
    assert expected in refuse("plan", configure(models=with_model(own)), root)


def test_a_pickle_of_a_recent_protocol_is_refused_like_any_other(
    configure: Configure, inputs: Path, root: Path
) -> None:
    complaint = refuse("run", configure(models=with_model({"weights": "recent-trap.pth"})), root)
    assert "weights recent-trap.pth: refused, because it is a full pickle" in complaint
    assert not (inputs / MARKER).exists()
