"""Machine code is made when needed, kept where it can be, and never used once its source has changed."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graphpress.passes import clustering


def test_importing_the_package_does_not_load_numba():
    script = "import sys, graphpress.passes.clustering; print('numba' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_cached_code_depends_on_every_kernel_source(tmp_path):
    from graphpress.passes.clustering.compile import SOURCES, digest

    sources = Path(clustering.__file__).parent
    copy = shutil.copytree(sources, tmp_path / "clustering", ignore=shutil.ignore_patterns("__pycache__"))
    assert digest(copy) == SOURCES
    with (copy / "sorted_values.py").open("a") as changed:
        changed.write("\n")
    assert digest(copy) != SOURCES


def test_kernels_run_where_nothing_can_be_cached(monkeypatch):
    from graphpress.passes.clustering import compile as compiling

    def nowhere(function):
        raise RuntimeError("no locator available")

    monkeypatch.setattr(compiling, "_PackageCache", nowhere)
    assert compiling.kernel(_double)(2.0) == pytest.approx(4.0)


def test_code_cached_for_types_that_are_gone_is_made_again():
    from graphpress.passes.clustering import compile as compiling

    function = compiling.kernel(_double)
    assert function(2.0) == pytest.approx(4.0)
    index = Path(function._cache._cache_file._index_path)
    foreign = pickle.dumps(function._cache._cache_file._version) + b"cgraphpress.gone\nVectors\n."
    index.write_bytes(foreign)
    again = compiling.kernel(_double)
    assert again(3.0) == pytest.approx(6.0)
    assert index.read_bytes() != foreign


def _double(value):
    return value + value
