"""Models on the Hugging Face Hub: one way to fetch them, one sentence for each way in which that fails."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from faitheir.errors import ModelError, why


class HubOptions(TypedDict, total=False):
    """How the Hub is asked, as huggingface_hub has it.

    ``cache_dir``: where downloads are kept. ``local_files_only``: nothing but that is looked at. ``token``: for what is
    not public; by default the one that ``hf auth login`` left, False for none.
    """

    cache_dir: str | Path | None
    local_files_only: bool
    token: str | bool | None


def fetch(
    repository: str,
    files: Sequence[str],
    *,
    revision: str | None = None,
    ignore: Sequence[str] = (),
    advice: str = "check the network, or give the path of a model folder",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder on this machine with those ``files`` of a repository, downloaded once.

    ``files``, ``ignore``: patterns. ``revision``: a commit, a branch or a tag. ``advice``: what to do where the Hub
    cannot be reached. Raises ModelError where they cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=list(files),
                ignore_patterns=list(ignore),
            )
        )
    except HFValidationError:
        raise ModelError(f"Unknown model '{repository}': neither a folder nor a valid Hub id.") from None
    except RevisionNotFoundError:
        raise ModelError(f"'{repository}' on the Hugging Face Hub has no revision '{revision}'.") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"'{repository}' is neither a folder here nor a model on the Hugging Face Hub that you may read."
        ) from None
    except LocalEntryNotFoundError:
        where = "it is not in the Hub's cache" if local_files_only else "the Hugging Face Hub cannot be reached"
        raise ModelError(f"'{repository}' is no folder here, and {where}: {advice}.") from None
    # A download that breaks off, a full disk: the Hub's client lets errors of many libraries through.
    except Exception as error:
        raise ModelError(
            f"'{repository}' could not be fetched from the Hugging Face Hub ({why(error).split('. ')[0]}): {advice}."
        ) from error
