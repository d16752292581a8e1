"""Refusals, as RFC 9457 has them: a status, and one sentence that says what is wrong and what to do."""

import errno
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from faitheir.errors import (
    ConfigError,
    FaithEIRError,
    ImageError,
    ModelError,
    ThumbnailError,
    one_line,
    reason,
)
from faitheir.server.errand import Stopped

MEDIA_TYPE = "application/problem+json"
SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


#: What the system says where it has no more of something for now.
_SHORT = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


class Problem(FaithEIRError):  # noqa: N818 (the name that RFC 9457 has for it)
    """A request that is refused; ``retry_after`` in seconds, where the same request may succeed later."""

    def __init__(self, status: int, text: str, *, retry_after: int | None = None) -> None:
        super().__init__(one_line(text))  # a name that was asked for may have line breaks
        self.status = status
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
        }

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that go with it."""
        headers = {"Content-Type": MEDIA_TYPE}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def as_problem(error: BaseException) -> Problem:
    """The refusal that tells of an error."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Stopped):
        return Problem(503, sentence(error), retry_after=None if error.why == "late" else 5)
    if isinstance(error, (ImageError, ThumbnailError, ConfigError, ModelError)):
        return Problem(422, sentence(error))
    if isinstance(error, MemoryError) or "not enough memory" in reason(error):
        return Problem(503, "There is not enough memory for this picture now; try again, or send a smaller one.")
    if isinstance(error, OSError) and error.errno in _SHORT:
        return Problem(503, "This server is short of processes or open files now; try again.", retry_after=5)
    return Problem(500, "Something in this server failed; its log says what.")


def sentence(error: object) -> str:
    """An error's text as a sentence: one line, with a capital letter and a full stop."""
    text = one_line(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
