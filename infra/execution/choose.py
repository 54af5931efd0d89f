"""The executor that a name stands for, with the resources that it is checked against."""

from contextlib import AbstractContextManager, nullcontext

from infra.errors import ClusterError
from infra.execution.contract import Executor, Resources
from infra.execution.serial import SerialExecutor

EXECUTORS = ("serial", "ray")


def open_executor(name: str, address: str | None, resources: Resources) -> AbstractContextManager[Executor]:
    """An executor, ready to run, for as long as the context lasts.

    Args:
        name: of EXECUTORS.
        address: of the Ray cluster to join; None takes the environment's RAY_ADDRESS, or else a cluster of this machine's own.
        resources: what the workers will need.

    Raises:
        ClusterError: no cluster answers, or it is not one that can run this.
    """
    if name == "serial":
        if resources.gpus_per_worker > 0 and not _sees_gpu():
            raise ClusterError(
                f"run.gpus_per_worker is {resources.gpus_per_worker:g}, but torch sees no CUDA device here; set it to 0 to run on the CPU"
            )
        return nullcontext(SerialExecutor())
    from infra.execution.on_ray import RayExecutor  # noqa: PLC0415 - Ray takes seconds to import

    return RayExecutor(address, resources)


def _sees_gpu() -> bool:
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()
