"""Plugins of coreai-opt: functions that installed packages advertise, called when the alias is installed.

Passes and backends of graphpress are registered by entry points of their own groups.
"""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points

PLUGIN_GROUP = "coreai_opt.plugins"
"""The group of the entry points; each names a function without arguments."""


def load_plugins() -> None:
    """Call every plugin; one that cannot be loaded or fails is skipped with a `RuntimeWarning`."""
    for entry_point in entry_points(group=PLUGIN_GROUP):
        try:
            entry_point.load()()
        except Exception as error:
            warnings.warn(
                f"the plugin {entry_point.name!r} ({entry_point.value}) of the group {PLUGIN_GROUP!r} is skipped: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
