"""The column of images: the bytes of each row, and what is said of other types and of paths without bytes."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.images.column import encoded_images
from pipeline.data.images.decoding import UnreadableImage
from pipeline.data.images.reading import ImageOptions, first_images, read_chosen_images, read_images
from pipeline.errors import SourceError
from tests.pipeline.data.images.files import find, picture, sources_of

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


PATHS: Sequence[dict[str, object]] = [{"bytes": None, "path": f"pictures/{row}.png"} for row in range(3)]


def test_a_file_of_paths_only_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        sources_of(tmp_path, id=list("abc"), image=pa.array(PATHS, STRUCT))
    message = str(caught.value)
    assert "images.parquet: no image of the column 'image' (data.columns.image) has bytes, only a path" in message
    assert 'ds.with_format("arrow").map(embed_table_storage, batched=True).to_parquet(...)' in message


def test_a_file_of_nulls_is_no_file_of_paths(tmp_path: Path) -> None:
    (source,), _ = sources_of(tmp_path, id=["a", "b"], image=pa.array([None, {"bytes": None, "path": None}], STRUCT))
    assert source.rows == 2


def test_a_row_with_a_path_only_says_so(tmp_path: Path) -> None:
    images = pa.array([{"bytes": picture(1), "path": None}, PATHS[1], None, {"bytes": None, "path": None}], STRUCT)
    (source,), _ = sources_of(tmp_path, id=list("abcd"), image=images)
    (batch,) = read_images(source, 0, 4, ImageOptions(4, (2, 3), resize=False))
    assert batch.unreadable == (
        "",
        "the image has no bytes, only the path 'pictures/1.png'; paths are not followed, store its bytes",
        "the image is null",
        "the image is null",
    )
    assert read_chosen_images(source, [0, 1]) == {0: picture(1), 1: None}


def test_paths_in_a_file_without_statistics_are_found_when_samples_are_tried(tmp_path: Path) -> None:
    table = pa.table({"id": list("abc"), "image": pa.array(PATHS, STRUCT)})
    pq.write_table(table, tmp_path / "bare.parquet", write_statistics=False)
    sources, model = find(tmp_path, "trusted", "bare.parquet")
    with pytest.raises(SourceError, match=r"none of its first 3 images can be read.*only the path 'pictures/0.png'"):
        first_images(sources, 1, model.data.preprocess)


def test_a_path_that_would_obey_a_terminal_is_shown_escaped_and_shortened() -> None:
    raw = [b"\x1b]0;owned\x07\n" + b"x" * 500, b"\xff\xfe"]
    struct = pa.StructArray.from_arrays(
        [
            pa.array([None, None], pa.binary()),
            pa.Array.from_buffers(pa.string(), 2, pa.array(raw, pa.binary()).buffers()),
        ],
        ["bytes", "path"],
    )
    for image in encoded_images(struct):
        with pytest.raises(UnreadableImage) as caught:
            image.embedded()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 200


KINDS: dict[str, tuple[pa.Array, str]] = {
    "text": (pa.array(["a.png"]), "if it holds paths, store the bytes of the files; if base64, decode it"),
    "pixels": (pa.array([[[1, 2], [3, 4]]]), "encode each image, for example with PIL.Image.fromarray"),
    "paths": (pa.array([{"path": "a.png"}]), "store the files' bytes in the column"),
}


@pytest.mark.parametrize(("column", "says"), KINDS.values(), ids=KINDS)
def test_a_column_of_another_type_is_refused_with_the_remedy(tmp_path: Path, column: pa.Array, says: str) -> None:
    with pytest.raises(
        SourceError, match=r"expected encoded bytes, or a struct with a field `bytes` of them"
    ) as caught:
        sources_of(tmp_path, id=["a"], image=column)
    assert says in str(caught.value)
