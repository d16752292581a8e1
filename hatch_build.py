"""The package's description, which PyPI shows apart from the repository: README.md with links that hold there."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]+)\)")


class Description(MetadataHookInterface):
    """Named by pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description; addresses begin with ``Source`` of ``project.urls``, where it is."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        text = description(text, metadata.get("urls", {}).get("Source"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def description(text: str, source: str | None) -> str:
    """Relative links and pictures of ``text`` lead into the repository at ``source``; without it they are left out."""

    def replaced(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if source is None:
            return "" if picture else words
        return f"{picture}[{words}]({source}/{'raw' if picture else 'blob'}/HEAD/{path})"

    return _LINK.sub(replaced, text)
