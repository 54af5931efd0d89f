"""Reading ahead changes nothing but when things are made."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.execution.prefetch import prefetched


@given(st.lists(st.integers()), st.integers(1, 4))
def test_the_same_items_in_the_same_order(items: list[int], depth: int) -> None:
    with prefetched(iter(items), depth) as ahead:
        assert list(ahead) == items


def test_items_are_made_ahead_but_only_as_far_as_the_depth() -> None:
    made: list[int] = []
    third = threading.Event()

    def make() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    with prefetched(make(), depth=2) as ahead:
        assert third.wait(10), "without any request three items are made: two wait in the queue, and one to get in"
        assert next(ahead) == 0
    assert len(made) < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_an_error_comes_where_the_item_would_have_come() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ArithmeticError("no second item")

    with prefetched(make()) as ahead:
        assert next(ahead) == 1
        with pytest.raises(ArithmeticError, match="no second item"):
            next(ahead)


def test_a_caller_that_fails_ends_the_thread() -> None:
    with pytest.raises(KeyError), prefetched(range(1000)) as ahead:
        raise KeyError(next(ahead))
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
