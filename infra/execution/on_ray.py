"""Tasks on a Ray cluster; the only module that imports Ray.

A worker lives in an actor with the resources that the config grants. Tasks are small values that travel with the call;
data goes through storage. An actor has at most a few tasks, so that its next one is always at hand and a scheduler that
dies loses only seconds of work. Starting an actor takes seconds too, so it stays for the next call with the same
resources; a call with others, such as no GPU, ends it.

A lost actor, with or without its node, takes its tasks along. Which of them killed it cannot be known, so each is
retried alone, and fails when TRIES workers were lost with it. An actor in which memory ran out counts as lost, because
its tasks share the memory. Any other error of a task is its outcome, and is not retried.
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias, TypeVar

# Ray reads both variables when it is imported. It retries 20 times by default, of 40 s each, where what listens at the
# address is not a cluster.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
import ray  # isort: skip
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from infra.errors import ClusterError
from infra.execution.backlog import Backlog, model_of
from infra.execution.cluster_watch import Watch, await_answer, check_resources, worker_seconds
from infra.execution.contract import MOST_TASKS_AT_ONCE, Resources, TaskOutcome, attempt, describe, is_starvation, never
from infra.version import installed_version

TRIES = 3
FAILED_STARTS = 5
CONNECT_SECONDS = 30
LOOK_SECONDS = 2
LOCAL = "local"

Task = TypeVar("Task")
Result = TypeVar("Result")
Handle: TypeAlias = "ray.actor.ActorHandle[_Actor[Any, Any]]"
Ref: TypeAlias = "ray.ObjectRef[Any]"

log = logging.getLogger(__name__)


class RayExecutor:
    """Runs tasks on actors of a cluster: one that it joins, or one that it starts here and ends with the context."""

    def __init__(
        self,
        address: str | None,
        resources: Resources,
        connect_seconds: float = CONNECT_SECONDS,
        patience: float | None = None,
    ):
        """An executor that has not joined yet.

        Args:
            address: HOST:PORT; None takes RAY_ADDRESS, or else starts a cluster here.
            resources: what the workers will need; a cluster that cannot provide it is refused on entering the context.
            connect_seconds: how long to wait for a cluster to answer.
            patience: seconds without a worker after which a call fails; None takes MAD_WORKER_WAIT_SECONDS or else 600.

        Raises:
            ClusterError: MAD_WORKER_WAIT_SECONDS is not a positive number.
        """
        self._connect_seconds = connect_seconds
        self._address = address or os.environ.get("RAY_ADDRESS") or LOCAL
        self._resources = resources
        self._joined = False
        self._idle: list[Handle] = []
        self._idle_resources = resources
        self._watch = Watch(worker_seconds() if patience is None else patience)

    def __enter__(self) -> "RayExecutor":
        if not ray.is_initialized():
            self.connect()
            self._joined = True
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            largest = max(node["Resources"].get("memory", 0) for node in nodes)
            check_resources(self._resources, ray.cluster_resources().get("GPU", 0), largest)
            self._watch.join(*_addresses(nodes))
        except ClusterError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster; one that is gone is left without shutting Ray down, which would take minutes."""
        if self._watch.gone:
            return
        try:
            self._end_idle()
        finally:
            if self._joined:
                ray.shutdown()
                self._joined = False

    def connect(self) -> None:
        """Join the cluster, or start one on this machine.

        Raises:
            ClusterError: no cluster answers, or it cannot be joined.
        """
        address = self._address
        own = self._resources.workers if address == LOCAL else None
        if own is None and address != "auto" and "://" not in address:
            await_answer(address, self._connect_seconds)
        try:
            ray.init(
                address=address,
                num_cpus=own,
                include_dashboard=False if own else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (RuntimeError, OSError, ValueError, RayError) as error:
            reason = " ".join(str(error).split())
            raise ClusterError(
                f"the Ray cluster at {address!r} cannot be joined ({reason}); it must run, with this version of Python"
                f" and of ray ({ray.__version__}), and where it requires a token, RAY_AUTH_MODE and RAY_AUTH_TOKEN must"
                " be set here as on its nodes"
            ) from error

    def map_unordered(
        self,
        worker_factory: Callable[[], Callable[[Task], Result]],
        tasks: Iterable[Task],
        resources: Resources,
        closed: Callable[[], bool] = never,
    ) -> Iterator[TaskOutcome[Task, Result]]:
        """One outcome per task that begins before `closed` returns true, as they come.

        Raises:
            ClusterError: workers repeatedly die before they take a task; none has run for long; the cluster's head no
                longer answers. Where tasks had started, in this call or an earlier one, it is ClusterLost.
        """
        if resources != self._idle_resources:
            self._end_idle()
        self._watch.begin()
        pool = _Pool(worker_factory, Backlog(tasks, closed), resources, self._idle, self._watch)
        self._idle, self._idle_resources = [], resources
        try:
            yield from pool.outcomes()
        finally:
            if not self._watch.gone:
                self._idle += pool.close()

    def _end_idle(self) -> None:
        while self._idle:
            ray.kill(self._idle.pop())


class _Actor(Generic[Task, Result]):
    """The process of a worker: makes the worker when the first task of a call comes, and runs tasks on it."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._factory: Callable[[], Callable[[Task], Result]] | None = None
        self._worker: Callable[[Task], Result] | None = None

    def hello(self, factory: Callable[[], Callable[[Task], Result]]) -> str:
        """Begin a call whose worker this factory makes; returns the version of mad that is installed here."""
        self._factory, self._worker = factory, None
        return installed_version()

    def run(self, task: Task) -> TaskOutcome[Task, Result]:
        """Run one task."""
        with self._making:
            if self._worker is None:
                assert self._factory is not None, "a task before hello"
                self._worker = self._factory()
        return attempt(self._worker, task)


@dataclass(eq=False)
class _Worker(Generic[Task]):
    """An actor as the driver sees it.

    `reused`: an earlier call started it. `ready`: it has answered `hello`. `model`: the model of its last task.
    `tasks`: those that it has now.
    """

    handle: "Handle"
    reused: bool = False
    ready: bool = False
    model: str = ""
    tasks: list[Task] = field(default_factory=list)


class _Pool(Generic[Task, Result]):
    """The actors of one call, what each is doing, and the remaining tasks. Idle actors are used before new ones."""

    def __init__(
        self,
        factory: Callable[[], Callable[[Task], Result]],
        backlog: Backlog[Task],
        resources: Resources,
        idle: Sequence["Handle"],
        watch: Watch,
    ):
        options = {
            "num_cpus": 1,
            "num_gpus": resources.gpus_per_worker,
            "memory": resources.memory_per_worker_bytes,
            "max_concurrency": MOST_TASKS_AT_ONCE,
        }
        self._make: Callable[[], Handle] = ray.remote(_Actor).options(**options).remote  # type: ignore[assignment]
        self._factory = ray.put(factory)
        self._backlog, self._resources, self._idle, self._watch = backlog, resources, list(idle), watch
        self._workers: list[_Worker[Task]] = []
        self._greeted: dict[Ref, _Worker[Task]] = {}
        self._running: dict[Ref, tuple[_Worker[Task], Task]] = {}
        self._failed_starts = 0

    def outcomes(self) -> Iterator[TaskOutcome[Task, Result]]:
        """Keep the actors busy until nothing is left; yields outcomes as they come."""
        while self._backlog.left() or self._running:
            self._hire()
            self._feed()
            ready, _ = ray.wait([*self._greeted, *self._running], num_returns=1, timeout=LOOK_SECONDS)
            self._watch.look(bool(self._running), self._resources)
            for ref in ready:
                if ref in self._greeted:
                    self._welcome(ref)
                else:
                    yield from self._settle(ref)

    def close(self) -> list["Handle"]:
        """Return the actors that have nothing to do, and end all others."""
        for worker in self._workers:
            if worker.ready and not worker.tasks:
                self._idle.append(worker.handle)
            else:
                ray.kill(worker.handle)
        return self._idle

    def _hire(self) -> None:
        while len(self._workers) < min(self._resources.workers, len(self._backlog) + len(self._running)):
            worker: _Worker[Task] = _Worker(self._idle.pop(), reused=True) if self._idle else _Worker(self._make())
            self._workers.append(worker)
            self._greeted[worker.handle.hello.remote(self._factory)] = worker

    def _welcome(self, ref: Ref) -> None:
        worker = self._greeted.pop(ref)
        try:
            theirs, ours = ray.get(ref), installed_version()
        except RayError as error:
            self._workers.remove(worker)
            self._failed_starts += not worker.reused  # a reused one may have died since, which is no failed start
            if self._failed_starts >= FAILED_STARTS:
                remedy = f"is mad installed in the environment of every node, in version {installed_version()}?"
                if isinstance(error, OutOfMemoryError):
                    remedy = (
                        "raise run.memory_per_worker, so that fewer workers share a node,"
                        " or end other processes that fill its memory"
                    )
                raise self._watch.error(f"workers cannot start: {_cause(error)}; {remedy}") from error
            return
        if theirs != ours:
            raise self._watch.error(
                f"a node of the cluster has mad {theirs}, this is mad {ours}; install the same version on all of them"
            )
        worker.ready, self._failed_starts = True, 0

    def _feed(self) -> None:
        """Give tasks to the workers that have room; a task with which a worker was lost runs alone on a worker."""
        ready = [worker for worker in self._workers if worker.ready]
        lost = len(self._backlog.lost)
        for worker in ready[:lost]:
            if not worker.tasks:
                self._submit(worker, self._backlog.lost.popleft())
        for worker in ready[lost:]:
            while self._has_room(worker):
                task = self._backlog.take(worker.model, Counter(one.model for one in ready if one.tasks))
                if task is None:
                    return
                self._submit(worker, task)

    def _has_room(self, worker: _Worker[Task]) -> bool:
        return len(worker.tasks) < self._resources.tasks_at_once and not any(map(self._backlog.suspect, worker.tasks))

    def _submit(self, worker: _Worker[Task], task: Task) -> None:
        worker.tasks.append(task)
        worker.model = model_of(task)
        self._running[worker.handle.run.remote(task)] = (worker, task)

    def _settle(self, ref: Ref) -> Iterator[TaskOutcome[Task, Result]]:
        worker, task = self._running.pop(ref)
        worker.tasks.remove(task)
        try:
            outcome: TaskOutcome[Task, Result] = ray.get(ref)
        except RayTaskError as error:
            outcome = TaskOutcome(task, error=_cause(error), trace=str(error), starved=is_starvation(error.cause))
        except RayError as error:
            yield from self._lose(worker, task, _cause(error), isinstance(error, OutOfMemoryError))
            return
        if outcome.starved:
            yield from self._lose(worker, task, str(outcome.error), starved=True)
        else:
            yield replace(outcome, task=task)

    def _lose(
        self, worker: _Worker[Task], task: Task, cause: str, starved: bool
    ) -> Iterator[TaskOutcome[Task, Result]]:
        """Take a task back from a worker that is lost or in which memory ran out; it fails if that was its last try."""
        if worker in self._workers:
            self._workers.remove(worker)
            ray.kill(worker.handle)  # one that only seems lost must stop, and its memory must be freed
        losses = self._backlog.take_back(task)
        event = "ran out of memory" if starved else "was lost"
        log.warning("a worker %s (%s); try %d of %d of its task", event, cause, losses, TRIES)
        if losses >= TRIES:
            self._backlog.lost.remove(task)
            remedy = ", as memory ran out; raise run.memory_per_worker or lower run.batch_size" if starved else ""
            yield TaskOutcome(
                task, error=f"given up after {TRIES} workers were lost with it, the last with {cause}{remedy}"
            )


def _addresses(nodes: list[dict[str, Any]]) -> tuple[str, str]:
    """The addresses of the cluster's head and of the node that this process belongs to."""
    context = ray.get_runtime_context()
    own = next(node for node in nodes if node["NodeID"] == context.get_node_id())
    return context.gcs_address, f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"


def _cause(error: RayError) -> str:
    """An error of Ray as one line; of an error that wraps another, the wrapped one."""
    return describe(error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error)
