"""What an audit costs as it grows: `make bench-scale ZOO=FOLDER [IMAGES=N] [CACHE=FOLDER]`, with the users' pipeline.

Four parts, each in processes of its own.

- `audit`: IMAGES pictures (1,000,000 unless told otherwise), made of the zoo's training images and written as 100
  Parquet files, go through the zoo's model badnets at rank 8, in process; before that a tenth of the files, alone.
  Figures are ratios of the large audit to the small one: peak memory (1 is flat), and wall time over ten times the
  small one's (1 is linear); seconds of planning; listings a task; and the rows that the table lacks.
- `ray`: the first files again, on Ray: all bytes that its object store ever held, over those of the rows computed
  meanwhile.
- `scoring`: the small audit scored again, over the lower of this machine's limits (`tests.benchmarks.scoring_rate`).
- `metadata`: plan, receipts and manifests of 100 million and of a billion samples that do not exist
  (`tests.benchmarks.run_metadata`); a tenth of that on S3 where `AWS_ENDPOINT_URL` and a bucket `audits` are there
  (`make test-s3` says how one is started).

The last line is one JSON object; the exit code is 0 unless something failed, whatever the figures are.

    python -m tests.benchmarks.scale ZOO [IMAGES] [--cache FOLDER] [--parts NAME ...] [--samples N]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from tests.benchmarks.pictures_at_scale import write_pictures
from tests.benchmarks.watched import Watched, watched
from tests.benchmarks.zoo import Zoo

IMAGES, FILES, RAY_FILES, SAMPLES = 1_000_000, 100, 2, 1_000_000_000


Figures = dict[str, float | str]


@dataclass(frozen=True)
class Scale:
    """What all parts share: the zoo, the audited pictures and their number, the samples of the largest metadata."""

    zoo: Zoo
    pictures: Path
    images: int
    samples: int

    def config(self, root: str, files: int) -> Path:
        """An audit of the first so many files, as a config file."""
        audited = write_pictures(
            self.zoo, self.pictures / f"pictures-{self.images // FILES}", self.images // FILES, files
        )
        raw = self.zoo.raw("badnets", root, self.zoo.data("trusted"), audited, estimator={"projection": {"rank": 8}})
        path = self.zoo.cache / f"{root}.yaml"
        path.write_text(json.dumps(raw))
        return path


def audit(scale: Scale) -> Iterator[tuple[str, Figures]]:
    """The audit of all files against that of a tenth of them."""
    small, large = (watched(scale.config(f"{uuid.uuid4().hex[:8]}-{files}", files)) for files in (FILES // 10, FILES))
    yield "", ratios(small, large, scale.images)


def ratios(small: Watched, large: Watched, images: int) -> Figures:
    """Of two audits of which the second has ten times the rows."""
    grown = large.rows / small.rows
    running = {stage for stage in large.seconds if stage != "planning"}
    seconds_small, seconds_large = (sum(found.seconds[stage] for stage in running) for found in (small, large))
    return {
        "memory": max(large.memory.values()) / max(small.memory.values()),
        "peak_gib": max(large.memory.values()) / 2**30,
        **{f"memory/{stage}": large.memory[stage] / small.memory[stage] for stage in large.memory},
        "time": seconds_large / (grown * seconds_small),
        **{
            f"time/{stage}": large.seconds[stage] / (grown * small.seconds[stage])
            for stage in ("gradients", "scoring", "reporting")
        },
        "rows_per_second": large.rows / seconds_large,
        "planning_seconds": large.seconds["planning"],
        **listings(small, large),
        "objects_per_task": large.objects / sum(large.tasks.values()),
        "rows_lost": images - large.rows,
    }


def listings(small: Watched, large: Watched) -> Figures:
    """Folders listed for each further task; and those a task of the larger audit, whatever for."""
    (few, little), (many, much) = (
        (sum(found.listings.values()), sum(found.tasks.values())) for found in (small, large)
    )
    return {"listings_per_task": (many - few) / (much - little), "listings": many}


def ray(scale: Scale) -> Iterator[tuple[str, Figures]]:
    """What goes through Ray's object store, which should be nothing that grows with the rows."""
    found = watched(scale.config(f"{uuid.uuid4().hex[:8]}-ray", RAY_FILES), "ray")
    yield (
        "ray/",
        {
            "object_store_mib": (found.object_store or 0) / 2**20,
            "rows_mib": found.bytes / 2**20,
            "worker_peak_gib": max(found.worker_memory.values()) / 2**30,
        },
    )


def scoring(scale: Scale) -> Iterator[tuple[str, Figures]]:
    """The small audit, scored again."""
    config = scale.config(f"{uuid.uuid4().hex[:8]}-rescored", FILES // 10)
    watched(config)
    yield "scoring/", _figures_of("tests.benchmarks.scoring_rate", str(config))


def metadata(scale: Scale) -> Iterator[tuple[str, Figures]]:
    """What a driver does for very many tasks: ten times as many should take ten times as long and no task more."""
    config = scale.config(f"{uuid.uuid4().hex[:8]}-metadata", 1)
    homes = {"metadata/": (str(scale.zoo.cache / "metadata"), scale.samples)}
    if "AWS_ENDPOINT_URL" in os.environ:
        homes["metadata-s3/"] = ("s3://audits/metadata", scale.samples // 10)
    for name, (home, samples) in homes.items():
        small, large = (_books(config, f"{home}-{uuid.uuid4().hex[:8]}", many) for many in (samples // 10, samples))
        tasks, grown = large.tasks["gradients"], large.tasks["gradients"] / small.tasks["gradients"]
        yield (
            name,
            {
                "tasks": tasks,
                **{f"seconds/{phase}": seconds for phase, seconds in large.seconds.items()},
                **{
                    f"time/{phase}": seconds / (grown * small.seconds[phase])
                    for phase, seconds in large.seconds.items()
                },
                "driver_gib": max(large.memory.values()) / 2**30,
                "driver_bytes_per_task": (max(large.memory.values()) - max(small.memory.values()))
                / (tasks - small.tasks["gradients"]),
                "objects_per_task": large.objects / tasks,
                "listings_per_task": sum(large.listings.values()) / tasks,
            },
        )


def _books(config: Path, root: str, samples: int) -> Watched:
    return Watched(**json.loads(_printed("tests.benchmarks.run_metadata", str(config), root, str(samples))))


def _figures_of(module: str, *arguments: str) -> Figures:
    found: Figures = json.loads(_printed(module, *arguments))
    return found


def _printed(module: str, *arguments: str) -> str:
    """The last line that a benchmark prints in a process of its own."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} failed: {done.stderr}")
    return done.stdout.splitlines()[-1]


PARTS: dict[str, Callable[[Scale], Iterator[tuple[str, Figures]]]] = {
    "ray": ray,
    "scoring": scoring,
    "metadata": metadata,
    "audit": audit,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "zoo", type=Path, help="holds zoo/ with weights and zoo_net.py, and data/cifar10/ with trusted and train"
    )
    parser.add_argument("images", type=int, nargs="?", default=IMAGES)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of the largest audit whose metadata is written")
    parser.add_argument("--cache", type=Path, help="where pictures are kept; a folder for this run alone unless given")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    everything: dict[str, JsonValue] = {}
    with tempfile.TemporaryDirectory(dir=options.cache, prefix="roots-") as name:
        scale = Scale(
            Zoo(options.zoo.resolve(), Path(name)),
            options.cache.resolve() if options.cache else Path(name),
            options.images,
            options.samples,
        )
        for part in options.parts:
            for place, figures in PARTS[part](scale):
                everything |= {
                    f"{place}{figure}": round(value, 3) if isinstance(value, float) else value
                    for figure, value in figures.items()
                }
                print(
                    f"{part}: {json.dumps({place + figure: everything[place + figure] for figure in figures})}",
                    file=sys.stderr,
                    flush=True,
                )
    print(json.dumps(everything))


if __name__ == "__main__":
    main()
