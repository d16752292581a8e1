"""Examples in docstrings (`>>> ...`) as blocks of Python on the site."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^(?:>>>|\.\.\.).*\n?)+", re.M)


class Examples(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_fenced, obj.docstring.value)


def _fenced(match: re.Match[str]) -> str:
    code = "\n".join(line[4:] for line in match[0].rstrip().splitlines())
    return f"```python\n{code}\n```\n"
