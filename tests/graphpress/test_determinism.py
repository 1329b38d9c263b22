"""The same model and data give the same bits, whatever the number of threads and the order of modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphpress.quantization import (
    ExecutionMode,
    ModuleQuantizerConfig,
    QuantizationSpec,
    Quantizer,
    QuantizerConfig,
)
from graphpress.quantization.spec import AdaptiveRounding, GPTQRounding

MODULES = ("stem", "norm", "left", "right", "head")


class Ordered(nn.Module):
    """Two branches after a convolution with batch norm; large enough for torch to share the work among threads."""

    def __init__(self, names):
        super().__init__()
        torch.manual_seed(0)
        made = {
            "stem": nn.Conv2d(3, 16, 3, padding=1),
            "norm": nn.BatchNorm2d(16),
            "left": nn.Conv2d(16, 24, 3, padding=1),
            "right": nn.Conv2d(16, 24, 3, padding=1, groups=4),
            "head": nn.Linear(48, 10),
        }
        made["norm"].running_mean.normal_()
        made["norm"].running_var.uniform_(0.5, 2)
        for name in names:
            self.add_module(name, made[name])

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        x = torch.cat([functional.relu(self.left(x)), torch.sigmoid(self.right(x))], 1)
        return self.head(x.mean((2, 3)))


def calculator(key: str) -> QuantizerConfig:
    activation, weight = QuantizationSpec(qparam_calculator_cls=key), QuantizationSpec(granularity="per_channel")
    if key == "mse":  # of a whole tensor, so for weights
        activation, weight = QuantizationSpec(), QuantizationSpec(granularity="per_channel", qparam_calculator_cls=key)
    return QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_input_spec={"*": activation}, op_output_spec={"*": activation}, op_state_spec={"weight": weight}
        )
    )


def refined(**options) -> QuantizerConfig:
    weight = QuantizationSpec(dtype="int4", granularity="per_channel")
    each = ModuleQuantizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec={"weight": weight})
    return QuantizerConfig(global_config=each, **options)


ANY_MODE = {
    "default": QuantizerConfig,
    **{key: (lambda key=key: calculator(key)) for key in ("histogram", "percentile", "mse", "global_minmax")},
}
GRAPHS_ONLY = {
    "GPTQ": lambda: refined(weight_rounding=GPTQRounding()),
    "GPTQ by activation": lambda: refined(weight_rounding=GPTQRounding(activation_order=True)),
    "adaptive rounding": lambda: refined(weight_rounding=AdaptiveRounding(iterations=10)),
    "empirical bias correction": lambda: refined(bias_correction="empirical"),
    "analytic bias correction": lambda: refined(bias_correction="analytic"),
    "equalization": lambda: refined(equalize_layers=True),
}
CASES = [(name, mode) for name in ANY_MODE for mode in ExecutionMode] + [
    (name, ExecutionMode.GRAPH) for name in GRAPHS_ONLY
]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def finalized_state(config: QuantizerConfig, names, count: int) -> dict[str, torch.Tensor]:
    """All that a model finalized after calibration with so many threads consists of."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(4, 3, 40, 40, generator=generator) for _ in range(3)]
    with threads(count):
        quantizer = Quantizer(Ordered(names).eval(), config)
        prepared = quantizer.prepare((batches[0],))
        with quantizer.calibration_mode():
            for batch in batches:
                prepared(batch)
        return quantizer.finalize().state_dict()


@pytest.mark.parametrize(("name", "mode"), CASES, ids=[f"{name}, {mode.value}" for name, mode in CASES])
def test_threads_and_the_order_of_modules_change_no_bit(name, mode):
    def run(names, count):
        return finalized_state((ANY_MODE | GRAPHS_ONLY)[name]().set_execution_mode(mode), names, count)

    expected = run(MODULES, 1)
    assert any(tensor.dtype in (torch.int8, torch.uint8) for tensor in expected.values())
    for names, count in ((MODULES, 2), (MODULES[::-1], 1)):
        found = run(names, count)
        assert found.keys() == expected.keys()
        different = [key for key, tensor in expected.items() if not torch.equal(tensor, found[key])]
        assert not different, f"with {count} threads and modules in the order {names}"
