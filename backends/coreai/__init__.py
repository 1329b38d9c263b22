"""Part of graphpress."""
