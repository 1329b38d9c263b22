"""Colours for the text form of graphs."""

from __future__ import annotations

import re

from rich.text import Text

# The first alternative that fits wins, so strings and comments come first: nothing inside them is a name.
_TOKENS = re.compile(
    r"""(?P<comment>//[^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<value>%[\w.]+(?:\#\d+)?)
      | (?P<constant>@[\w.]+)
      | (?P<type>\b(?:[fiu]\d+\w*|bf16|bool)(?=\[)\[[^\]]*\])
      | (?P<op>\b(?:aten|quant|fold|coreai|sym|hop|prim)\.[\w.]+)
      | (?P<location>\bloc\([\d, ]*\))
      | (?P<keyword>\b(?:graph|symbol|input|const|return|mutate|signature|locations|scope|origin)\b)""",
    re.VERBOSE,
)
_STYLES = {
    "comment": "bright_black",
    "string": "green",
    "value": "cyan",
    "constant": "magenta",
    "type": "yellow",
    "op": "bold",
    "location": "bright_black",
    "keyword": "blue",
}


def highlighted(text: str) -> Text:
    """`text` with a style for every token."""
    made = Text(text)
    for token in _TOKENS.finditer(text):
        assert token.lastgroup is not None
        made.stylize(_STYLES[token.lastgroup], *token.span())
    return made
