"""The pass framework: passes, facts, effects, pipelines, runner and rewrite rules."""

from graphpress.passes.framework.driver import apply_rules
from graphpress.passes.framework.effects import CLOSE, EXACT, LOSSY, Close, Drift, Effect, Exact, Lossy
from graphpress.passes.framework.errors import (
    BisectionError,
    BudgetExceeded,
    BundleError,
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
from graphpress.passes.framework.explain import Explanation, explain
from graphpress.passes.framework.facts import Fact, Violation
from graphpress.passes.framework.match import Match, Miss
from graphpress.passes.framework.passes import Pass, PassContext, Report
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.records import RunResult, StepRecord
from graphpress.passes.framework.registry import lookup_pass, register_pass, registered_passes, unregister_pass
from graphpress.passes.framework.rewrite_pass import (
    RewritePass,
    add_rule,
    lookup_rule,
    registered_rules,
    remove_rule,
    rules_of,
)
from graphpress.passes.framework.rules import Rule, rule
from graphpress.passes.framework.runner import Runner, run_pass
from graphpress.passes.framework.standard_hooks import Hook
from graphpress.passes.framework.steps import Repeat, Step

__all__ = [
    "CLOSE",
    "EXACT",
    "LOSSY",
    "BisectionError",
    "BudgetExceeded",
    "BundleError",
    "Close",
    "Drift",
    "Effect",
    "Exact",
    "Explanation",
    "Fact",
    "FactError",
    "Hook",
    "Lossy",
    "Match",
    "Miss",
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
    "RewritePass",
    "Rule",
    "RunResult",
    "Runner",
    "Step",
    "StepRecord",
    "UnknownPassError",
    "Violation",
    "add_rule",
    "apply_rules",
    "explain",
    "lookup_pass",
    "lookup_rule",
    "register_pass",
    "registered_passes",
    "registered_rules",
    "remove_rule",
    "rule",
    "rules_of",
    "run_pass",
    "unregister_pass",
]
