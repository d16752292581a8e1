"""FaithEIR: faithful extreme image rescaling.

A photograph becomes a thumbnail file 16 or 32 times smaller on each side, and comes back from that file alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faitheir.version import __version__

if TYPE_CHECKING:
    from faitheir.client import Client
    from faitheir.errors import FaithEIRError
    from faitheir.evaluation.evaluate import evaluate
    from faitheir.models import ModelConfig
    from faitheir.nn.codec import FaithEIR
    from faitheir.pipeline import FaithEIRPipeline, Pipelines, WeightsMismatchWarning, pipeline_for
    from faitheir.thumbnail import Thumbnail, ThumbnailInfo
    from faitheir.training.config import TrainConfig, load_train_config
    from faitheir.training.loop import train

__all__ = [
    "Client",
    "FaithEIR",
    "FaithEIRError",
    "FaithEIRPipeline",
    "ModelConfig",
    "Pipelines",
    "Thumbnail",
    "ThumbnailInfo",
    "TrainConfig",
    "WeightsMismatchWarning",
    "__version__",
    "evaluate",
    "load_train_config",
    "pipeline_for",
    "train",
]

_HOMES = {
    "Client": "client",
    "FaithEIR": "nn.codec",
    "FaithEIRError": "errors",
    "FaithEIRPipeline": "pipeline",
    "ModelConfig": "models",
    "Pipelines": "pipeline",
    "Thumbnail": "thumbnail",
    "ThumbnailInfo": "thumbnail",
    "TrainConfig": "training.config",
    "WeightsMismatchWarning": "pipeline",
    "evaluate": "evaluation.evaluate",
    "load_train_config": "training.config",
    "pipeline_for": "pipeline",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that the command line's help does not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(f"faitheir.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'faitheir' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
