"""Programs that other people wrote for coreai-opt, run unmodified on both packages, and what came of it."""
