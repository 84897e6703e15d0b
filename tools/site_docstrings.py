"""An extension of griffe for the reference: each argument that a docstring describes gets a paragraph of its own."""

import re
from typing import Any

from griffe import Extension, Object

ARGUMENTS = re.compile(r"\n+(?=[A-Za-z_]\w*(?:, \w+){0,5}: )")


class Paragraphs(Extension):
    """Break before lines as `weights, offset: a column's name`; in a terminal such a line needs no gap."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = ARGUMENTS.sub("\n\n", obj.docstring.value)
