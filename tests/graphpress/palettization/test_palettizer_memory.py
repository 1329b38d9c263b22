"""How much memory palettization takes beside the model."""

import json
import subprocess
import sys

import pytest

BYTES_PER_ELEMENT = 12

# Memory is that of the process, from outside of any allocator: the kernel's high-water mark, reset before each weight.
PROBE = """
import gc, json, sys, torch
from graphpress.palettization.spec import PalettizationSpec
from graphpress.passes.weights import palettize

torch.set_num_threads(1)

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def peak(weight, spec):
    palettize(weight[:512, :512].clone(), spec)
    gc.collect()
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")
    before = status("VmRSS")
    made = palettize(weight, spec)
    return (status("VmHWM") - before) / weight.numel()

# Arrays this large are mapped one by one, and given back when they are freed.
size = 4096
specs = [PalettizationSpec.from_dict(entries) for entries in json.loads(sys.argv[1])]
weight = torch.randn(size, size).to(getattr(torch, sys.argv[2])) * 0.02
print(json.dumps([peak(weight, spec) for spec in specs]))
"""
GROUPS = {"type": "per_grouped_channel", "axis": 0, "group_size": 16}
GROUPS_OF_INPUTS = {"type": "per_grouped_channel", "axis": 1, "group_size": 16}
INT8 = {"dtype": "int8"}
SCALARS = [
    {"n_bits": 8},
    {"n_bits": 4, "granularity": GROUPS},
    {"n_bits": 4, "granularity": GROUPS_OF_INPUTS},
    {"n_bits": 4, "enable_per_channel_scale": True},
    {"n_bits": 4, "lut_qspec": INT8, "granularity": GROUPS_OF_INPUTS, "enable_per_channel_scale": True},
]
VECTORS = [{"n_bits": 4, "cluster_dim": 2}, {"n_bits": 4, "cluster_dim": 4, "lut_qspec": INT8, "granularity": GROUPS}]


def peaks(specs, dtype):
    """Bytes for each element of a weight of 16.8M while it is palettized, indices included."""
    command = [sys.executable, "-c", PROBE, json.dumps(specs), dtype]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("specs", [SCALARS, VECTORS], ids=["scalars", "vectors"])
def test_clustering_takes_at_most_twelve_bytes_for_each_element_of_the_weight(specs, dtype):
    found = peaks(specs, dtype)
    assert len(found) == len(specs)
    assert max(found) > 1  # the indices alone: the mark was read
    assert max(found) <= BYTES_PER_ELEMENT + 0.1, found  # and a page here and there
