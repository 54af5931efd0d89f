"""Rows against a training step: `make bench-gradients`.

For each model, batch and choice of parameters, the speed of madcore's rows (rank 16) relative to that of a training
step: forward and backward of cross-entropy, weight gradients included, without an optimizer. It is shown with the
ceiling, `ceiling/MODEL/batchN`: forward and activation gradients only; and peers, `peer/NAME/MODEL/batchN` (see
`peers`). All run in eval mode on the same batch, interleaved in one process; a figure is the median over rounds of the
ratio within a round. Rows include the measurement and the projections of all covered layers; data loading, storage, and
making the projections, once per model, are not included. The whole benchmark takes about half an hour on 2 cores and
10 GB, most of both for 256 texts in the largest model: `--models` and `--batches` select less.

Interleaving does not help if other processes come and go within a round: `--processor-time` counts the processor
seconds of one thread instead of elapsed time. `--device cuda` runs on a GPU and takes times from the device's events.

The last line but one is a JSON object with the peak memory of each above the model, in MiB (see `memory`); the last
line is one with all ratios. Progress goes to stderr.

    python -m tests.benchmarks.gradients [--models NAME ...] [--batches N ...] [--rounds N] [--peers [NAME ...]]
                                         [--device NAME] [--processor-time] [--without-memory]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tests.benchmarks.memory import peaks
from tests.benchmarks.models import CASES, Case
from tests.benchmarks.peers import PEERS
from tests.benchmarks.ways import WAYS, prepare

BATCHES = (64, 256)


ROUNDS = 7


def seconds(call: Callable[[], object], options: argparse.Namespace) -> float:
    if options.device == "cuda":
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        call()
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended) / 1000
    clock = time.process_time if options.processor_time else time.perf_counter
    start = clock()
    call()
    return clock() - start


def ratios(case: Case, model: nn.Module, batch: int, options: argparse.Namespace) -> dict[str, float]:
    """Each way's speed over a training step's, the median over rounds; a first round is not counted."""
    inputs = case.inputs(batch).to(options.device)
    calls = {way: prepare(way, case, model, inputs) for way in WAYS} | peers(case, model, inputs, options.peers)
    counted = [{way: seconds(call, options) for way, call in calls.items()} for _ in range(options.rounds + 1)][1:]
    return {way: statistics.median(times["step"] / times[way] for times in counted) for way in calls if way != "step"}


def peers(case: Case, model: nn.Module, inputs: Tensor, names: Sequence[str]) -> dict[str, Callable[[], object]]:
    """The peers that run, each tried once; why another does not is reported."""
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        try:
            call = PEERS[name](case, model, inputs)
            call()
            calls[f"peer/{name}"] = call
        except Exception as error:  # noqa: BLE001 - a peer may fail in any way, and the others are measured
            report(f"peer {name} does not run here: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return calls


def named(name: str, batch: int, way: str) -> str:
    """The key of a figure."""
    return f"{name}/batch{batch}/{way}" if way in ("matrices", "all") else f"{way}/{name}/batch{batch}"


def measured_ratios(options: argparse.Namespace) -> dict[str, float]:
    """All ratios."""
    figures: dict[str, float] = {}
    for name in options.models:
        torch.manual_seed(0)
        model = CASES[name].build().to(options.device)
        for batch in options.batches:
            found = ratios(CASES[name], model, batch, options)
            report(
                f"{name}, batch {batch}: speed over a training step's: "
                + ", ".join(f"{way} {ratio:.2f}" for way, ratio in found.items())
            )
            figures |= {named(name, batch, way): round(ratio, 3) for way, ratio in found.items()}
    return figures


def measured_peaks(options: argparse.Namespace) -> dict[str, float]:
    """All peaks, in MiB."""
    figures: dict[str, float] = {}
    for name in options.models:
        for batch in options.batches:
            found = {way: bytes_ / 2**20 for way, bytes_ in peaks(name, batch, device=options.device)}
            report(
                f"{name}, batch {batch}: peak MiB above the model: "
                + ", ".join(f"{way} {mib:.0f}" for way, mib in found.items())
            )
            figures |= {named(name, batch, way): round(mib, 1) for way, mib in found.items()}
    return figures


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=[])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--without-memory", action="store_true")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    if chosen.processor_time:
        torch.set_num_threads(1)
    speed = measured_ratios(chosen)
    print(json.dumps({} if chosen.without_memory else measured_peaks(chosen)))
    print(json.dumps(speed))


if __name__ == "__main__":
    main()
