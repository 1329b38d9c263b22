"""The pass framework: passes, facts, effects, pipelines, the runner, rewrite rules."""

from graphpress.passes.framework.context import PassContext, Report
from graphpress.passes.framework.effects import CLOSE, EXACT, LOSSY, Close, Drift, Effect, Exact, Lossy
from graphpress.passes.framework.errors import (
    BudgetExceeded,
    FactError,
    NumericDrift,
    OptionError,
    PassError,
    PassFailed,
    PassRegistrationError,
    PatternError,
    PipelineError,
    PipelineSyntaxError,
    UnknownPassError,
)
from graphpress.passes.framework.facts import Fact, Violation
from graphpress.passes.framework.hooks.base import Hook
from graphpress.passes.framework.passes import Pass
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.records import RunResult, StepRecord
from graphpress.passes.framework.registry import lookup_pass, register_pass, registered_passes, unregister_pass
from graphpress.passes.framework.runner import Runner, run_pass
from graphpress.passes.framework.steps import Repeat, Step

__all__ = [
    "CLOSE",
    "EXACT",
    "LOSSY",
    "BudgetExceeded",
    "Close",
    "Drift",
    "Effect",
    "Exact",
    "Fact",
    "FactError",
    "Hook",
    "Lossy",
    "NumericDrift",
    "OptionError",
    "Pass",
    "PassContext",
    "PassError",
    "PassFailed",
    "PassRegistrationError",
    "PatternError",
    "Pipeline",
    "PipelineError",
    "PipelineSyntaxError",
    "Repeat",
    "Report",
    "RunResult",
    "Runner",
    "Step",
    "StepRecord",
    "UnknownPassError",
    "Violation",
    "lookup_pass",
    "register_pass",
    "registered_passes",
    "run_pass",
    "unregister_pass",
]
