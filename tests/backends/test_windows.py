"""Windows and frequencies that a model samples as it runs are constants of saved files, held to torch."""

from __future__ import annotations

import pytest
import torch

from graphpress.backends.coreai.program import decompose
from tests.backends.complexes.saved import BACKENDS, Each, differing

torch.set_num_threads(1)
X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))

FUNCTIONS = {
    "bartlett": lambda x: x * torch.bartlett_window(16),
    "blackman": lambda x: x * torch.blackman_window(16, periodic=False),
    "hamming": lambda x: x * torch.hamming_window(16, False, 0.6, 0.4),
    "hann": lambda x: x * torch.hann_window(16),
    "hann of both ends": lambda x: x * torch.hann_window(16, periodic=False, dtype=torch.float32),
    "kaiser": lambda x: x * torch.kaiser_window(16, True, 8.0),
    "frequencies": lambda x: x * torch.fft.fftfreq(16, d=0.1),
    "frequencies of one side": lambda x: x[:, :9] * torch.fft.rfftfreq(16),
    "alone": lambda x: torch.hann_window(16),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_files_hold_windows_as_torch_samples_them(backend, tmp_path):
    assert differing(backend, tmp_path, FUNCTIONS, (X,)) == {}


def test_a_window_is_not_computed_and_the_given_program_keeps_it():
    program = torch.export.export(Each({"kaiser": FUNCTIONS["kaiser"]}).eval(), (X,))
    before = str(program.graph)
    (call,) = [node for node in decompose(program).graph.nodes if node.op == "call_function"]
    assert call.target is torch.ops.aten.mul.Tensor
    assert str(program.graph) == before
