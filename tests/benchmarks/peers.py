"""Other libraries' compressed per-sample gradients of all linear layers at rank 16, on the benchmarks' models.

Each is imported only when it is selected, from a separate environment (`make bench-peers-setup`), and runs a forward
and backward pass of the loss, without gradients of weights if the library itself needs none; that pass is timed, not
the library's setup. A peer that is not installed, or rejects a model, raises: the benchmark says so in a line.
kronfluence computes influence scores instead of gradients: those of each sample on itself are timed, without a
curvature to multiply by, but with its loading of inputs and storing of scores.
"""

import copy
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.benchmarks.models import Case
from tests.benchmarks.ways import RANK, down_to_first_output


def dattri(case: Case, model: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """LoGra of dattri: compressed gradients of all Linear modules."""
    from dattri.algorithm.block_projected_if.core.compressor import setup_model_compressors  # noqa: PLC0415 - optional
    from dattri.algorithm.block_projected_if.core.hook import HookManager  # noqa: PLC0415

    logging.getLogger("dattri").setLevel(logging.WARNING)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    matrices = len(case.covered(model, "matrices").covered)
    if len(names) < matrices - 1:
        raise TypeError(f"it takes Linear modules only, and {len(names)} of the model's {matrices} layers are")
    common = {"device": "cpu", "proj_max_batch_size": 64}
    sample = case.measured(inputs[:2]).inputs
    compressors = setup_model_compressors(
        model,
        names,
        {**common, "proj_dim": RANK, "proj_type": "normal"},
        {**common, "proj_dim": -1, "proj_type": "identity"},
        [sample] if isinstance(sample, Tensor) else dict(sample),
        "cpu",
    )

    def once() -> object:
        hooks = HookManager(model, names)
        hooks.set_compressors(compressors)
        try:
            with down_to_first_output(model):
                case.forward(model, inputs).backward()
            return _some(hooks.get_compressed_grads(), len(inputs))
        finally:
            hooks.remove_hooks()

    return once


def bergson(case: Case, model: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """Bergson's collector: projected gradients of the layers that it supports, GPT-2's `Conv1D` among them."""
    from bergson.collector.gradient_collectors import TraceCollector  # noqa: PLC0415
    from bergson.gradients import GradientProcessor  # noqa: PLC0415

    if not hasattr(model, "device"):
        raise TypeError("it takes models of Hugging Face's kind only")

    def once() -> object:
        collector = TraceCollector(
            model=model, processor=GradientProcessor(projection_dim=RANK), device="cpu", dtype=torch.float32
        )
        with down_to_first_output(model), collector.with_batch(None):
            case.forward(model, inputs).backward()
        return _some([grads[0] for grads in collector.mod_grads.values()], len(inputs))

    return once


def trak(case: Case, model: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """TRAK's per-sample gradients of all parameters, projected to 512 numbers by its projector for the CPU."""
    from trak.gradient_computers import FunctionalGradientComputer  # noqa: PLC0415
    from trak.modelout_functions import ImageClassificationModelOutput  # noqa: PLC0415
    from trak.projectors import BasicProjector, ProjectionType  # noqa: PLC0415

    if not isinstance(case.measured(inputs).inputs, Tensor):
        raise TypeError("its tasks for language models are masked ones")
    size = sum(parameter.numel() for parameter in model.parameters())
    projector = BasicProjector(
        size, 2 * RANK**2, 0, ProjectionType.rademacher, torch.device("cpu"), dtype=torch.float32
    )
    computer = FunctionalGradientComputer(
        model, ImageClassificationModelOutput(), size, torch.float32, torch.device("cpu")
    )
    computer.load_model_params(model)
    labels = torch.arange(len(inputs)) % 10
    return lambda: _some([projector.project(computer.compute_per_sample_grad((inputs, labels)), 0)], len(inputs))


def kronfluence(case: Case, model: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """Kronfluence's scores of samples on themselves: the squared norms of their gradients."""
    from kronfluence.analyzer import Analyzer, prepare_model  # noqa: PLC0415
    from kronfluence.arguments import FactorArguments, ScoreArguments  # noqa: PLC0415
    from kronfluence.task import Task  # noqa: PLC0415

    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    matrices = len(case.covered(model, "matrices").covered)
    if len(names) < matrices - 1:
        raise TypeError(
            f"it takes Linear and Conv2d modules only, and {len(names)} of the model's {matrices} layers are"
        )

    class Loss(Task):
        """The training loss, summed over samples."""

        def compute_train_loss(self, batch: tuple[Tensor], model: nn.Module, sample: bool = False) -> Tensor:
            return len(batch[0]) * case.forward(model, batch[0])

        def compute_measurement(self, batch: tuple[Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return names

    folder, task = tempfile.TemporaryDirectory(), Loss()
    analyzer = Analyzer(
        "own",
        prepare_model(copy.deepcopy(model), task),
        task,
        cpu=True,
        disable_tqdm=True,
        output_dir=folder.name,
        log_level=logging.ERROR,
    )
    data = TensorDataset(inputs)
    analyzer.fit_all_factors(
        "none", data, per_device_batch_size=len(inputs), factor_args=FactorArguments(strategy="identity")
    )
    settings = {
        "per_device_train_batch_size": len(inputs),
        "score_args": ScoreArguments(damping_factor=None),
        "overwrite_output_dir": True,
    }

    def once() -> object:
        analyzer.compute_self_scores("own", "none", data, **settings)
        assert Path(folder.name).exists()  # as long as this function does
        return _some([analyzer.load_self_scores("own")["all_modules"]], len(inputs))

    return once


def _some(grads: list[Tensor], samples: int) -> int:
    """How many layers' gradients there are.

    Raises:
        ValueError: there are none, or they are not the samples'.
    """
    if not grads or any(grad is None or len(grad) != samples for grad in grads):
        raise ValueError("it has not given a gradient of each sample and layer")
    return len(grads)


PEERS: dict[str, Callable[[Case, nn.Module, Tensor], Callable[[], object]]] = {
    "dattri": dattri,
    "bergson": bergson,
    "trak": trak,
    "kronfluence": kronfluence,
}
