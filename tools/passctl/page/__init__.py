"""A self-contained HTML page of a pipeline run: its steps, graphs and changes."""

from graphpress.tools.passctl.page.assembling import Opening, page
from graphpress.tools.passctl.page.recording import Recording

__all__ = ["Opening", "Recording", "page"]
