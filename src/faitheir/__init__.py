"""FaithEIR: faithful extreme image rescaling.

A photograph becomes a thumbnail file 16 or 32 times smaller on each side, and comes back from that file alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faitheir.version import __version__

if TYPE_CHECKING:
    from faitheir.errors import FaithEIRError
    from faitheir.evaluation.evaluate import evaluate
    from faitheir.pipeline import FaithEIRPipeline, WeightsMismatchWarning
    from faitheir.thumbnail import Thumbnail, ThumbnailInfo


__all__ = [
    "FaithEIRError",
    "FaithEIRPipeline",
    "Thumbnail",
    "ThumbnailInfo",
    "WeightsMismatchWarning",
    "__version__",
    "evaluate",
]

_HOMES = {
    "FaithEIRError": "errors",
    "FaithEIRPipeline": "pipeline",
    "evaluate": "evaluation.evaluate",
    "WeightsMismatchWarning": "pipeline",
    "Thumbnail": "thumbnail",
    "ThumbnailInfo": "thumbnail",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that the command line's help does not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(f"faitheir.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'faitheir' has no attribute '{name}'")
