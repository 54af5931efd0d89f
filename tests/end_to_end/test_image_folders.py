"""Images in folders that are called as their classes: the scores of the same images in Parquet, a chunk at a time."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig, merge
from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from tests.audits import audited, demo_config, gradient_tasks, table
from tests.services import BUCKET, Service

Rows = dict[str, tuple[float, ...]]

DIGITS = [str(digit) for digit in range(10)]


def write_folder(samples: pa.Table, folder: Path, ids: list[str]) -> None:
    """The images of a table in files, with these paths in a folder."""
    for path, image in zip(ids, samples.column("image").to_pylist(), strict=True):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(image["bytes"])


@pytest.fixture
def folders(digits: Path, tmp_path: Path) -> Path:
    """The demo's images in folders by their labels, and in Parquet with the paths as ids and in their order."""
    for split in ("trusted", "audited"):
        samples = pq.read_table(digits / f"{split}.parquet")
        labels = samples.column("label").to_pylist() if "label" in samples.column_names else [0] * len(samples)
        ids = [f"{label}/{row:03}.png" for row, label in enumerate(labels)]
        write_folder(samples, tmp_path / split, ids)
        own = pa.table({"id": ids, "image": samples.column("image"), "label": labels})
        pq.write_table(own.sort_by("id"), tmp_path / f"{split}.parquet")
    shutil.copy(digits / "digits.safetensors", tmp_path)
    return tmp_path


def close(found: Rows, expected: Rows) -> bool:
    """Whether the same samples have the same scores, up to the batches that they were in."""
    alike = [found[name] == pytest.approx(expected[name], rel=1e-5) for name in expected]
    return set(found) == set(expected) and all(alike)


@pytest.fixture
def config(folders: Path) -> Callable[..., AuditConfig]:
    def make(root: str, trusted: str, audited: str, **data: JsonValue) -> AuditConfig:
        files: JsonValue = {"trusted": trusted, "audited": audited, **data}
        raw = merge(
            demo_config(folders / root),
            {"data": files, "run": {"rows_per_task": 100}, "calibration": {"target": {"fpr": 0.05}}},
        )
        return AuditConfig.parse(raw, str(folders))

    return make


def by_id(audit: Audit) -> Rows:
    rows = table(audit).to_pylist()
    return {row["sample_id"]: (row["score"], row["p_value"], row["prediction"], row["status"] == "ok") for row in rows}


def test_images_in_folders_have_the_scores_of_those_in_parquet(
    config: Callable[..., AuditConfig], folders: Path
) -> None:
    expected = by_id(audited(config("parquet", "trusted.parquet", "audited.parquet")))
    own = config("root", "trusted", "audited")
    audit = audited(own)
    assert close(by_id(audit), expected)
    (model,) = plan_audit(own).models
    assert {source.taken_as for source in model.sources} == {"images"}
    assert model.class_names == tuple(DIGITS)
    assert sum(source.rows for source in model.audited) == len(expected)
    assert gradient_tasks(audited(own)) == 0


def write_tar(samples: pa.Table, path: Path, ids: list[str], labels: list[int]) -> None:
    """The images of a table as WebDataset has them, the labels beside them."""
    with tarfile.open(path, "w") as archive:
        for name, image, label in zip(ids, samples.column("image").to_pylist(), labels, strict=True):
            for ending, data in (("png", image["bytes"]), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{name.removesuffix('.png')}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def write_saved(samples: pa.Table, folder: Path, ids: list[str], labels: list[int]) -> None:
    """The table as Hugging Face's `save_to_disk` has it."""
    folder.mkdir()
    features = {"label": {"names": DIGITS, "_type": "ClassLabel"}}
    own = pa.table(
        {"id": [name.removesuffix(".png") for name in ids], "image": samples.column("image"), "label": labels}
    )
    own = own.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), own.schema) as writer:
        writer.write_table(own, max_chunksize=100)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')


@pytest.mark.parametrize(("ending", "write"), [(".tar", write_tar), ("-saved", write_saved)])
def test_images_in_archives_and_saved_data_sets_have_the_scores_of_those_in_parquet(
    config: Callable[..., AuditConfig],
    folders: Path,
    ending: str,
    write: Callable[[pa.Table, Path, list[str], list[int]], None],
) -> None:
    for split in ("trusted", "audited"):
        samples = pq.read_table(folders / f"{split}.parquet")
        ids, labels = samples.column("id").to_pylist(), samples.column("label").to_pylist()
        write(samples, folders / f"{split}{ending}", ids, labels)
        names = pa.array([name.removesuffix(".png") for name in ids])
        pq.write_table(samples.set_column(0, "id", names), folders / f"{split}.parquet")
    columns: JsonValue = {"id": "__key__" if ending == ".tar" else "id"}
    expected = by_id(audited(config("parquet", "trusted.parquet", "audited.parquet")))
    own = config("root", f"trusted{ending}", f"audited{ending}", columns=columns)
    assert by_id(audited(own)) == expected
    assert gradient_tasks(audited(own)) == 0


def test_a_new_image_costs_its_chunk_alone_and_a_bad_one_its_row(
    config: Callable[..., AuditConfig], folders: Path
) -> None:
    samples = pq.read_table(folders / "audited.parquet")
    many = pa.concat_tables([samples] * 2)
    write_folder(many, folders / "audited", [f"0/more-{row:04}.png" for row in range(len(many))])
    own = config("root", "trusted", "audited")
    audited(own)
    parts = len(plan_audit(own).models[0].audited)
    assert parts > 1
    (folders / "audited" / "0" / "more-0500x.png").write_bytes(b"no image")
    (model,) = plan_audit(own).models
    before = {source.key for source in plan_audit(own).models[0].audited}
    audit = audited(own)
    assert len(before) == parts
    assert 0 < gradient_tasks(audit) < len(list(model.tasks_of(model.audited)))
    status = {row["sample_id"]: row["status"] for row in table(audit).to_pylist()}
    assert status["0/more-0500x.png"] == "unreadable: not an image"
    assert sum(one == "ok" for one in status.values()) == 3 * len(samples)


def test_a_file_that_may_not_be_read_or_is_too_large_costs_its_row(
    config: Callable[..., AuditConfig], folders: Path
) -> None:
    with (folders / "audited" / "0" / "large.png").open("wb") as file:
        file.truncate(300 << 20)
    audit = audited(config("root", "trusted", "audited"))
    status = {row["sample_id"]: row["status"] for row in table(audit).to_pylist()}
    assert status["0/large.png"] == "unreadable: the file has 300 MiB, at most 256 are read"


def test_folders_are_classes_by_name(config: Callable[..., AuditConfig], folders: Path) -> None:
    expected = by_id(audited(config("right", "trusted", "audited", labels=DIGITS)))
    others = by_id(audited(config("wrong", "trusted", "audited", labels=[*DIGITS[1:], "0"])))
    assert set(others) == set(expected)
    assert others != expected
    shutil.rmtree(folders / "trusted" / "9")
    with pytest.raises(ConfigError, match=r"labels are names, of which there are 9 \(0, .*, 8\), and the model has 10"):
        plan_audit(config("root", "trusted", "audited"))


def test_a_folder_of_splits_and_a_single_image_are_refused(config: Callable[..., AuditConfig], folders: Path) -> None:
    (folders / "all").mkdir()
    shutil.move(folders / "trusted", folders / "all" / "train")
    shutil.move(folders / "audited", folders / "all" / "test")
    with pytest.raises(ConfigError, match=r"all: holds several splits of a data set; .*: all/test, all/train"):
        plan_audit(config("root", "all", "all/test"))
    with pytest.raises(ConfigError, match=r"000\.png: is called like an image; name the folder"):
        plan_audit(config("root", "all/train/*/000.png", "all/test"))


def test_folders_of_images_are_read_from_a_store(
    config: Callable[..., AuditConfig], folders: Path, on_moto: Service
) -> None:
    store = Storage(f"s3://{BUCKET}/pictures")
    small = {}
    for split, count in (("trusted", 60), ("audited", 20)):
        paths = sorted(path for path in (folders / split).rglob("*.png"))
        for path in paths[:: len(paths) // count]:
            name = f"{split}/{path.relative_to(folders / split)}"
            store.upload(name, path)
            small[name] = path
    for name, path in small.items():
        (folders / "small" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folders / "small" / name)
    local = by_id(audited(config("local", "small/trusted", "small/audited")))
    remote = config("remote", f"{store.url}/trusted", f"{store.url}/audited")
    audit = audited(remote)
    assert close(by_id(audit), local)
    assert gradient_tasks(audited(remote)) == 0
