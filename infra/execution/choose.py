"""Opens the executor of a name, after checking the resources that it needs."""

from contextlib import AbstractContextManager, nullcontext

from infra.errors import ClusterError
from infra.execution.contract import Executor, Resources
from infra.execution.serial import SerialExecutor

EXECUTORS = ("serial", "ray")


def open_executor(name: str, address: str | None, resources: Resources) -> AbstractContextManager[Executor]:
    """An executor that is ready to run while the context lasts.

    Args:
        name: one of EXECUTORS.
        address: the Ray cluster to join; None takes the environment's RAY_ADDRESS, or else starts a cluster on this
            machine.
        resources: what the workers will need.

    Raises:
        ClusterError: no cluster answers, or it cannot run this.
    """
    if name == "serial":
        if resources.gpus_per_worker > 0 and not _sees_gpu():
            raise ClusterError(
                f"run.gpus_per_worker is {resources.gpus_per_worker:g}, but torch sees no CUDA device here;"
                " set it to 0 to run on the CPU"
            )
        return nullcontext(SerialExecutor())
    from infra.execution.on_ray import RayExecutor  # noqa: PLC0415 - Ray takes seconds to import

    return RayExecutor(address, resources)


def _sees_gpu() -> bool:
    import torch  # noqa: PLC0415 - torch takes seconds to import, and is needed for this check only

    return torch.cuda.is_available()
