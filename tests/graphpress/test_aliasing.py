from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.documents import SEEDS

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


def test_the_alias_is_refused_when_the_other_package_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "coreai_opt.py").write_text("version = 1\n", encoding="utf-8")
    message = run(tmp_path, REFUSED)
    assert "coreai_opt is imported already" in message
    assert str(tmp_path / "coreai_opt.py") in message
    assert "before the first import" in message
