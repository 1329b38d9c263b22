from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import graphpress
from graphpress.aliasing import MOVED, find_moved
from tests.documents import SEEDS, page

# What a user of the document has at hand, before and around its code.
BEFORE = """
import sys, warnings
import graphpress
assert "graphpress.aliasing" not in sys.modules and "graphpress.quantization" not in sys.modules
graphpress.install_as_coreai_opt()
graphpress.install_as_coreai_opt()
import torch
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
example_inputs = (torch.randn(1, 3, 8, 8),)
calibration_dataloader = [torch.randn(1, 3, 8, 8) for _ in range(2)]
"""

AFTER = """
assert final_model(*example_inputs).shape == (1, 4, 6, 6)

import coreai_opt.quantization.spec, graphpress.quantization.spec
from coreai_opt import quantization
assert coreai_opt is graphpress and opt is graphpress
assert coreai_opt.quantization.spec is graphpress.quantization.spec is sys.modules["coreai_opt.quantization.spec"]
assert quantization is graphpress.quantization
assert graphpress.__spec__.name == "graphpress"
assert graphpress.quantization.spec.__spec__.name == "graphpress.quantization.spec"

from coreai_opt.common import ExportBackend  # where ExecuTorch's wrapper looks for it
assert ExportBackend is graphpress.ExportBackend

import coreai_opt.coreai_utils, graphpress.coreai_utils
from coreai_opt.coreai_utils.common import CompressionGranularity, DType, QScheme
assert coreai_opt.coreai_utils is graphpress.coreai_utils
assert DType is graphpress.coreai_utils.DType and QScheme is graphpress.coreai_utils.QScheme

from coreai_opt.palettization.kmeans import KMeansPalettizer
from coreai_opt.quantization.spec.granularity import PerBlockGranularity
from coreai_opt.quantization.spec.qformulation import QuantizationFormulation
from coreai_opt.quantization.spec.qparams_calculator import QParamsCalculatorBase
from coreai_opt.quantization.spec.qscheme import QuantizationScheme
from coreai_opt.quantization.spec.range_calculator import RangeCalculatorBase
from coreai_opt.quantization.spec.spec import QuantizationSpec
assert KMeansPalettizer is graphpress.palettization.KMeansPalettizer
specs = graphpress.quantization.spec
assert PerBlockGranularity is specs.PerBlockGranularity and QuantizationSpec is specs.QuantizationSpec
assert QuantizationFormulation is specs.QuantizationFormulation and QuantizationScheme is specs.QuantizationScheme
assert QParamsCalculatorBase is specs.QParamsCalculatorBase and RangeCalculatorBase is specs.RangeCalculatorBase
assert graphpress.palettization.__spec__.name == "graphpress.palettization"
from coreai_opt.palettization.kmeans.config import KMeansPalettizerConfig
assert KMeansPalettizerConfig is graphpress.palettization.KMeansPalettizerConfig

import importlib.util
assert importlib.util.find_spec("coreai_opt.palettization.config") is not None
assert importlib.util.find_spec("coreai_opt.no_such_module") is None
assert importlib.util.find_spec("coreai_opt.palettization.kmeans.no_such_module") is None
try:
    import coreai_opt.no_such_module
except ModuleNotFoundError as error:
    assert error.name == "coreai_opt.no_such_module"
else:
    raise AssertionError("a module that is not there was imported")

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    Quantizer(model, QuantizerConfig(module_name_configs={"misspelt": None})).prepare(example_inputs)
assert any("misspelt" in str(warning.message) for warning in caught)
print("done")
"""

REFUSED = """
import coreai_opt
import graphpress
try:
    graphpress.install_as_coreai_opt()
except graphpress.GraphpressError as error:
    assert isinstance(error, ImportError)
    print(error)
assert coreai_opt is not graphpress
"""


IN_PLACE = """
import copy
import graphpress
graphpress.install_as_coreai_opt()
import torch
from coreai_opt.palettization import KMeansPalettizer
from coreai_opt.palettization.config.palettization_config import PATSchedule, default_weight_palettization_spec
from coreai_opt.base_model_compressor import CompressionConfig, ExportBackend
from coreai_opt.common import CompressionType, CoreMLExportError, UntestedTorchVersionWarning
assert issubclass(UntestedTorchVersionWarning, graphpress.DependencyVersionWarning)
from coreai_opt.palettization import kmeans
from coreai_opt.pruning.magnitude_pruner import MagnitudePruner
from coreai_opt.quantization.config.quantization_config import ExecutionMode, QuantizerConfig
from coreai_opt.quantization.quantizer import Quantizer

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()

x = torch.randn(2, 16)
eager = lambda model: Quantizer(model, QuantizerConfig(execution_mode=ExecutionMode.EAGER))
for make in (KMeansPalettizer, MagnitudePruner, eager):
    model = network()
    before = model(x)
    prepared = make(model).prepare((x,))
    assert prepared is model, make
    assert not torch.equal(model(x), before)
    other = network()
    assert make(other).prepare((x,), copy=True) is not other
    assert torch.equal(other(x), before)
model = network()
assert Quantizer(model).prepare((x,)) is not model
assert torch.equal(model(x), before)

assert kmeans.KMeansPalettizer is KMeansPalettizer
import coreai_opt.quantization.config.quantization_config as composed
try:
    composed.no_such_name
except AttributeError as error:
    assert "coreai_opt.quantization.config.quantization_config" in str(error)
else:
    raise AssertionError
print("done")
"""

PLUGINS = """
import warnings
import graphpress.plugins

class Point:
    def __init__(self, name, load):
        self.name, self.value, self.load = name, name + ":register", load

called = []
def broken():
    raise ValueError("boom")
working = Point("working", lambda: lambda: called.append(1))
points = [Point("failing", lambda: broken), Point("missing", broken), working]
graphpress.plugins.entry_points = lambda *, group: points if group == "coreai_opt.plugins" else []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    graphpress.install_as_coreai_opt()
    graphpress.install_as_coreai_opt()
assert called == [1], called
print(*(f"{warning.category.__name__}: {warning.message}" for warning in caught), sep="\\n")
"""


def run(folder: Path, script: str) -> str:
    file = folder / "script.py"
    file.write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_for_the_other_package_runs_unchanged(tmp_path: Path) -> None:
    document = (SEEDS / "joint_compression.md.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", document, flags=re.DOTALL | re.MULTILINE)
    assert any("import coreai_opt as opt" in block for block in blocks)
    assert "done" in run(tmp_path, "\n".join([BEFORE, *blocks, AFTER]))


def test_scripts_go_on_with_the_model_that_they_passed(tmp_path: Path) -> None:
    assert "done" in run(tmp_path, IN_PLACE)


def test_plugins_of_the_other_package_are_called_once_and_broken_ones_skipped(tmp_path: Path) -> None:
    lines = run(tmp_path, PLUGINS).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["RuntimeWarning", "RuntimeWarning"]
    assert "'failing' (failing:register)" in lines[0]
    assert "ValueError: boom" in lines[1]


def test_what_the_page_about_the_other_package_says_works(tmp_path: Path) -> None:
    blocks = [block.code for block in page("docs/coming-from-coreai-opt.md").blocks()]
    assert any("assert" in block for block in blocks)
    run(tmp_path, "\n".join(blocks))


def test_the_alias_is_refused_when_the_other_package_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "coreai_opt.py").write_text("version = 1\n", encoding="utf-8")
    message = run(tmp_path, REFUSED)
    assert "coreai_opt is already imported" in message
    assert str(tmp_path / "coreai_opt.py") in message
    assert "before the first import" in message


MOVED_AWAY = """
import importlib, importlib.util, sys, warnings
import graphpress
assert "graphpress.aliasing" not in sys.modules

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from graphpress.passes.facts import CANONICAL
    import graphpress.passes.specs.granularity
    from graphpress.passes.configs import QuantizerConfig
    from graphpress.passes.fusion import FusionPattern
    from graphpress.passes.framework.bisection import bisect_numerics
    import graphpress.ir.generalize
moved = [warning for warning in caught if issubclass(warning.category, DeprecationWarning)]
assert {warning.filename for warning in moved} == {__file__}
for warning in moved:
    print(warning.message)

import graphpress.passes.analysis.facts as facts
from graphpress.passes.config import granularity, QuantizerConfig as Real
from graphpress.passes.analysis.fusion import FusionPattern as Pattern
assert sys.modules["graphpress.passes.facts"] is facts and facts.CANONICAL is CANONICAL
assert facts.__spec__.name == "graphpress.passes.analysis.facts"
assert graphpress.passes.specs.granularity is granularity and QuantizerConfig is Real and FusionPattern is Pattern
assert graphpress.ir.generalize is importlib.import_module("graphpress.ir.torch.generalization")

for name in ("graphpress.passes.fact", "graphpress.passes.specs.no_such_module", "graphpress.tools.no_such.module"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert name.startswith(error.name), error
    else:
        raise AssertionError(name)
"""


def test_modules_are_found_by_the_names_they_had_before_with_a_warning(tmp_path: Path) -> None:
    assert run(tmp_path, MOVED_AWAY).splitlines() == [
        "graphpress.passes.facts is now graphpress.passes.analysis.facts; import it from there",
        "graphpress.passes.specs is now graphpress.passes.config; import it from there",
        "graphpress.passes.specs.granularity is now graphpress.passes.config.granularity; import it from there",
        "graphpress.passes.configs is now graphpress.passes.config; import it from there",
        "graphpress.passes.fusion is now graphpress.passes.analysis.fusion; import it from there",
        "graphpress.passes.framework.bisection is now graphpress.passes.framework.debugging.bisection; "
        "import it from there",
        "graphpress.ir.generalize is now graphpress.ir.torch.generalization; import it from there",
    ]


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_every_moved_module_lies_where_the_table_says_and_nowhere_else(old: str, new: str) -> None:
    folder = Path(graphpress.__file__).parent
    exists = {name: [*folder.glob(name.replace(".", "/") + "*")] for name in (old, new)}
    assert [path.stem for path in exists[new]] == [new.rpartition(".")[2]]
    assert [path for path in exists[old] if path.stem == old.rpartition(".")[2]] == []


def test_a_command_is_found_by_the_name_it_had_before() -> None:
    command = [sys.executable, "-W", "always", "-m", "graphpress.tools.mixed_precision", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "graphpress.tools.mixed_precision is now graphpress.tools.bench.mixed_precision" in done.stderr
    assert "--with-peer" in done.stdout


def test_in_a_package_without_the_tools_of_the_repository_their_old_names_are_unknown(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "graphpress.tools.bench", None)
    monkeypatch.delitem(sys.modules, "graphpress.tools.bench.mixed_precision", raising=False)
    assert find_moved("graphpress.tools.mixed_precision") is None
