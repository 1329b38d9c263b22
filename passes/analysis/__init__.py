"""Questions that several passes ask about a graph."""
