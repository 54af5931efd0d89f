"""Committed parts: the name of a part as a task of a later stage."""

from dataclasses import replace

from pipeline.artifacts.parts import RowsPart
from pipeline.keys import key_of

PART = RowsPart("a.parquet", "key", 5, 1200, "folder", "content")


def test_a_name_is_the_range_and_a_digest_of_content_and_source() -> None:
    assert PART.name == f"000000000005-000000001200-{key_of(content='content', source='a.parquet')[:16]}"


def test_other_content_or_another_source_is_another_task_and_another_folder_is_not() -> None:
    names = {replace(PART, content="other").name, replace(PART, source="b.parquet").name, PART.name}
    assert len(names) == 3
    assert replace(PART, folder="moved", source_key="other").name == PART.name
