"""`passctl compress`, killed while it works: the artifact that was there before stays, whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graphpress.backends import coreai, coreml

pytest.importorskip("coreai_torch")
pytest.importorskip("coremltools")

BACKENDS = {"coreai": (coreai, ".aimodel"), "coreml": (coreml, ".mlpackage")}
NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval(), (torch.randn(1, 3, 8, 8),)
"""
KILLED = """
import os, signal, sys

folder, last, steps = sys.argv.pop(1), int(sys.argv.pop(1)), 0

def step(event, arguments):
    '''Count what touches the output's folder, and die before number `last`.'''
    global steps
    if not event.startswith(("os.", "shutil.", "ctypes.dlsym")) and event != "open":
        return
    swaps = event == "ctypes.dlsym" and arguments[1] == "renameat2"
    if swaps or any(str(each).startswith(folder) for each in arguments):
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(step)
from graphpress.tools.passctl.main import main
try:
    main()
finally:
    print("steps", steps, flush=True)
"""


def compress(backend: str, output: Path, config: Path, last: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(output.parent), str(last), "compress", "net:net"]
    options = ["--config", str(config), "--backend", backend, "-o", str(output)]
    plain = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *options], cwd=config.parent, capture_output=True, text=True, check=False, env=plain
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_at_any_step_it_leaves_the_old_artifact_or_the_new_one(backend, tmp_path):
    module, suffix = BACKENDS[backend]
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("kmeans_palettization_config: {global_config: {op_state_spec: {weight: {n_bits: 4}}}}\n")
    new.write_text("kmeans_palettization_config: {global_config: {op_state_spec: {weight: {n_bits: 2}}}}\n")
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / f"m{suffix}"
    assert compress(backend, output, old, 0).returncode == 0
    before = module.read(output).constants
    done = compress(backend, tmp_path / "out" / f"other{suffix}", new, 0)
    assert done.returncode == 0
    after = module.read(tmp_path / "out" / f"other{suffix}").constants
    assert before != after
    steps = int(done.stdout.split()[-1])
    assert steps > 8
    replaced = []
    for last in sorted({1, 2, steps // 3, steps // 2, steps - steps // 4, steps - 4, steps - 1}):
        killed = compress(backend, output, new, last)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        found = module.read(output).constants
        assert found in (before, after), f"killed at step {last} of {steps}"
        replaced.append(found == after)
    assert replaced == sorted(replaced)
    assert not replaced[0]
