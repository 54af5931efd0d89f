"""Folders are taken by what they hold, at any depth; what makes no sense is refused with what is there."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.sources import Source, read_ids
from pipeline.errors import SourceError
from tests.pipeline.data.images.files import find, picture

INFO = {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}


def samples(*ids: str) -> pa.Table:
    images = [{"bytes": picture(0), "path": None}] * len(ids)
    table = pa.table({"id": ids, "image": images, "label": [1] * len(ids)})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": INFO})})


SCHEMA = samples("x").schema


def save_to_disk(folder: Path, *shards: Sequence[str]) -> None:
    """As Hugging Face's `Dataset.save_to_disk` does."""
    folder.mkdir(parents=True)
    names = [f"data-{place:05}-of-{len(shards):05}.arrow" for place in range(len(shards))]
    for name, ids in zip(names, shards, strict=True):
        with pa.ipc.new_stream(str(folder / name), SCHEMA) as writer:
            writer.write_table(samples(*ids), max_chunksize=1)
    (folder / "dataset_info.json").write_text(json.dumps(INFO))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))


def ids_of(sources: Sequence[Source]) -> dict[str, list[str | None]]:
    return {source.file.name: [name for ids in read_ids(source) for name in ids] for source in sources}


def test_a_folder_is_its_files_at_any_depth_without_hidden_ones_and_notes(tmp_path: Path) -> None:
    for place in ("day/a/1.parquet", "day/2.PARQUET", "day/.hidden.parquet", "day/_temporary/3.parquet"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(samples(place), tmp_path / place)
    (tmp_path / "day" / "README.md").write_text("read me")
    (tmp_path / "day" / "_SUCCESS").touch()
    sources, _ = find(tmp_path, "audited", "day/")
    assert ids_of(sources) == {"day/2.PARQUET": ["day/2.PARQUET"], "day/a/1.parquet": ["day/a/1.parquet"]}


def test_names_of_folders_are_columns(tmp_path: Path) -> None:
    for label in (3, 4):
        (tmp_path / "all" / f"label={label}").mkdir(parents=True)
        pq.write_table(samples(f"x{label}").drop(["label"]), tmp_path / "all" / f"label={label}" / "part-0.parquet")
    sources, _ = find(tmp_path, "trusted", "all")
    assert [source.constants for source in sources] == [(("label", "3"),), (("label", "4"),)]


def test_a_folder_of_save_to_disk_holds_the_files_that_it_names(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "saved", ["a", "b"], ["c"])
    with pa.ipc.new_stream(str(tmp_path / "saved" / "cache-0f.arrow"), SCHEMA) as writer:
        writer.write_table(samples("cached"))
    sources, _ = find(tmp_path, "trusted", "saved")
    first, second = "saved/data-00000-of-00002.arrow", "saved/data-00001-of-00002.arrow"
    assert ids_of(sources) == {first: ["a", "b"], second: ["c"]}
    assert [source.classes for source in sources] == [{"label": ("cat", "dog")}] * 2
    (tmp_path / second).unlink()
    with pytest.raises(SourceError, match=r"saved: lacks 'data-00001-of-00002\.arrow', which its state\.json names"):
        find(tmp_path, "trusted", "saved")


def test_a_folder_of_several_splits_is_refused_with_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_to_disk(tmp_path / "saved" / split, [split])
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(SourceError, match=r"saved: holds several splits .* you mean: saved/train, saved/test"):
        find(tmp_path, "trusted", "saved")
    assert [*ids_of(find(tmp_path, "trusted", "saved/test")[0]).values()] == [["test"]]


def test_state_files_that_name_no_files_are_refused(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "saved", ["a"])
    state = tmp_path / "saved" / "state.json"
    for document, says in (
        ('{"_data_files": [{"filename": "../secret.arrow"}]}', r"lacks '\.\./secret\.arrow', which its state\.json"),
        ('{"_data_files": 3}', r"saved/state\.json: is damaged; save the data set again"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i"}]}', r"save ds\.flatten_indices\(\) instead"),
    ):
        state.write_text(document)
        with pytest.raises(SourceError, match=says):
            find(tmp_path, "trusted", "saved")


def test_what_a_folder_holds_is_said_where_it_makes_no_sense(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(SourceError, match="x: is a folder without files of samples, it is empty; name a folder of"):
        find(tmp_path, "audited", "x")
    (tmp_path / "x" / "notes.md").touch()
    with pytest.raises(SourceError, match=r"x: is a folder without files of samples, it holds notes\.md; name a"):
        find(tmp_path, "audited", "x")
    pq.write_table(samples("a"), tmp_path / "x" / "a.parquet")
    (tmp_path / "x" / "b.csv").write_text("id\n1\n")
    with pytest.raises(SourceError, match=r"of several kinds, 1 of Parquet and 1 of CSV; name those .*, as x/\*\.parq"):
        find(tmp_path, "audited", "x")
