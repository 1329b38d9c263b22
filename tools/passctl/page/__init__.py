"""One self-contained HTML page of a pipeline's run: its steps, the graph at each, and what each changed."""

from graphpress.tools.passctl.page.assembling import Opening, page
from graphpress.tools.passctl.page.recording import Recording

__all__ = ["Opening", "Recording", "page"]
