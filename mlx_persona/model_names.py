"""What ``--model NAME`` means, and what the Hugging Face Hub's refusals mean to the user. Without mlx.

The Hub is asked through its own client: HF_TOKEN, HF_HOME and HF_HUB_OFFLINE hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from mlx_persona.errors import PersonaError

LOCAL_HINT = "give a local model directory: --model PATH"
_NAMES = "--model takes an MLX model directory, a .gguf file or a Hugging Face repo (org/name)"


def local_path(name: str) -> Path | None:
    """The directory or ``.gguf`` file that ``name`` means; None where it must be a Hugging Face repo.

    Raises:
        PersonaError: an empty name, another kind of file, or a path where nothing is.
    """
    if not name.strip():
        raise PersonaError("the model's name must not be empty", _NAMES)
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise PersonaError(f"a model's file must be a .gguf file, got {name}", _NAMES)
        return path
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")) or path.suffix == ".gguf" or name.count("/") > 1:
        raise PersonaError(f"no such model: {name}", _NAMES)
    return None


def hub_file(repo: str, file: str) -> Path:
    """One file of a Hub repo: the cached one where there is one, else a download.

    Raises:
        PersonaError: as :func:`told_apart`, or the repo has no such file.
    """
    if (cached := cached_hub_file(repo, file)) is not None:
        return cached
    with told_apart(repo):
        try:
            return Path(hf_hub_download(repo, file))
        except LocalEntryNotFoundError:  # an EntryNotFoundError too, but about the network
            raise
        except EntryNotFoundError as error:
            raise PersonaError(f"{repo} has no {file}") from error


def cached_hub_file(repo: str, file: str) -> Path | None:
    """The file in the local cache of the Hub, without any network; None where it is not there."""
    try:
        found = try_to_load_from_cache(repo, file)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


@contextmanager
def told_apart(repo: str) -> Iterator[None]:
    """Whatever the Hub's client raises in the block becomes a PersonaError that says what to do.

    Raises:
        PersonaError: not a repo's name, no such repo, no access to it, no network, or what else went wrong.
    """
    try:
        yield
    except PersonaError:
        raise
    except HFValidationError as error:
        raise PersonaError(f"{repo} is neither a local path nor a Hugging Face repo (org/name)", LOCAL_HINT) from error
    except GatedRepoError as error:
        raise PersonaError(
            f"{repo} is gated: its owner wants its terms accepted first",
            f"accept them on the page of {repo}, then set HF_TOKEN to your token",
        ) from error
    except RepositoryNotFoundError as error:
        raise PersonaError(
            f"no local directory {repo}, and no such Hugging Face repo (or it is private)",
            "check the name; for a private repo set HF_TOKEN to your token",
        ) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, OfflineModeIsEnabled):
            raise PersonaError(
                f"cannot download {repo}: HF_HUB_OFFLINE is set, and it is not in the cache",
                f"unset HF_HUB_OFFLINE, or {LOCAL_HINT}",
            ) from error
        raise PersonaError(f"cannot download {repo}: no network ({error.__cause__ or error})", LOCAL_HINT) from error
    except Exception as error:  # whatever HTTP client, proxy or file system raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise PersonaError(f"cannot download {repo}: {reason}", LOCAL_HINT) from error
