"""Rewrite rules by the family of the op they are about."""
