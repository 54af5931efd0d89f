"""Models by their names in timm and torchvision, which tests skip where these do not import beside the installed torch.

The package index's torchvision is linked against CUDA; beside a torch for the CPU, PyTorch's own index has the other.
"""

import importlib
import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import JsonValue
from safetensors.torch import save_file

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import SourceError
from pipeline.models.load import load_model, load_shapes
from pipeline.planning.from_models import plan_audit


def imports(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - a torchvision of another torch raises whatever it does
        pytest.skip(f"{name} does not import beside torch {torch.__version__} ({type(error).__name__}: {error})")


def config(folder: Path, **model: JsonValue) -> AuditConfig:
    data: JsonValue = {"trusted": "trusted.parquet", "audited": "audited.parquet"}
    models: JsonValue = [{"name": "net", "weights": "net.safetensors", **model}]
    raw: dict[str, JsonValue] = {"root": "r", "task": "classification", "models": models, "data": data}
    return AuditConfig.parse({**raw, "calibration": {"target": {"fpr": 0.1}}}, str(folder))


def complaint(folder: Path, **model: JsonValue) -> str:
    audit = config(folder, **model)
    with pytest.raises(SourceError) as caught:
        load_model(audit, audit.models[0])
    return str(caught.value)


def pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("trusted", "audited"):
        encoded = []
        for _ in range(40):
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
        pq.write_table(pa.table({"id": [*range(40)], "image": encoded}), folder / f"{split}.parquet")


def test_a_model_of_timm_is_loaded_by_its_name_with_what_timm_knows(tmp_path: Path) -> None:
    timm = imports("timm")
    torch.manual_seed(0)
    own = timm.create_model("resnet10t", pretrained=False, num_classes=7).eval()
    save_file(own.state_dict(), tmp_path / "net.safetensors")
    kwargs: JsonValue = {"num_classes": 7}
    audit = config(tmp_path, timm="resnet10t", kwargs=kwargs)
    loaded = load_model(audit, audit.models[0])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.module(images), own(images))
    assert loaded.known.class_names == ()
    assert loaded.known.recipe is not None
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 411, 3), dtype=np.uint8))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(own))
    np.testing.assert_allclose(loaded.known.recipe.make(picture), transform(picture).numpy(), atol=1e-6)
    shapes = load_shapes(audit, audit.models[0]).module
    assert {name: one.shape for name, one in shapes.named_parameters()} == {
        name: one.shape for name, one in own.named_parameters()
    }


def test_classes_of_imagenet_have_names(tmp_path: Path) -> None:
    timm = imports("timm")
    save_file(timm.create_model("mobilenetv3_small_050", pretrained=False).state_dict(), tmp_path / "net.safetensors")
    audit = config(tmp_path, timm="mobilenetv3_small_050")
    names = load_model(audit, audit.models[0]).known.class_names
    assert (len(names), names[0]) == (1000, "tench, Tinca tinca")


def test_a_model_of_torchvision_is_loaded_by_its_name_with_its_default_transforms(tmp_path: Path) -> None:
    torchvision = imports("torchvision")
    torch.manual_seed(0)
    own = torchvision.models.get_model("squeezenet1_1", weights=None).eval()
    save_file(own.state_dict(), tmp_path / "net.safetensors")
    audit = config(tmp_path, torchvision="squeezenet1_1")
    loaded = load_model(audit, audit.models[0])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.module(images), own(images))
    assert loaded.known.class_names[:2] == ("tench", "goldfish")
    assert loaded.known.recipe is not None
    transform = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.transforms()
    for shape in ((300, 411, 3), (411, 300, 3), (100, 120, 3)):
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        np.testing.assert_allclose(loaded.known.recipe.make(picture), transform(picture).numpy(), atol=1e-6)


def test_a_plan_of_a_model_of_timm_needs_no_preprocessing(tmp_path: Path) -> None:
    timm = imports("timm")
    torch.manual_seed(0)
    own = timm.create_model("resnet10t", pretrained=False, num_classes=7)
    save_file(own.state_dict(), tmp_path / "net.safetensors")
    pictures(tmp_path)
    kwargs: JsonValue = {"num_classes": 7}
    plan = plan_audit(config(tmp_path, timm="resnet10t", kwargs=kwargs)).models[0]
    assert plan.classes == 7
    assert plan.inputs.shape == (3, 176, 176)


def test_a_name_that_timm_does_not_know_and_arguments_that_choose_weights_are_refused(tmp_path: Path) -> None:
    imports("timm")
    assert "timm nope with kwargs {}: failed with RuntimeError: Unknown model (nope)" in complaint(
        tmp_path, timm="nope"
    )
    kwargs: JsonValue = {"checkpoint_path": "evil.pth"}
    assert "checkpoint_path would choose other weights or files" in complaint(tmp_path, timm="resnet18", kwargs=kwargs)


@pytest.mark.parametrize("key", ["timm", "torchvision"])
def test_without_the_library_what_to_install_is_said(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, key, None)
    message = complaint(tmp_path, **{key: "resnet18"})
    assert message.startswith(f"{key} resnet18: needs the package {key}, which is not installed; torch and torchvision")
    assert "--index-url https://download.pytorch.org/whl/" in message


def test_a_torchvision_of_another_torch_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site" / "torchvision").mkdir(parents=True)
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (tmp_path / "site" / "torchvision" / "__init__.py").write_text(broken)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    message = complaint(tmp_path, torchvision="resnet18")
    expected = "importing torchvision failed with RuntimeError (operator torchvision::nms does not exist); torch and"
    assert expected in message
    assert "pip install --no-deps 'torchvision==0." in message
