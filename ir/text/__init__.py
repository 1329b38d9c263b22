"""The text form of graphs: print, parse, save."""
