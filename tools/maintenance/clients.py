"""Run the test files of coreai-opt's source distribution as clients of graphpress, unmodified, under the alias.

``python -m graphpress.tools.maintenance.clients`` downloads the source distribution from the package index to
`build/clients`, takes its test files only, and runs those that are written against public names. A failure that has no
reason in `REASONS` is an error. With ``--sdist`` a downloaded file is used.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "clients"
VERSION = "0.4.0"

FILES = (
    "test_base_model_compressor.py",
    "test_inspection.py",
    "test_palettization_preset.py",
    "test_plugins.py",
    "test_quantization_preset.py",
    "test_smoke.py",
)

OTHER_FILES = {
    "test_compression_config.py": "subclasses coreai-opt's pydantic bases of configs; graphpress's configs are closed",
    "test_joint_compression.py": "imports helpers and models that the source distribution lacks",
    "test_api_visibility.py": "is about the layout of coreai-opt's own packages",
    "test_api_visibility_utils.py": "is about private helpers",
    "test_nox_utils.py": "is about coreai-opt's repository",
    "test_release_utils.py": "is about coreai-opt's repository",
    "test_runtime_env.py": "is about coreai-opt's repository",
    "test_source_compiles.py": "is about coreai-opt's repository",
    "test_stack_dumps.py": "is about coreai-opt's repository",
}

REASONS: tuple[tuple[str, str], ...] = (
    (
        r"test_base_model_compressor\.(TestIs|TestMark|TestPreparedSurvives)",
        "tests a private marker of prepared models",
    ),
    (
        r"test_(only_for|without)_|test_preset_is_weight_only",
        "expects None in a config to become a config with {'*': None}; here it stays None, and both disable",
    ),
    (
        r"test_simple_conv_model|test_op_inputs_index_with_state_before",
        "expects coreai-opt's layout of the printed summary",
    ),
    (
        r"test_compressor_filters_ops|through_non_captured_ops|with_non_tree_ops",
        "expects that relu and mean are not quantized; here they are",
    ),
    (r"test_state_ops_for_parameters", "reads a private attribute, _display_name"),
    (
        r"test_shared_module_op_count_and_boundaries\[eager\]",
        "expects that the second call of a shared module has no reader; here the op also reads its own result",
    ),
    (r"test_rejects_non_module", "expects another wording of the TypeError"),
    (r"test_example_input_none", "expects a ValueError of its own for missing inputs; here it is an ExportError"),
    (
        r"test_eager_with_graph_module|test_unsupported_compressor|test_palettizer_in_graph_mode",
        "expects a refusal; here graph modules run in eager mode, and weights are listed in either mode",
    ),
    (r"test_inplace_op_connectivity", "expects in-place ops to have names of their own; here relu_ is a relu"),
    (r"test_weakref_removes_producer", "tests a private class"),
    (r"test_state_detection_after_inplace", "expects a buffer that the run writes to count as state; here it is data"),
)
"""Patterns of the names of tests that fail, each with the reason."""

# What the tests import from private modules or take from a conftest.py that the source distribution lacks.
CONFTEST = """
import collections, enum, sys, types
import pytest, torch
import graphpress

graphpress.install_as_coreai_opt()
import coreai_opt.base_model_compressor, coreai_opt.inspection
from graphpress.compressor import Compressor
from graphpress.passes.config.entries import qualified_name


def _module(name, **names):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    vars(module).update(names)


def _export(model, inputs, dynamic_shapes=None, export_with_no_grad=True):
    with torch.set_grad_enabled(not export_with_no_grad):
        return torch.export.export(model, inputs, dynamic_shapes=dynamic_shapes).module()


_module("coreai_opt._utils")
_module("coreai_opt._utils.config_utils", ALL_TENSORS="*", ConfigLevel=enum.Enum("ConfigLevel", "MODULE_NAME"))
_module("coreai_opt._utils.python_utils", fqn=qualified_name)
_module("coreai_opt._utils.torch_utils", export_model=_export)
_module("coreai_opt._utils.insertion")
_module("coreai_opt._utils.insertion.torch_function")
_module(
    "coreai_opt._utils.insertion.torch_function.module_boundary_tracker",
    TensorIdVersion=collections.namedtuple("TensorIdVersion", "id version"),
)
_module("coreai_opt.inspection._eager_mode", _EagerOpDiscoveryMode=None)
vars(sys.modules["coreai_opt.base_model_compressor"]).update(
    _BaseModelCompressor=Compressor, _COREAI_OPT_PREPARED_ATTR="_coreai_opt_prepared"
)


@pytest.fixture
def simple_linear_model():
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))


@pytest.fixture
def simple_linear_model_input():
    return torch.randn(2, 64)
"""


def main() -> None:
    """Download the tests, run them, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sdist", type=Path, help="a downloaded source distribution")
    sdist = parser.parse_args().sdist or _downloaded()
    _extract(sdist)
    passed, failed = _run()
    unexplained = [name for name in failed if not reason_for(name)]
    print(f"{len(passed)} tests pass, {len(failed)} fail for known reasons or others:")
    for name in failed:
        print(f"  {name}: {reason_for(name) or 'NO REASON'}")
    for name, reason in OTHER_FILES.items():
        print(f"  {name} is not run: it {reason}")
    sys.exit(1 if unexplained or not passed else 0)


def section() -> str:
    """Return the part of the page about these tests: what fails and what is not run, with the reasons."""
    failing = [f"- `{pattern}`: {reason}." for pattern, reason in REASONS]
    others = [f"- `{name}` {reason}." for name, reason in OTHER_FILES.items()]
    return "\n".join(["Tests that fail, by patterns of their names:", "", *failing, "", "Not run:", "", *others])


def reason_for(test: str) -> str:
    """Return the reason why a test fails, or an empty string."""
    return next((reason for pattern, reason in REASONS if re.search(pattern, test)), "")


def _downloaded() -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(BUILD), f"coreai-opt=={VERSION}"], check=True)
    return BUILD / f"coreai_opt-{VERSION}.tar.gz"


def _extract(sdist: Path) -> None:
    """Write the test files of the archive, and the conftest."""
    tests = BUILD / "tests"
    tests.mkdir(parents=True, exist_ok=True)
    with tarfile.open(sdist) as archive:
        for name in FILES:
            file = archive.extractfile(f"coreai_opt-{VERSION}/tests/{name}")
            assert file is not None
            (tests / name).write_bytes(file.read())
    (tests / "conftest.py").write_text(CONFTEST, encoding="utf-8")


def _run() -> tuple[list[str], list[str]]:
    """Return the names of the tests that pass, and of those that fail or cannot be collected."""
    report = BUILD / "report.xml"
    report.unlink(missing_ok=True)
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-W", "ignore", "--tb=line", f"--junitxml={report}"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        str(BUILD),
        *options,
        str(BUILD / "tests"),
    ]
    subprocess.run(command, cwd=BUILD, check=False)
    passed: list[str] = []
    failed: list[str] = []
    for case in ElementTree.parse(report).iter("testcase"):
        is_bad = case.find("failure") is not None or case.find("error") is not None
        (failed if is_bad else passed).append(f"{case.get('classname')}::{case.get('name')}")
    return passed, failed


if __name__ == "__main__":
    main()
