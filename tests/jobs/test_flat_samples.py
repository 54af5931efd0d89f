"""Samples without a gradient, from planning to pages: an audit of a network whose outputs are constant for some."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config.audit_config import merge
from tests.jobs.command import Ended, Json, mad, published, section, table
from tests.jobs.pictures import STEEP, marked
from tests.jobs.workshop import AUDITED, TRUSTED, SmallInputs, small_config

CONSTANT = '''
"""The demo's classifier, with constant outputs for a blue first pixel; and one that ends in probabilities."""

import torch
from torch import Tensor, nn

from pipeline.demo.network import digit_cnn


class Constant(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        red, blue = (inputs[:, channel, 0, 0] * 0.35 + 0.3 for channel in (0, 2))
        known = torch.arange(10.0).expand(len(inputs), 10)
        return torch.where(((red < 0.01) & (blue > 0.99))[:, None], known, super().forward(inputs))


def build() -> nn.Module:
    return Constant(*digit_cnn())


def probabilities() -> nn.Module:
    return nn.Sequential(*digit_cnn(), nn.Softmax(dim=1))
'''

MARKED = range(0, 40, 4)


@dataclass(frozen=True)
class Place(SmallInputs):
    """A folder of inputs: the small tables, and the network."""

    def write(self, root: Path, trusted: pa.Table, audited: pa.Table, name: str, **model: str) -> Path:
        """The config of an audit of these samples."""
        for split, rows in (("trusted", trusted), ("audited", audited)):
            pq.write_table(rows, self.folder / f"{split}-{name}.parquet")
        data = {"trusted": f"trusted-{name}.parquet", "audited": f"audited-{name}.parquet"}
        raw = merge(small_config(root), {"data": data})
        entry = {"name": "digits", "architecture": "constant.py:build", "weights": "digits.safetensors", **model}
        config = self.folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump({**raw, "models": [entry]}))
        return config


def with_marks(rows: pa.Table, places: range) -> pa.Table:
    """The samples, some with a blue first pixel."""
    samples = rows.to_pylist()
    for place in places:
        samples[place]["image"]["bytes"] = marked(samples[place]["image"]["bytes"], STEEP)
    return pa.Table.from_pylist(samples, schema=rows.schema)


@pytest.fixture(scope="module")
def place(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The inputs."""
    return Place.beside(tmp_path_factory.mktemp("flat"), digits, "constant.py", CONSTANT)


@dataclass(frozen=True)
class Audited:
    """An audit in which ten audited samples have no gradient."""

    root: Path
    config: Path
    ended: Ended
    rows: list[Json]


@pytest.fixture(scope="module")
def audit(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """The audit."""
    root = tmp_path_factory.mktemp("roots") / "root"
    config = place.write(root, place.trusted, with_marks(place.audited, MARKED), "some")
    ended = mad("run", config, "--output", "json")
    return Audited(root, config, ended, table(root, "digits"))


def test_a_flat_sample_keeps_what_the_model_predicts_and_scores_above_all(audit: Audited) -> None:
    assert audit.ended.code == 0
    assert [row["row"] for row in audit.rows if row["status"] == "flat"] == list(MARKED)
    assert all(row["status"] == "ok" for row in audit.rows if row["row"] not in MARKED)
    for row in (audit.rows[place] for place in MARKED):
        assert (row["prediction"], row["score"], row["flagged"]) == (9, float("inf"), True)
        assert row["p_value"] == 1 / 37 and row["confidence"] == pytest.approx(0.632, abs=1e-3)
        assert (row["gradient_norm"], row["leverage"], row["top_trusted"], row["layer_scores"]) == (0, 0, [], [])


def test_the_summary_has_them_as_a_group_of_their_own(audit: Audited) -> None:
    summary = audit.ended.summary
    counts, flat, verdict = (section(summary, name) for name in ("counts", "flat", "verdict"))
    assert (counts["flat"], counts["nonfinite"]) == (10, 0)
    assert (flat["count"], flat["share"], flat["flagged"]) == (10, 10 / AUDITED, 10)
    assert [sample["row"] for sample in flat["samples"]] == list(MARKED)
    assert verdict["value"] == "unusual inputs"
    assert "10 of 60 audited samples (16.7%) have no gradient (status flat)" in " ".join(verdict["reasons"])
    assert all(sample["row"] not in MARKED for sample in summary["top_flagged"])
    evaluation = section(summary, "evaluation")
    assert evaluation["all"]["auroc"] is not None


def test_commands_and_pages_show_them(audit: Audited) -> None:
    listed = mad("report", audit.root, "--top", "3", "--output", "json").summary["top"]
    assert [(row["status"], row["score"]) for row in listed] == [("flat", None)] * 3
    name = str(audit.rows[0]["sample_id"])
    (told,) = mad("explain", audit.root, "--model", "digits", "--sample", name, "--output", "json").document["rows"]
    assert told["score"] is None and "no gradient (status flat)" in told["in_words"]
    page = (audit.root / "report" / "digits.html").read_text()
    assert "Samples without a gradient" in page and "10 flat" in page and name in page


def test_rescored_rows_have_them_too_and_no_difference(audit: Audited, tmp_path: Path) -> None:
    root = Path(shutil.copytree(audit.root, tmp_path / "root"))
    raw = yaml.safe_load(audit.config.read_text())
    config = audit.config.with_name("rescored.yaml")
    config.write_text(yaml.safe_dump({**raw, "root": str(root), "curvature": {"kind": "identity"}}))
    ended = mad("rescore", root, config, "--output", "json")
    assert (ended.code, section(ended.summary, "counts")["flat"]) == (0, 10)
    since = mad("report", root, "--since", str(audit.ended.document["run_id"]), "--output", "json")
    assert since.code == 0 and since.document["since"]
    (files,) = [files for files in published(root, "digits") if str(ended.document["run_id"]) in str(files[0])]
    rows = pq.read_table(files).to_pylist()
    assert [row["row"] for row in rows if row["status"] == "flat" and row["flagged"]] == list(MARKED)


def test_a_trusted_set_that_hides_everything_finds_nothing(place: Place, tmp_path: Path) -> None:
    """Of 36 calibration samples, more than three have no gradient: no p-value can reach 0.1."""
    trusted = with_marks(place.trusted, range(20, TRUSTED, 5))
    config = place.write(tmp_path / "root", trusted, place.audited, "hidden")
    summary = mad("run", config, "--output", "json").summary
    verdict, calibration = section(summary, "verdict"), section(summary, "calibration")
    assert calibration["flat"] + calibration["flat_calibration"] == 20 and calibration["flat_calibration"] > 3
    assert verdict["value"] == "cannot tell"
    assert f"{calibration['flat_calibration']} of 36 calibration samples have no gradient" in verdict["reasons"][0]
    assert any("20 trusted samples have no gradient (status flat)" in line for line in summary["warnings"])


def test_probabilities_are_refused_by_the_plan_and_audited_where_they_are_meant(place: Place, tmp_path: Path) -> None:
    ended = []
    ends_in_softmax = {"architecture": "constant.py:probabilities"}
    for name, own in (
        ("silent", ends_in_softmax),
        ("meant", {**ends_in_softmax, "outputs": "probabilities"}),
        ("logits", {"architecture": "pipeline.demo.network:digit_cnn"}),
    ):
        config = place.write(tmp_path / name, place.trusted, place.audited, name, **own)
        ended.append(mad("run", config, "--output", "json"))
    assert [one.code for one in ended] == [2, 0, 0]
    assert "are probabilities: they lie in [0, 1] and sum to 1" in " ".join(ended[0].err.split())
    meant, logits = (table(tmp_path / name, "digits") for name in ("meant", "logits"))
    for column, tolerance in (("score", 1e-3), ("confidence", 1e-5), ("prediction", 0)):
        assert [row[column] for row in meant] == pytest.approx([row[column] for row in logits], abs=tolerance)
    assert section(ended[1].summary, "settings")["outputs"] == "probabilities"
