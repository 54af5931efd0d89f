"""Where a Hugging Face folder may be: on this machine, or in a store, from which it is fetched once for each state."""

from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from infra.errors import StorageError
from infra.storage.local_copies import cache_folder
from pipeline.config.audit_config import AuditConfig
from pipeline.data.folders import FolderPlace
from pipeline.errors import SourceError
from pipeline.models.identity import identify
from pipeline.models.load import load_model
from tests.languages import save
from tests.pipeline.config.configs import MINIMAL
from tests.services import Service


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder() / "copies"


def find_folder(config: AuditConfig, name: str) -> Path:
    return FolderPlace(name, config.locate(name)).find()


def small(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    settings = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
    )
    save(ViTForImageClassification(settings), folder)
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "README.md").write_text("of no interest")
    return folder


def test_a_folder_is_found_from_the_config_and_what_is_none_is_refused(tmp_path: Path) -> None:
    config = AuditConfig.parse(MINIMAL, str(tmp_path))
    (tmp_path / "chat").mkdir()
    (tmp_path / "file").touch()
    assert find_folder(config, "chat") == find_folder(config, f"file://{tmp_path}/chat") == tmp_path / "chat"
    for name, says in (("file", "is a file; name the folder"), ("./a/b/c", "no such folder")):
        with pytest.raises(SourceError, match=says):
            find_folder(config, name)


def test_a_folder_in_a_store_is_fetched_once_and_again_when_it_changed(
    on_moto: Service, tmp_path: Path, cache: Path
) -> None:
    on_moto.make_bucket("zoo")
    client = on_moto.client()
    for file in small(tmp_path / "first").iterdir():
        client.put_object(Bucket="zoo", Key=f"vit/{file.name}", Body=file.read_bytes())
    config = AuditConfig.parse({**MINIMAL, "models": [{"name": "vit", "huggingface": "s3://zoo/vit"}]}, str(tmp_path))
    (model,) = config.models
    files = identify(config, model)
    assert files is not None and not cache.exists()
    loaded = load_model(config, model)
    expected = ViTForImageClassification.from_pretrained(tmp_path / "first").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.module.state_dict().items())
    (copy,) = cache.iterdir()
    assert sorted(file.name for file in copy.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    written = (copy / "config.json").stat().st_mtime_ns
    assert load_model(config, model).digest == loaded.digest
    assert (copy / "config.json").stat().st_mtime_ns == written
    weights = small(tmp_path / "second", seed=1) / "model.safetensors"
    client.put_object(Bucket="zoo", Key="vit/model.safetensors", Body=weights.read_bytes())
    assert identify(config, model) != files
    assert load_model(config, model).digest != loaded.digest
    assert len(list(cache.iterdir())) == 2


def test_a_place_in_a_store_that_holds_no_model_is_refused(on_moto: Service, tmp_path: Path) -> None:
    on_moto.make_bucket("empty")
    config = AuditConfig.parse(MINIMAL, str(tmp_path))
    with pytest.raises(SourceError, match="huggingface s3://empty/vit: no such folder in its store"):
        find_folder(config, "s3://empty/vit")


def test_a_cache_that_cannot_be_written_is_named(
    on_moto: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_moto.make_bucket("zoo2")
    on_moto.client().put_object(Bucket="zoo2", Key="vit/config.json", Body=b"{}")
    (tmp_path / "taken").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    with pytest.raises(StorageError, match="a part of this path is a file, not a folder"):
        find_folder(AuditConfig.parse(MINIMAL, str(tmp_path)), "s3://zoo2/vit")
