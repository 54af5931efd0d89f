"""Which executor a name opens, and what is refused before it runs."""

import pytest
import torch

from infra.errors import ClusterError
from infra.execution.choose import EXECUTORS, open_executor
from infra.execution.contract import Resources
from infra.execution.serial import SerialExecutor


def test_serial_runs_in_this_process_and_is_the_first_choice() -> None:
    assert EXECUTORS == ("serial", "ray")
    with open_executor("serial", None, Resources()) as executor:
        assert isinstance(executor, SerialExecutor)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_serial_on_a_gpu_that_is_not_there_is_refused_with_the_setting() -> None:
    expected = "run.gpus_per_worker is 0.5, but torch sees no CUDA device here; set it to 0 to run on the CPU"
    with pytest.raises(ClusterError) as caught:
        open_executor("serial", None, Resources(gpus_per_worker=0.5))
    assert str(caught.value) == expected


@pytest.mark.usefixtures("ray_cluster")
def test_ray_joins_when_it_is_entered_and_refuses_what_the_cluster_cannot_give() -> None:
    opened = open_executor("ray", None, Resources(gpus_per_worker=1))
    with pytest.raises(ClusterError, match="1 workers with 1 GPUs each need 1 GPUs, the cluster has 0"):
        opened.__enter__()
