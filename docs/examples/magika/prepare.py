"""Files of this machine's /usr, and odd ones made of them, for an audit of Magika: `python prepare.py FOLDER`."""

import json
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import compress
from operator import not_
from pathlib import Path
from random import Random
from shutil import copyfile

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from net import CONFIG, build, features, weights_of
from odd import ODDITIES, File, make_odd
from safetensors.torch import save_file
from torch import Tensor

TRUSTED, CLEAN, ODD, A_KIND = 2000, 600, 100, 250
LARGEST = 2**20  # bytes
FURTHER = {"so": "elf", "h": "c", "hpp": "cpp"}  # extensions that the package's list lacks

AUDIT = """root: root
task: classification
models:
  - {name: magika, architecture: net.py:build, weights: magika.safetensors, control: untrained}
data:
  trusted: trusted.parquet
  audited: audited.parquet
  columns: {inputs: {content: content}, label: label}
  labels: [LABELS]
calibration: {target: {fpr: 0.05}}
run: {batch_size: 32}
"""


def package() -> Path:
    """The package's folder; the package itself is not imported."""
    found = find_spec("magika")
    if found is None or found.origin is None or find_spec("onnx") is None:
        sys.exit("this example takes the model from the package magika: pip install magika==1.0.3 onnx")
    return Path(found.origin).parent


def files_below(folder: str, kinds: dict[str, str], random: Random) -> list[File]:
    """Files whose name says their kind, at most A_KIND of each and no two alike, in random order."""
    paths = sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    random.shuffle(paths)
    files, left = dict[bytes, File](), dict.fromkeys(kinds.values(), A_KIND)
    for path in filter(str.isprintable, paths):
        kind = kinds.get(path.rpartition(".")[2])
        if kind is None or not left[kind] or not usable(path):
            continue
        content = Path(path).read_bytes()
        if features(content) and content not in files:
            left[kind] -= 1
            files[content] = File(path, kind, content)
    return random.sample(list(files.values()), len(files))


def usable(path: str) -> bool:
    """Whether a path is a file itself, can be read, and is not large."""
    whole = os.path.isfile(path) and not os.path.islink(path)
    return whole and os.access(path, os.R_OK) and os.path.getsize(path) <= LARGEST


def predicted(files: list[File], weights: dict[str, Tensor]) -> list[int]:
    """The kind that the network gives each file."""
    network = build().eval()
    network.load_state_dict(weights)
    found = list[int]()
    with torch.inference_mode():
        for start in range(0, len(files), 64):
            seen = torch.tensor([features(file.content) for file in files[start : start + 64]])
            found += network(seen).argmax(dim=1).tolist()
    return found


def write(path: Path, groups: dict[bool | None, list[File]]) -> None:
    """A table of what the network sees of files; those too short for it are left out."""
    rows = [
        {"id": file.path, "content": content, "label": file.kind, "anomalous": anomalous}
        for anomalous, files in groups.items()
        for file in files
        if (content := features(file.content)) is not None
    ]
    numbers = pa.list_(pa.uint16(), len(rows[0]["content"]))
    schema = {"id": pa.string(), "content": numbers, "label": pa.string(), "anomalous": pa.bool_()}
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(schema)), path)


def main(folder: Path, below: str = "/usr") -> None:
    """Writes the weights, net.py, two Parquet files and audit.yaml."""
    model = package() / "models" / "standard_v3_3"
    config = json.loads((model / "config.min.json").read_text())
    if {name: config[name] for name in CONFIG} != CONFIG:
        sys.exit(f"{model} takes other bytes of a file than this example: pip install magika==1.0.3")
    labels: list[str] = config["target_labels_space"]
    known = json.loads((package() / "config" / "content_types_kb.min.json").read_text())
    kinds = {extension: label for label in reversed(labels) for extension in known[label]["extensions"]} | FURTHER
    weights = weights_of(model / "model.onnx")

    random = Random(0)  # noqa: S311 - the same files on every run
    files = files_below(below, kinds, random)
    agrees = [labels[kind] == file.kind for file, kind in zip(files, predicted(files, weights), strict=True)]
    usual, doubtful = list(compress(files, agrees)), list(compress(files, map(not_, agrees)))
    trusted, clean, donors = usual[:TRUSTED], usual[TRUSTED : TRUSTED + CLEAN], usual[TRUSTED + CLEAN :]
    if not donors:
        sys.exit(f"this example needs more than {TRUSTED + CLEAN} files whose kind is known; {below} has {len(usual)}")
    odd = [file for name in ODDITIES for file in make_odd(name, donors, ODD, random)]
    marked = [replace(file, path=f"doubtful: {file.path}") for file in doubtful]

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "magika.safetensors")
    copyfile(Path(__file__).with_name("net.py"), folder / "net.py")
    (folder / "audit.yaml").write_text(AUDIT.replace("LABELS", ", ".join(labels)))
    write(folder / "trusted.parquet", {False: trusted})
    write(folder / "audited.parquet", {False: clean, True: odd, None: marked})
    print(f"{len(trusted)} trusted, {len(clean)} clean, {len(odd)} odd and {len(doubtful)} doubtful files")
    print(f"now: mad run {folder}/audit.yaml")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
