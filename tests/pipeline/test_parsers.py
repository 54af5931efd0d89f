"""The config's parser against what nobody would write by hand: a config, or a ConfigError in one paragraph; never anything else, and soon."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.config.safe_yaml import DEEPEST, LONGEST_SCALAR, MOST_VALUES, parse_yaml
from pipeline.errors import ConfigError
from tests.pipeline.test_config import MINIMAL, MODEL, Raw
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


def read(data: bytes) -> object:
    """What a file of these bytes holds, or None where it is refused in one line."""
    try:
        return parse_yaml(data)
    except ConfigError as error:
        complaint = str(error)
    assert "\n" not in complaint
    return None


@LAW
@given(
    data=st.binary(max_size=300)
    | st.text("[]{}:,&*!<-? \n\"'#|>%@`ab01.x~\t\0\x85\u2028", max_size=200).map(lambda text: text.encode())
)
def test_bytes_of_any_kind_are_yaml_or_refused(data: bytes) -> None:
    read(data)


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


def laughs(levels: int, wide: int = 9) -> str:
    """Aliases of aliases: wide^levels values in a few lines."""
    lines = [f"  a0: &a0 [{','.join('x' * wide)}]"]
    lines += [f"  a{level}: &a{level} [{','.join([f'*a{level - 1}'] * wide)}]" for level in range(1, levels)]
    return "kwargs:\n" + "\n".join(lines)


BOMBS = {
    "aliases of aliases": (laughs(9), f"more than {MOST_VALUES:,} values up to line"),
    "merged aliases": (
        "a: &a {b: 1}\n"
        + "\n".join(f"{n}: &n{n} {{<<: [{','.join(['*a' if n == 0 else f'*n{n - 1}'] * 9)}]}}" for n in range(9)),
        "more than",
    ),
    "an alias of itself": ("a: &a [*a]", "the alias in line 1 refers to itself"),
    "a mapping in itself": ("a: &a\n  b: {c: *a}", "the alias in line 2 refers to itself"),
    "deep lists": ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"nested {DEEPEST + 1} deep in line 1"),
    "deep mappings": ("{a: " * (DEEPEST + 1) + "}" * (DEEPEST + 1), f"nested {DEEPEST + 1} deep in line 1"),
    "a long scalar": (
        f"a: {'x' * (LONGEST_SCALAR + 1)}",
        "the value in line 1 has 65,537 characters, at most 65,536 are allowed",
    ),
    "a long key": (f"? {'x' * (LONGEST_SCALAR + 1)}\n: a", "the value in line 1 has 65,537 characters"),
    "many values": ("\n".join(["- a"] * MOST_VALUES), f"more than {MOST_VALUES:,} values"),
    "a hexadecimal number": (f"a: 0x{'f' * 5000}", "the number in line 1 needs more than 64 bits"),
    "a binary number": (f"a: 0b{'1' * 65}", "the number in line 1 needs more than 64 bits"),
    "a sexagesimal number": (f"a: 1{':59' * 1000}", "the number in line 1 needs more than 64 bits"),
    "a decimal number": ("a: 9223372036854775808", "the number in line 1 needs more than 64 bits"),
    "a key that is a list": ("? [a]\n: b", "not valid YAML: while constructing a mapping"),
    "code": ("a: !!python/object/apply:os.system [true]", "not valid YAML: could not determine a constructor"),
    "NUL": ("a: \0", "not valid YAML: unacceptable character #x0000"),
    "a surrogate of another encoding": (b"\xff\xfea\0:\0".decode("latin1"), "cannot be read|not valid YAML"),
    "two documents": ("a: b\n---\na: c", "not valid YAML: expected a single document"),
}


@pytest.mark.parametrize(("text", "expected"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_and_says_where(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        parse_yaml(text.encode())
    assert "\n" not in str(caught.value)


def test_what_is_within_the_bounds_is_read() -> None:
    deep = "[" * DEEPEST + "]" * DEEPEST
    assert parse_yaml(
        f"a: &a {{b: 1}}\nc: *a\nd: {{<<: *a, e: {'x' * LONGEST_SCALAR}}}\nf: -9223372036854775808".encode()
    ) == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": "x" * LONGEST_SCALAR},
        "f": -(1 << 63),
    }
    assert yaml.safe_load(deep) == parse_yaml(deep.encode())


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


NAMES = [
    "net\n",
    "net\r\n",
    "\nnet",
    "a\0",
    "a\u0661",
    "a/b",
    "a\\b",
    "..",
    ".",
    ".net",
    "-net",
    "a b",
    "a:b",
    "a*",
    "~",
    "",
    "x" * 101,
    "é",
    "a\u202eb",
    "C:",
]


@pytest.mark.parametrize("name", [*NAMES, "runs", "RUNS", "Report", "mad.json", "MAD.JSON", "index", "Index"])
def test_a_model_is_not_named(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AuditConfig.parse({**MINIMAL, "models": [{**MODEL, "name": name}]})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "place",
    [
        "s3://AKIAKEY:se/cr+et@bucket/zoo",
        "https://user:hunter2@host/x",
        "https://host/x?X-Amz-Signature=hunter2",
        "s3://k:hunter2/b",
    ],
)
@pytest.mark.parametrize("where", ["root", "weights", "architecture", "huggingface", "trusted", "audited"])
def test_a_url_with_credentials_is_refused_without_repeating_them(where: str, place: str) -> None:
    raw: Raw = {**MINIMAL, "models": [dict(MODEL)]}
    target = (
        raw
        if where == "root"
        else raw["models"][0]
        if where in ("weights", "architecture", "huggingface")
        else dict(MINIMAL["data"])
    )  # type: ignore[index,arg-type,call-overload]
    target[where] = place  # type: ignore[index,call-overload]
    if where in ("trusted", "audited"):
        raw["data"] = target
    with pytest.raises(ConfigError, match="this URL carries credentials, and URLs are recorded in runs") as caught:
        AuditConfig.parse(raw)
    shown = f"{caught.value} {caught.value.__cause__}"
    assert [secret for secret in ("hunter2", "se/cr+et", "AKIAKEY") if secret in shown] == []


@pytest.mark.parametrize(
    "place",
    [
        "s3://bucket/a@b:c/d",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/zoo/x",
        "sftp://user@host:22/x",
        "/a:b@c/d",
        "x?sig=*.parquet",
    ],
)
def test_a_place_that_only_looks_like_it_is_taken(place: str) -> None:
    assert AuditConfig.parse({**MINIMAL, "data": {"trusted": place, "audited": "a"}}).models[0].data.trusted == (place,)
