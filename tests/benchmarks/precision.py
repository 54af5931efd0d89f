"""How the precision of the model and of stored rows changes rows and scores: `make bench-precision ZOO=FOLDER`.

For each model of the zoo: 600 trusted and 600 audited images, with the defaults otherwise (margin, all matrices, rank
16, `block_moment` damped by its mean, `prediction_coupling`, all trusted samples as references). Rows are compared with
float32 rows of a float32 model: the mean and the smallest cosine, the largest difference of a score, the AUROC of the
attack's success, and how many predictions change, since a row measures the margin of the prediction and turns around
with it. The last line is one JSON object.

    python -m tests.benchmarks.precision FOLDER [--models NAME ...]
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from pydantic import JsonValue
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from madcore import (
    BlockMoment,
    Damping,
    Measured,
    Projection,
    References,
    RowExtractor,
    RowLayout,
    Whitening,
    margin,
    score,
    select_layers,
)
from madcore.rows import from_half, to_half
from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import Preprocess
from pipeline.data.images.decoding import decode
from pipeline.data.images.reading import scale_pixels
from pipeline.models.load import load_model

SAMPLES, BATCH, CLASSES = 600, 200, 10


PREPROCESS = Preprocess(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261), size=32)


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def model_of(folder: Path, name: str) -> nn.Module:
    """A model of the zoo, loaded as audits load it."""
    data: JsonValue = {"trusted": "unread.parquet", "audited": "unread.parquet"}
    model: JsonValue = {
        "name": name,
        "architecture": str(folder / "zoo/zoo_net.py:preact_resnet"),
        "weights": str(folder / f"zoo/{name}.safetensors"),
    }
    config = AuditConfig.parse({"root": "memory://unread", "task": "classification", "models": [model], "data": data})
    return load_model(config, config.models[0]).module


def images_of(path: Path) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Evenly spread samples of a file: their images, and their other columns."""
    table = pq.read_table(path)
    table = table.take(np.linspace(0, len(table) - 1, SAMPLES).astype(int))
    pixels = np.stack([decode(image["bytes"], (32, 32), resize=True) for image in table["image"].to_pylist()])
    columns = {
        name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name not in ("id", "image")
    }
    return torch.from_numpy(scale_pixels(pixels, PREPROCESS)), columns


def rows_of(extractor: RowExtractor, images: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Rows (n, k) and predictions (n,)."""
    parts = [extractor(Measured(part, margin), PRECISIONS[precision]) for part in images.split(BATCH)]
    return torch.cat([part.rows for part in parts]), torch.cat([part.outputs for part in parts]).float().argmax(dim=1)


def stored(rows_nk: Tensor, layout: RowLayout, dtype: str) -> Tensor:
    """Rows as they come back from where they are kept."""
    return rows_nk if dtype == "float32" else from_half(*to_half(rows_nk, layout), layout)


def scores_of(layout: RowLayout, trusted: tuple[Tensor, Tensor], audited: tuple[Tensor, Tensor]) -> Tensor:
    """Anomaly scores (n,) of audited rows and predictions, trusted ones being the references."""
    whitening = Whitening.fit(layout, BlockMoment.zero(layout).update(trusted[0]).finalize(), Damping())
    references = References.of(layout, "concatenated", whitening(trusted[0]), trusted[1], CLASSES)
    return score(references, "prediction_coupling", whitening(audited[0]), audited[1]).score


def compared(folder: Path, name: str) -> dict[str, float]:
    """All figures of a model."""
    model, figures = model_of(folder, name), {}
    extractor = RowExtractor(model, select_layers(model).covered, Projection())
    trusted, _ = images_of(folder / "data/cifar10/trusted.parquet")
    audited, truth = images_of(folder / f"data/cifar10/audited-{name}.parquet")
    reference: tuple[Tensor, Tensor, Tensor] | None = None
    for precision in PRECISIONS:
        computed = [rows_of(extractor, images, precision) for images in (trusted, audited)]
        for dtype in ("float32", "float16"):
            kept = [(stored(rows, extractor.layout, dtype), predictions) for rows, predictions in computed]
            scores = scores_of(extractor.layout, kept[0], kept[1])
            reference = reference or (*kept[1], scores)
            succeeded = truth["anomalous"] & (
                kept[1][1].numpy() == np.nan_to_num(truth["target"].astype(float), nan=-1)
            )
            counted = succeeded | ~truth["anomalous"].astype(bool)
            cosines = F.cosine_similarity(kept[1][0].double(), reference[0].double(), dim=1)
            here = {
                "mean_cosine": float(cosines.mean()),
                "least_cosine": float(cosines.min()),
                "score_difference": float((scores - reference[2]).abs().max()),
                "auroc": float(roc_auc_score(succeeded[counted], scores.numpy()[counted])),
                "changed_predictions": float((kept[1][1] != reference[1]).sum()),
                "not_finite": float((~torch.isfinite(kept[1][0]).all(dim=1)).sum()),
            }
            print(
                f"{name}, model {precision}, rows {dtype}: "
                + ", ".join(f"{what} {value:.6f}" for what, value in here.items()),
                file=sys.stderr,
                flush=True,
            )
            figures |= {f"{name}/{precision}/{dtype}/{what}": round(value, 7) for what, value in here.items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder",
        type=Path,
        help="holds zoo/ with weights and zoo_net.py, and data/cifar10/ with trusted and audited files",
    )
    parser.add_argument("--models", nargs="+", default=["badnets", "wanet"])
    options = parser.parse_args()
    print(
        json.dumps(
            {key: value for name in options.models for key, value in compared(options.folder.resolve(), name).items()}
        )
    )


if __name__ == "__main__":
    main()
