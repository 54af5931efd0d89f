"""YAML that is hostile is refused in one line that says where; everything else is read."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.safe_yaml import DEEPEST, LONGEST_SCALAR, parse_yaml
from pipeline.errors import ConfigError
from tests.strategies import LAW


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


def laughs(levels: int, wide: int = 9) -> str:
    """Aliases of aliases: wide^levels values in a few lines."""
    lines = [f"  a0: &a0 [{','.join('x' * wide)}]"]
    lines += [f"  a{level}: &a{level} [{','.join([f'*a{level - 1}'] * wide)}]" for level in range(1, levels)]
    return "kwargs:\n" + "\n".join(lines)


FEW = 5000  # values, instead of the quarter of a million that are allowed: reading those takes seconds


BOMBS = {
    "aliases of aliases": (laughs(9), f"more than {FEW:,} values up to line"),
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
    "many values": ("\n".join(["- a"] * FEW), f"more than {FEW:,} values"),
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
def test_a_bomb_is_refused_and_says_where(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.config.safe_yaml.MOST_VALUES", FEW)
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
