"""What detects which backdoor: `make bench-estimators ZOO=FOLDER [CACHE=FOLDER]`, with the pipeline that users run.

Three parts. `settings`: every model with every setting below, defaults otherwise, all trusted and audited samples.
`traces`: the estimator `loss_trace` against `gradient`, on fewer samples (`tests.benchmarks.traces`). `poisoning`:
trusted sets that hold triggered samples, and attacks from rare to common (`tests.benchmarks.poisoning`). A figure is of
successful attacks (prediction equals the target) against clean samples: AUROC; TPR and realised FPR at the calibrated 1
% and 5 %; and the highest FPR of a predicted class at 5 %, of classes with at least 100 clean samples. A figure of
no samples, such as of no successful attack, is left out of the last line.

Results lie in CACHE, in roots that share nothing with others, so that a benchmark that was stopped resumes. The last
line is one JSON object, MODEL/SETTING/FIGURE.

    python -m tests.benchmarks.estimators ZOO [--cache FOLDER] [--parts NAME ...] [--models NAME ...]
        [--settings NAME ...]
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.config.sections import Raw
from tests.benchmarks import poisoning, traces
from tests.benchmarks.zoo import MODELS, Figures, Zoo, figures

SETTINGS: dict[str, Raw] = {
    "block_moment": {},
    "identity": {"curvature": {"kind": "identity"}},
    "ggn": {"curvature": {"kind": "ggn"}},
    "fisher": {"curvature": {"kind": "fisher"}},
    "kfac": {"curvature": {"kind": "kfac"}},
    "ekfac": {"curvature": {"kind": "ekfac"}},
    "transductive": {"curvature": {"transductive": True}},
    "debiased": {"score": {"debiased": True}},
    "identity debiased": {"curvature": {"kind": "identity"}, "score": {"debiased": True}},
    "class_coupling": {"score": {"kind": "class_coupling"}},
    "damping 0.1": {"curvature": {"damping": {"factor": 0.1}}},
    "rank 4": {"estimator": {"projection": {"rank": 4}}},
    "rank 8": {"estimator": {"projection": {"rank": 8}}},
    "rank 32": {"estimator": {"projection": {"rank": 32}}},
    "rank 64": {"estimator": {"projection": {"rank": 64}}},
    "gaussian": {"estimator": {"projection": {"kind": "gaussian"}}},
    "all": {"estimator": {"parameters": "all"}},
}


def settings(zoo: Zoo, model: str, chosen: list[str]) -> Iterator[tuple[str, Figures]]:
    """Figures of one model, by setting."""
    trusted, audited = zoo.data("trusted"), zoo.data(f"audited-{model}")
    for setting in chosen:
        yield (
            setting,
            figures(zoo.audit(model, setting.replace(" ", "-"), trusted, audited, **SETTINGS[setting]), model, audited),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "zoo",
        type=Path,
        help="holds zoo/ with weights and zoo_net.py, and data/cifar10/ with trusted, sampling and audited files",
    )
    parser.add_argument("--cache", type=Path, help="where results are kept; a folder for this run alone unless given")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parts: dict[str, Callable[[Zoo, str], Iterator[tuple[str, Figures]]]] = {
        "settings": lambda zoo, model: settings(zoo, model, options.settings),
        "poisoning": poisoning.figures_of,
        "traces": traces.figures_of,
    }
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    options = parser.parse_args()
    everything: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        zoo = Zoo(options.zoo.resolve(), options.cache.resolve() if options.cache else Path(name))
        for part in options.parts:
            for model in options.models:
                for setting, found in parts[part](zoo, model):
                    everything |= {
                        f"{model}/{setting}/{figure}": round(value, 4)
                        for figure, value in found.items()
                        if math.isfinite(value)
                    }
                    print(
                        f"{setting}, {model}: " + ", ".join(f"{figure} {value:.3f}" for figure, value in found.items()),
                        file=sys.stderr,
                        flush=True,
                    )
    print(json.dumps(everything))


if __name__ == "__main__":
    main()
