"""Workers for tests of executors."""

from threading import Barrier


class Halver:
    """A worker that halves even numbers, and records when it was made."""

    def __init__(self, made: list[str]):
        """Record it in `made`."""
        made.append("worker")

    def __call__(self, task: int) -> int:
        """Half of an even number."""
        if task % 2:
            raise ArithmeticError(f"{task} is odd\nsecond line")
        return task // 2


class Meeting:
    """A worker whose task ends when another one runs too."""

    def __init__(self) -> None:
        self._both = Barrier(2)

    def __call__(self, task: str) -> None:
        """Waits for the other."""
        self._both.wait(60)
