"""The example of Magika: what the network sees, odd files, and, where the package is there, equality with it."""

import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.run import run_audit

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "docs/examples/magika"
MODULES = ("net", "odd", "prepare")
END = "jax2tf_get_logits_/pjit_get_logits_/MagikaV2/LayerNorm_0/AddV2_1:0"  # of the graph's first normalisation


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The example's modules, under their own names while a test runs."""
    monkeypatch.syspath_prepend(EXAMPLE)
    yield {name: import_module(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name, None)


def package() -> Path:
    found = find_spec("magika")
    if found is None or found.origin is None:
        pytest.skip("needs the package magika: pip install magika==1.0.3 onnx")
    pytest.importorskip("onnx", reason="needs the package onnx, with which the example reads Magika's weights")
    return Path(found.origin).parent


def contents() -> list[bytes]:
    """Files of this repository, and contents of odd lengths with white space and zeros around them."""
    random = Random(0)
    made = [
        b" \n" * random.randrange(3000) + random.randbytes(random.randrange(3000)) + bytes(random.choice((0, 5000)))
        for _ in range(20)
    ]
    files = [path for path in sorted(REPOSITORY.glob("docs/**/*")) if path.suffix in (".md", ".py", ".png", ".svg")]
    return [path.read_bytes() for path in files] + made + [b"", b"\n" * 9000, b"1234567", b"12345678", b"x" * 4097]


def test_the_network_sees_both_ends_of_a_file_without_white_space(modules: dict[str, ModuleType]) -> None:
    features = modules["net"].features
    short = features(b"\n  12345678\n")
    assert short == [*b"12345678\n", *[256] * 1015, *[256] * 1013, *b"\n  12345678"]
    long = features(b" " * 100 + bytes(range(1, 256)) * 40)
    assert long[:5] == [1, 2, 3, 4, 5]
    assert long[-2:] == [254, 255]
    assert len(long) == 2048
    assert features(b" " * 5000 + b"12345678") is None


def test_the_module_gives_a_logit_for_each_kind(modules: dict[str, ModuleType]) -> None:
    net = modules["net"]
    seen = torch.tensor([net.features(content) for content in (b"#!/bin/sh\n", b"%PDF-1.4" * 999)])
    assert net.build()(seen).shape == (2, 214)


def test_odd_files_are_what_they_are_called(modules: dict[str, ModuleType]) -> None:
    file = modules["odd"].File
    donors = [
        file("/usr/a.png", "png", b"\x89PNG\r\n\x1a\n" + bytes(range(200))),
        file("/usr/b.sh", "shell", b"#!/bin/sh\necho " + b"b" * 300),
        file("/usr/c.jar", "jar", archive_of("c.class", b"c")),
    ]
    png, shell, jar = (donor.content for donor in donors)

    def odd(name: str) -> dict[str, Any]:
        made = modules["odd"].make_odd(name, donors, 9, Random(1))
        assert made == modules["odd"].make_odd(name, donors, 9, Random(1))
        return {one.path.removeprefix(f"{name}: "): one for one in made}

    (zipped,) = (one.content for one in odd("zip appended").values())
    assert zipped.startswith(png)
    assert zipfile.ZipFile(io.BytesIO(zipped)).read("b.sh") == shell
    (document,) = (one.content for one in odd("pdf in front").values())
    assert document.startswith(b"%PDF-")
    assert zipfile.ZipFile(io.BytesIO(document)).read("c.class") == b"c"
    assert [one.content for one in odd("script appended").values()] == [png + b"\n" + shell]
    assert all(donor.content.startswith(odd("cut")[donor.path].content) for donor in donors)
    assert all(
        odd("zeros appended")[donor.path].content.rstrip(b"\0") == donor.content.rstrip(b"\0") for donor in donors
    )
    assert all(odd("junk in front")[donor.path].content.endswith(donor.content) for donor in donors)
    headed = odd("other header")["/usr/a.png"].content
    assert headed[64:] == png[64:]
    assert headed[:64] in (shell[:64], jar[:64])
    assert [(one.path, one.kind, one.content) for one in odd("other name").values()] == [
        ("other name: /usr/b.sh", "shell", shell)
    ]


def archive_of(name: str, content: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(name, content)
    return whole.getvalue()


@pytest.mark.skipif(find_spec("magika") is not None, reason="the package magika is there")
def test_without_the_package_the_example_says_what_to_install(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"pip install magika==1\.0\.3 onnx"):
        modules["prepare"].main(tmp_path)


def test_the_package_sees_the_same_of_files(modules: dict[str, ModuleType]) -> None:
    package()
    magika, seekable = import_module("magika").Magika(), import_module("magika.types").Seekable
    for content in contents():
        _, seen = magika._get_result_or_features_from_seekable(seekable(io.BytesIO(content)))
        assert modules["net"].features(content) == (None if seen is None else seen.beg + seen.end)


def test_the_module_gives_the_packages_scores(modules: dict[str, ModuleType]) -> None:
    net, file = modules["net"], package() / "models/standard_v3_3/model.onnx"
    seen = np.array([features for content in contents() if (features := net.features(content)) is not None], np.int32)
    module = net.Magika().eval()
    module.load_state_dict(net.weights_of(file))
    with torch.inference_mode():
        scores = module(torch.from_numpy(seen).long()).softmax(dim=1).numpy()
    (exact,) = exact_session(file).run(None, {"bytes": seen})
    assert np.abs(scores - exact).max() < 1e-5


def exact_session(file: Path) -> Any:
    """The package's graph, with all up to the end of its first normalisation in float64.

    As it is, it takes the variance for the mean of squares less the square of the mean, in float32: of a file that is
    nearly all padding, no digit of that is right.
    """
    onnx, runtime = import_module("onnx"), import_module("onnxruntime")
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    graph = (model := onnx.load(file)).graph
    floats = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer if one.data_type == single}
    last = next(place for place, node in enumerate(graph.node) if END in node.output)
    for node in graph.node[: last + 1]:
        node.input[:] = [f"{name}, exact" if name in floats else name for name in node.input]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == single:
                attribute.i = double
    graph.node[last].output[0] = "exact"
    graph.node.insert(last + 1, onnx.helper.make_node("Cast", ["exact"], [END], to=single))
    exact = [onnx.numpy_helper.from_array(array.astype(np.float64), f"{name}, exact") for name, array in floats.items()]
    graph.initializer.extend(exact)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # of unused tensors it warns
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_the_example_runs_on_few_files(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package()
    pytest.importorskip("pandas", reason="needs the extra dask")
    for name, count in {"TRUSTED": 80, "CLEAN": 20, "ODD": 5}.items():
        monkeypatch.setattr(modules["prepare"], name, count)
    modules["prepare"].main(tmp_path, below=str(REPOSITORY / "pipeline"))
    plan = plan_audit(AuditConfig.load(tmp_path / "audit.yaml"))
    assert plan.models[0].layout.names == ("bytes.weight", "patterns.weight", "kinds.weight")
    run_audit(plan)
    code = re.search(r"```python\n(.*?)```", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    exec(code.group(1).replace("FOLDER", str(tmp_path)), {})
    groups = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"clean", "cut", "zeros appended", "junk in front", "other header"} <= set(groups)
    summary = json.loads((tmp_path / "root/magika/summary.json").read_text())
    assert summary["counts"]["unreadable"] == 0
