"""The text form of graphs: printing, parsing and storage."""
