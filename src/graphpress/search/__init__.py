"""Mixed-precision search: a compression config for each layer under a size budget.

There are three steps: measure the sensitivity of each layer to each candidate config; choose a candidate for each layer
under the budget; apply the choice, which is an ordinary config, and compare the result with the prediction.
"""

from graphpress.search.layers import Compression, Layer, find_layers
from graphpress.search.measuring import measure_sensitivities
from graphpress.search.metrics import (
    Metric,
    OutputMetric,
    SearchError,
    SearchWarning,
    against,
    mean_squared_error,
    peak_signal_to_noise,
    relative_error,
)
from graphpress.search.recipes import (
    Recipe,
    Verification,
    exact_recipe,
    greedy_recipe,
    uniform_recipe,
    verify_recipe,
)
from graphpress.search.sensitivities import Candidate, Measurement, Sensitivities
from graphpress.search.sizes import stored_bytes
from graphpress.search.trade_offs import Point, plot_trade_off, trade_off

__all__ = [
    "Candidate",
    "Compression",
    "Layer",
    "Measurement",
    "Metric",
    "OutputMetric",
    "Point",
    "Recipe",
    "SearchError",
    "SearchWarning",
    "Sensitivities",
    "Verification",
    "against",
    "exact_recipe",
    "find_layers",
    "greedy_recipe",
    "mean_squared_error",
    "measure_sensitivities",
    "peak_signal_to_noise",
    "plot_trade_off",
    "relative_error",
    "stored_bytes",
    "trade_off",
    "uniform_recipe",
    "verify_recipe",
]
