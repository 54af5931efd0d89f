"""The config's parser against input that no person would write: a config, or a short ConfigError, and soon."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.config.sections import Raw
from pipeline.errors import ConfigError
from tests.pipeline.config.configs import MINIMAL, MODEL
from tests.pipeline.config.test_safe_yaml import laughs
from tests.strategies import LAW

FULL: Raw = {
    **MINIMAL,
    "models": [
        {**MODEL, "kwargs": {"width": 16, "act": {"name": "relu"}}},
        {**MODEL, "name": "other", "score": {"kind": "leverage"}},
    ],
    "estimator": {
        "kind": "gradient",
        "measurement": "auto",
        "layers": ["*"],
        "projection": {"kind": "rademacher", "rank": 16, "seed": 0},
    },
    "curvature": {"kind": "block_moment", "damping": {"kind": "relative_mean", "factor": 1.0}},
    "score": {"kind": "auto", "layers": "auto", "q": "auto"},
    "calibration": {"fraction": 0.3, "seed": 0, "target": {"fpr": 0.01}},
    "run": {"rows_per_task": 8192, "batch_size": 256, "workers": 2, "memory_per_worker": "4GiB"},
}


KEYS = [
    *FULL,
    *MODEL,
    "kind",
    "data",
    "trusted",
    "columns",
    "huggingface",
    "kwargs",
    "layers",
    "target",
    "fpr",
    "review",
    "<<",
]


HOSTILE = (
    "\x1b[2J",
    "a\0b",
    "../x",
    "net\n",
    "\u0661",
    "x" * 5000,
    "1e999",
    ".nan",
    "s3://key:secret@bucket/x",
    "null",
    "\ud800",
)


numbers = st.integers() | st.integers(-(10**4000), 10**4000) | st.floats()


values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=10) | st.sampled_from(HOSTILE) | st.sampled_from(KEYS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def accept_or_refuse(raw: Raw) -> None:
    """Parses; a refusal is one paragraph of bounded length."""
    try:
        AuditConfig.parse(raw)
    except ConfigError as error:
        complaint = str(error)
    else:
        return
    assert complaint
    assert len(complaint) < 100_000
    assert "secret" not in complaint.replace("carries credentials", "")


def places(value: JsonValue, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


def replaced(value: JsonValue, path: tuple[str | int, ...], new: JsonValue) -> JsonValue:
    """A copy of a document with another value at a path."""
    if not path:
        return new
    if isinstance(value, dict):
        return {key: replaced(below, path[1:], new) if key == path[0] else below for key, below in value.items()}
    assert isinstance(value, list)
    return [replaced(below, path[1:], new) if index == path[0] else below for index, below in enumerate(value)]


def test_the_full_config_is_one() -> None:
    assert [model.name for model in AuditConfig.parse(FULL).models] == ["net", "other"]


@LAW
@given(raw=st.dictionaries(st.sampled_from(KEYS), values, max_size=8))
def test_a_mapping_of_anything_is_a_config_or_refused(raw: Raw) -> None:
    accept_or_refuse(raw)


@settings(LAW, max_examples=300)
@given(place=st.sampled_from(places(FULL)[1:]), new=values)
def test_a_config_with_one_value_changed_is_a_config_or_refused(place: tuple[str | int, ...], new: JsonValue) -> None:
    changed = replaced(FULL, place, new)
    assert isinstance(changed, dict)
    accept_or_refuse(changed)


@LAW
@given(
    place=st.sampled_from([place for place in places(FULL) if not place or isinstance(place[-1], str)]),
    key=st.text(max_size=8),
    new=values,
)
def test_a_config_with_one_key_more_is_a_config_or_refused(
    place: tuple[str | int, ...], key: str, new: JsonValue
) -> None:
    held: JsonValue = FULL
    for part in place:
        held = held[part]  # type: ignore[index,call-overload]
    changed = replaced(FULL, place, {**held, key: new} if isinstance(held, dict) else {key: new})
    assert isinstance(changed, dict)
    accept_or_refuse(changed)


@LAW
@given(data=st.data())
def test_a_file_with_bytes_changed_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    body = bytearray(yaml.safe_dump(FULL).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    path.write_bytes(bytes(body))
    try:
        AuditConfig.load(path)
    except ConfigError as error:
        assert str(error)  # noqa: PT017 - every other error is a failure


MEMORY = """
import resource, sys
from pipeline.config.audit_config import AuditConfig
from pipeline.errors import ConfigError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    AuditConfig.load(sys.argv[1])
except ConfigError:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    "text",
    [laughs(12), "[" * (4 << 20), "a: " + "&a " * 1_000_000, "- a\n" * (1 << 20)],
    ids=["aliases", "brackets", "anchors", "items"],
)
def test_memory_and_time_are_bounded(text: str, tmp_path: Path) -> None:
    (tmp_path / "audit.yaml").write_text(text)
    ended = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "audit.yaml")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert int(ended.stdout) < 512, "MiB"
