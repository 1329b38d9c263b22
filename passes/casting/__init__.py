"""Computing in 16 bits: which values can, and how a graph is rewritten for it."""
