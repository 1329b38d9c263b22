"""Rewrite rules of `canonicalize`, by op family."""
