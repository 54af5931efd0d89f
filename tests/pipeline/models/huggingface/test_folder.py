"""A Hugging Face folder: which files hold the weights, and what is refused before a library parses anything."""

import json
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.models.huggingface.folder import check_sizes, weight_files


def folder(place: Path, **files: str) -> Path:
    """A folder with a config and these files, whose names have _ for the dot before the ending."""
    for name, text in {"config_json": "{}", **files}.items():
        (place / ".".join(name.rsplit("_", 1))).write_text(text)
    return place


def test_one_file_or_the_shards_of_an_index(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "b.safetensors", "c": "a.safetensors", "d": "b.safetensors"}})
    sharded = folder(tmp_path, a_safetensors="", b_safetensors="")
    (sharded / "model.safetensors.index.json").write_text(index)
    assert [file.name for file in weight_files(sharded, "chat")] == ["a.safetensors", "b.safetensors"]
    (sharded / "model.safetensors").write_text("")
    assert [file.name for file in weight_files(sharded, "chat")] == ["model.safetensors"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (folder(tmp_path) / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    with pytest.raises(SourceError, match=r"names 1 files that are not there: x.safetensors"):
        weight_files(tmp_path, "chat")


def test_no_config_and_no_weights_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"huggingface chat: has no config\.json"):
        weight_files(tmp_path, "chat")
    with pytest.raises(SourceError, match=r"has neither model.safetensors nor .*; files there: config\.json"):
        weight_files(folder(tmp_path), "chat")


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes((100).to_bytes(8, "little"))
    (tmp_path / "bad").write_bytes((1 << 40).to_bytes(8, "little"))
    check_sizes(tmp_path, [tmp_path / "good"], "chat")
    with pytest.raises(
        SourceError, match=r"huggingface chat: bad: .*claims 1,099,511,627,776 bytes, at most 33,554,432"
    ):
        check_sizes(tmp_path, [tmp_path / "good", tmp_path / "bad"], "chat")


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (
            "version https://git-lfs.github.com/spec/v1\n",
            "is a pointer of Git LFS, not the file itself; run git lfs pull",
        ),
        ("<!DOCTYPE html>", "is a web page; the download gave a page instead of the file; download it again"),
        ("", "is empty; was it copied whole[?]"),
    ],
)
def test_a_file_that_holds_no_weights_is_called_what_it_is(tmp_path: Path, held: str, says: str) -> None:
    place = folder(tmp_path, model_safetensors=held)
    with pytest.raises(SourceError, match=rf"^huggingface chat: model\.safetensors {says}$"):
        check_sizes(place, weight_files(place, "chat"), "chat")


def test_links_are_followed_and_one_to_nothing_is_named(tmp_path: Path) -> None:
    """A folder of the hub's cache holds links to blobs beside it."""
    (tmp_path / "snapshot").mkdir()
    place = folder(tmp_path / "snapshot")
    (tmp_path / "blob").touch()
    (place / "model.safetensors").symlink_to("../blob")
    assert weight_files(place, "chat") == [place / "model.safetensors"]
    (tmp_path / "blob").unlink()
    with pytest.raises(
        SourceError, match=r"model\.safetensors is a link to \.\./blob, which is not there; was the folder"
    ):
        weight_files(place, "chat")
