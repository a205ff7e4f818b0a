"""Models from the Hugging Face Hub, through its own client: HF_TOKEN, HF_HOME and HF_HUB_OFFLINE hold."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS

from mlx_persona.errors import PersonaError
from mlx_persona.model_names import told_apart
from mlx_persona.models.weights import weight_files


def fetch_repo(repo: str) -> Path:
    """The local snapshot of a Hub repo: the cached one where it is whole, else a download.

    Raises:
        PersonaError: not a repo's name, no such repo, no access to it, no network, or no MLX model in it.
    """
    if (cached := _cached(repo)) is not None:
        return cached
    with told_apart(repo):
        path = Path(snapshot_download(repo, allow_patterns=DEFAULT_ALLOW_PATTERNS))
    weight_files(path)
    return path


def _cached(repo: str) -> Path | None:
    """The snapshot in the local cache, or None where there is none or parts of it are missing."""
    try:
        path = Path(snapshot_download(repo, allow_patterns=DEFAULT_ALLOW_PATTERNS, local_files_only=True))
        weight_files(path)
    except (OSError, ValueError, PersonaError):
        return None
    return path
