"""Models from the Hugging Face Hub, through its own client: HF_TOKEN, HF_HOME and HF_HUB_OFFLINE hold."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS

from mlx_persona.errors import PersonaError
from mlx_persona.files import check_space
from mlx_persona.model_names import told_apart
from mlx_persona.models.weights import weight_files


def fetch_repo(repo: str) -> Path:
    """The local snapshot of a Hub repo: the cached one where it is whole, else a download.

    Raises:
        PersonaError: not a repo's name, no such repo, no access to it, no network, or no MLX model in it.
    """
    if (cached := _cached(repo)) is not None:
        return cached
    _check_room(repo)
    with told_apart(repo):
        path = Path(snapshot_download(repo, allow_patterns=DEFAULT_ALLOW_PATTERNS))
    weight_files(path)
    return path


def download_bytes(repo: str) -> int | None:
    """What a download of the whole repo takes on disk, as the Hub says; None where it does not say."""
    try:
        siblings = HfApi().model_info(repo, files_metadata=True).siblings or []
    except Exception:  # the download that follows says what is wrong
        return None
    kept = [s for s in siblings if any(fnmatch(s.rfilename, pattern) for pattern in DEFAULT_ALLOW_PATTERNS)]
    return sum(s.size or 0 for s in kept) or None


def _check_room(repo: str) -> None:
    """Raises PersonaError where the cache's disk has no room for the repo."""
    if (needed := download_bytes(repo)) is not None:
        check_space(
            Path(HF_HUB_CACHE), needed, f"downloading {repo}", "free some space, or set HF_HOME to another disk"
        )


def _cached(repo: str) -> Path | None:
    """The snapshot in the local cache, or None where there is none or parts of it are missing."""
    try:
        path = Path(snapshot_download(repo, allow_patterns=DEFAULT_ALLOW_PATTERNS, local_files_only=True))
        weight_files(path)
    except (OSError, ValueError, PersonaError):
        return None
    return path
