"""Errors a user can meet. Each carries one sentence: what is wrong, in which file, what to do."""


class FaithEIRError(Exception):
    """Base of every error this package raises on purpose; the command line prints its text, exits with 1."""


class ImageError(FaithEIRError):
    """A file is not a picture we can read, is damaged or too large, or cannot be written."""


class ThumbnailError(FaithEIRError):
    """A thumbnail's metadata is damaged, contradicts the picture, or asks for what the model cannot do."""


class ConfigError(FaithEIRError):
    """A configuration has an unknown key, a value of the wrong type, or a value out of range."""


class ModelError(FaithEIRError):
    """A model is unknown, incomplete, unsafe to load, or its weights do not fit its configuration."""


class DeviceError(FaithEIRError):
    """The requested device or precision is not available on this machine."""


class MissingDependencyError(FaithEIRError):
    """A feature needs an optional extra that is not installed."""


class TrainingStopped(FaithEIRError):  # noqa: N818 (not a fault: the user asked)
    """Training was told to stop by a signal, and saved a checkpoint first; ``status`` is the exit status for it."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.status = 128 + signal
