"""Which modules a model's code comes from: the same in every process, and none that is installed."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from pipeline.errors import SourceError
from pipeline.models.local_code import local_code

PACKAGE = {
    "__init__": "",
    "blocks": "import json\nfrom torch import nn\nfrom . import ops\n\n\nclass Block(nn.Linear):\n    pass\n",
    "ops": "import torch.nn.functional as F\n\n\ndef swish(x):\n    return x * F.sigmoid(x)\n",
    "late": "LIMIT = 6\n",
    "chosen": "from torch import nn\n\n\nclass Chosen(nn.Linear):\n    pass\n",
    "held": "def squashed(x):\n    return x.tanh()\n",
    "other": "raise RuntimeError('nobody imports it')\n",
}

Place = Callable[..., ModuleType]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Writes the package `mynet` and imports its module `net` of this source."""

    def write(net: str, **changed: str) -> ModuleType:
        (tmp_path / "mynet").mkdir(exist_ok=True)
        for name, source in {**PACKAGE, **changed, "net": net}.items():
            (tmp_path / "mynet" / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        return importlib.import_module("mynet.net")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "mynet"]:
        del sys.modules[name]


def reached(net: ModuleType, model: nn.Module | None = None) -> set[str]:
    assert net.__file__ is not None
    return set(local_code(model or net.build(), net, Path(net.__file__).read_bytes(), "architecture mynet.net"))


IMPORTS = {
    "a module of the package": ("from mynet.blocks import Block as build", {"mynet", "mynet.blocks", "mynet.ops"}),
    "a relative import": ("from .blocks import Block", {"mynet", "mynet.blocks", "mynet.ops"}),
    "a module of a package": ("from . import ops", {"mynet", "mynet.ops"}),
    "its whole name": ("import mynet.ops", {"mynet", "mynet.ops"}),
    "what a function imports when it runs": ("def run():\n    from .late import LIMIT\n", {"mynet", "mynet.late"}),
    "what is installed": ("import json, torch, pydantic, pytest\nfrom sklearn import metrics\n", {"mynet"}),
    "this project": ("from pipeline.demo.network import digit_cnn\nimport madcore\n", {"mynet"}),
    "what is not there": ("def run():\n    import nowhere.at_all\n    from .gone import it\n", {"mynet"}),
}


@pytest.mark.parametrize(("code", "expected"), IMPORTS.values(), ids=IMPORTS)
def test_what_import_statements_reach(place: Place, code: str, expected: set[str]) -> None:
    net = place(f"from torch import nn\n{code}\n")
    assert reached(net, nn.Linear(2, 2)) == expected


def test_what_a_computed_name_imports_is_reached_by_the_layers_and_what_they_hold(place: Place) -> None:
    net = place(
        "import importlib\n\n\ndef build(name='chosen'):\n"
        "    model = importlib.import_module(f'mynet.{name}').Chosen(3, 2)\n"
        "    model.activation = importlib.import_module('mynet.held').squashed\n    return model\n"
    )
    assert reached(net) == {"mynet", "mynet.chosen", "mynet.held"}


def test_it_is_the_same_whatever_is_imported_already(place: Place) -> None:
    net = place(
        "from torch import nn\n\n\ndef build():\n    return nn.Linear(2, 2)\n\n\ndef run():\n    from . import late\n"
    )
    before = reached(net)
    importlib.import_module("mynet.late")
    importlib.import_module("mynet.blocks")
    assert reached(net) == before == {"mynet", "mynet.late"}


def test_a_module_that_was_changed_since_it_was_imported_is_refused(place: Place) -> None:
    code = "from .ops import swish\nfrom torch import nn\n\n\ndef build():\n    return nn.Linear(2, 2)\n"
    net = place(code)
    assert reached(net) == {"mynet", "mynet.ops"}
    place(code, ops="# a remark\n" + PACKAGE["ops"])
    assert reached(net) == {"mynet", "mynet.ops"}
    place(code, ops=PACKAGE["ops"].replace("x * F", "2 * x * F"))
    with pytest.raises(
        SourceError, match=r"^architecture mynet\.net: .*ops\.py has changed since .* mynet\.ops \(swish\)"
    ):
        reached(net)
