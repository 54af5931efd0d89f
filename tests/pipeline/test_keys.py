"""Keys: the same for the same values in any order, and of bounded length."""

import hashlib

import pytest

from pipeline.keys import KEY_LENGTH, key_of


def test_a_key_is_a_digest_of_sorted_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2.5,null],"b":{"c":"\\u00e9"}}').hexdigest()[:KEY_LENGTH]
    assert key_of(b={"c": "é"}, a=[1, 2.5, None]) == key_of(a=[1, 2.5, None], b={"c": "é"}) == expected


def test_names_and_values_count() -> None:
    assert len({key_of(a=1), key_of(a="1"), key_of(b=1), key_of(a=1, b=None), key_of()}) == 5


def test_numbers_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        key_of(a=float("nan"))
