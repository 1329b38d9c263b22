"""A test that leaves files open is named, not the ones after it that have no handles left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = """
import os

kept = []

def test_leaks():
    kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(60))

def test_opens_and_closes():
    files = [open(os.devnull) for _ in range(60)]

def test_keeps_a_few():
    kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(20))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list the handles of a process")
def test_a_test_that_leaves_many_files_open_fails_and_no_other(tmp_path):
    (tmp_path / "test_leaks.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "the test left 60 handles open" in ran.stdout
    assert "3 passed, 1 error" in ran.stdout
