"""How long a run may take."""

from infra.events import Stopwatch


class Deadline:
    """A moment after which no task is begun: so many seconds after this was made, on a clock that never jumps."""

    def __init__(self, seconds: float):
        """Counts from now."""
        self.seconds = seconds
        self._watch = Stopwatch()

    def passed(self) -> bool:
        """Whether it is over."""
        return self._watch.seconds >= self.seconds
