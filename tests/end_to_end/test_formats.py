"""The same samples in other formats: the same scores as from Parquet, and the next night reuses their rows."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import csv
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import nn

from jobs.rendering.plans import plan_document, plan_text
from pipeline.config.audit_config import AuditConfig, merge
from pipeline.config.schema import ModelConfig
from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from tests.audits import audited, gradient_tasks, table

CODE = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
"""

CLASSES = ("cat", "dog", "eel")

Config = Callable[..., AuditConfig]

Change = Callable[[pa.Table], pa.Table]

Write = Callable[[pa.Table, Path], object]


def write_arrow(samples: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(str(path), samples.schema) as writer:
        writer.write_table(samples, max_chunksize=17)


def write_stream(samples: pa.Table, path: Path) -> None:
    compressed = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(path), samples.schema, options=compressed) as writer:
        writer.write_table(samples, max_chunksize=17)


def write_lines(samples: pa.Table, path: Path) -> None:
    path.write_text("\n".join(map(json.dumps, samples.to_pylist())))


def write_csv(delimiter: str) -> Write:
    return lambda samples, path: csv.write_csv(samples, path, csv.WriteOptions(delimiter=delimiter))


FORMATS: dict[str, tuple[str, Write]] = {
    "parquet": (".parquet", pq.write_table),
    "an Arrow file": (".feather", write_arrow),
    "an Arrow stream": (".arrow", write_stream),
    "a file without an ending": ("", write_stream),
    "CSV": (".csv", write_csv(",")),
    "CSV with semicolons": (".csv", write_csv(";")),
    "tabs": (".tsv", write_csv("\t")),
    "JSON lines": (".jsonl", write_lines),
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Audits of a classifier of four numbers, its samples in a file of a format for each split."""
    (tmp_path / "net.py").write_text(CODE)
    rng, torch_rng = np.random.default_rng(0), torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch_rng))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    samples = {}
    for split, count in (("trusted", 120), ("audited", 40)):
        x = rng.normal(size=(count, 4)).astype(np.float32)
        label = net(torch.from_numpy(x)).argmax(1).numpy()
        numbers = {name: x[:, place].astype(np.float64) for place, name in enumerate("abcd")}
        ids = [f'{split} "{row}",\n' for row in range(count)]
        bad = [bool(row % 7 == 0) for row in range(count)]
        samples[split] = pa.table({"id": ids, **numbers, "label": label.astype(np.int64), "anomalous": bad})

    def make(root: str, ending: str, write: Write, change: Change, **data: JsonValue) -> AuditConfig:
        for split, own in samples.items():
            write(change(own), tmp_path / f"{split}{ending}")
        model: JsonValue = {"name": "net", "architecture": "net.py:net", "weights": "net.safetensors"}
        files: JsonValue = {split: f"{split}{ending}" for split in samples}
        raw = merge(
            {"root": root, "task": "classification", "models": [model], "data": files},
            {
                "data": {"columns": {"inputs": {"input": ["a", "b", "c", "d"]}}, **data},
                "estimator": {"rows_dtype": "float32", "projection": {"rank": 8}},
                "calibration": {"target": {"fpr": 0.05}},
                "run": {"rows_per_task": 50, "batch_size": 16},
            },
        )
        return AuditConfig.parse(raw, str(tmp_path))

    return make


def plain(samples: pa.Table) -> pa.Table:
    return samples


def results(audit: Audit) -> list[dict[str, object]]:
    """The published table without what says which file a sample is in."""
    return table(audit, "net").drop(["source"]).to_pylist()


@pytest.fixture
def expected(config: Config) -> list[dict[str, object]]:
    return results(audited(config("parquet", ".parquet", pq.write_table, plain)))


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_samples_have_the_same_scores_in_every_format(
    config: Config, expected: list[dict[str, object]], name: str
) -> None:
    ending, write = FORMATS[name]
    own = config("root", ending, write, plain)
    assert results(audited(own)) == expected
    again = plan_audit(own)
    assert gradient_tasks(audited(own), "net") == 0
    assert [source.rows for source in again.models[0].sources] == [120, 40]
    kind = "Parquet" if name == "parquet" else {"": "Arrow", ".feather": "Arrow", ".arrow": "Arrow"}.get(ending, name)
    kind = "CSV" if ending in (".csv", ".tsv") else kind
    assert plan_document(again)["models"]["net"]["taken_as"] == {f"trusted{ending}": kind, f"audited{ending}": kind}
    says = f"net: taken as {kind}: trusted{ending}, audited{ending}"
    assert (says in plan_text(again)) == (kind != "Parquet")


def with_labels(samples: pa.Table, labels: list[object]) -> pa.Table:
    return samples.set_column(samples.schema.get_field_index("label"), "label", [labels])


def named(samples: pa.Table) -> pa.Table:
    """With the names of classes as labels."""
    return with_labels(samples, [CLASSES[label] for label in samples.column("label").to_pylist()])


def featured(*order: str) -> Callable[[pa.Table], pa.Table]:
    """With labels that stand for the classes in another order, as Hugging Face datasets say so."""

    def change(samples: pa.Table) -> pa.Table:
        labels = [order.index(CLASSES[label]) for label in samples.column("label").to_pylist()]
        features = {"label": {"names": [*order], "_type": "ClassLabel"}, "id": {"dtype": "string", "_type": "Value"}}
        known = {"huggingface": json.dumps({"info": {"features": features}})}
        return with_labels(samples, labels).replace_schema_metadata(known)

    return change


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_labels_that_are_names_mean_the_classes_of_these_names(
    config: Config, expected: list[dict[str, object]], ending: str
) -> None:
    write = next(write for known, write in FORMATS.values() if known == ending)
    assert results(audited(config("root", ending, write, named, labels=[*CLASSES]))) == expected


def test_other_names_for_the_classes_filter_other_references(config: Config, expected: list[dict[str, object]]) -> None:
    own = config("root", ".parquet", pq.write_table, named, labels=["dog", "cat", "eel"])
    audit = audited(own)
    assert results(audit) != expected
    right = config("root", ".parquet", pq.write_table, named, labels=[*CLASSES])
    assert results(audited(right)) == expected
    assert gradient_tasks(audited(right), "net") == 0


@pytest.mark.parametrize("order", [("cat", "dog", "eel"), ("eel", "cat", "dog")])
def test_integers_are_the_classes_that_a_data_set_names(
    config: Config, expected: list[dict[str, object]], order: tuple[str, ...]
) -> None:
    own = config("root", ".arrow", write_stream, featured(*order), labels=[*CLASSES])
    assert results(audited(own)) == expected


def test_a_classifier_without_names_has_those_of_its_trusted_set(
    config: Config, expected: list[dict[str, object]], tmp_path: Path
) -> None:
    own = config("root", ".parquet", pq.write_table, featured(*CLASSES))
    samples = pq.read_table(tmp_path / "audited.parquet")
    pq.write_table(featured("eel", "cat", "dog")(samples), tmp_path / "audited.parquet")
    assert results(audited(own)) == expected


NAMES: dict[str, tuple[list[str], str]] = {
    "none": ([], r"'label' \(data\.columns\.label\) holds names, and neither .*; list the names in data\.labels"),
    "another": (["cat", "dog", "owl"], r"row \d+ holds 'eel', which no class is called; classes: cat, dog, owl; corr"),
    "too many": (
        [*CLASSES, "owl"],
        r"of which there are 4 \(.*, owl\), and the model has 3 classes; list the name of each in",
    ),
    "one twice": (["cat", "dog", "dog"], "data.labels names the class 'dog' twice"),
}


@pytest.mark.parametrize(("labels", "says"), NAMES.values(), ids=NAMES)
def test_names_that_no_class_has_are_refused_with_those_there_are(config: Config, labels: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan_audit(config("root", ".jsonl", write_lines, named, labels=labels))


def test_an_audited_file_with_the_name_of_no_class_is_left_out(config: Config, tmp_path: Path) -> None:
    own = config("root", ".jsonl", write_lines, named, labels=[*CLASSES], audited="audited*.jsonl")
    (tmp_path / "audited-2.jsonl").write_text('{"id": "x", "a": 1, "b": 1, "c": 1, "d": 1, "label": "owl"}')
    (model,) = plan_audit(own).models
    assert [source.file.name for source in model.audited] == ["audited.jsonl"]
    assert "row 0 holds 'owl', which no class is called" in model.refused_files["audited-2.jsonl"]


def test_columns_of_audited_files_may_be_called_otherwise(
    config: Config, expected: list[dict[str, object]], tmp_path: Path
) -> None:
    other = {"inputs": {"input": ["p", "q", "r", "s"]}, "id": "key", "label": "class"}
    columns: JsonValue = {"inputs": {"input": ["a", "b", "c", "d"]}, "audited": other}
    own = config("root", ".csv", write_csv(","), plain, columns=columns)
    samples = csv.read_csv(tmp_path / "audited.csv", parse_options=csv.ParseOptions(newlines_in_values=True))
    csv.write_csv(samples.rename_columns(["key", *"pqrs", "class", "anomalous"]), tmp_path / "audited.csv")
    audit = audited(own)
    assert results(audit) == expected
    recorded = ModelConfig.model_validate(own.models[0].model_dump(mode="json")).data.columns
    assert [recorded.of(split) for split in ("trusted", "audited")] == [
        own.models[0].data.columns.of(split) for split in ("trusted", "audited")
    ]
    assert gradient_tasks(audited(own), "net") == 0


def test_without_a_column_of_ids_samples_are_called_by_file_and_row(config: Config) -> None:
    audit = audited(config("root", ".csv", write_csv(","), lambda samples: samples.drop(["id"])))
    ids = [row["sample_id"] for row in table(audit, "net").to_pylist()]
    assert ids == [f"audited.csv#{row}" for row in range(40)]
    top = [one for row in table(audit, "net").to_pylist() for one in row["top_trusted"]]
    assert {one["sample_id"].split("#")[0] for one in top} == {"trusted.csv"}
    columns: JsonValue = {"id": "id", "inputs": {"input": ["a", "b", "c", "d"]}}
    insisting = config("other", ".csv", write_csv(","), lambda samples: samples.drop(["id"]), columns=columns)
    with pytest.raises(ConfigError, match=r"has no column 'id' \(data\.columns\.id\); columns there: a "):
        plan_audit(insisting)
