"""Tokenized conversations kept on disk: a second run starts at once, and a million of them stay out of memory.

What is kept is named by the content of the file and by everything that decides its tokens, so it is never stale.
It lies in ``tokens/`` of the cache (``$MLX_PERSONA_CACHE``), readable by its owner only: it is what people wrote.
What no run has used for a month goes, and the longest unused where there is more than KEEP_BYTES.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from mlx_persona import schema, ui
from mlx_persona.cache import cache_dir
from mlx_persona.errors import PersonaError
from mlx_persona.files import write_text
from mlx_persona.models.once import build_once
from mlx_persona.runs import file_hash
from mlx_persona.schema import Conversation, iter_conversations
from mlx_persona.tokens.dataset import Account, NoReply, Rows, conversation_rows, rows_of, system_of
from mlx_persona.tokens.render import Renderer
from mlx_persona.tokens.store import Stored, write_rows

# A smaller file is tokenized in a moment, and no copy of it is kept.
SMALL = 1 << 20
KEEP_BYTES = 8 << 30
KEEP_SECONDS = 30 * 24 * 3600
_SURVEY, _ACCOUNT = "survey.json", "account.json"
_T = TypeVar("_T")
_NOTED = 1000  # conversations between two moves of the progress bar


@dataclass(frozen=True)
class Survey:
    """What a run must know of a file of conversations beforehand: its hash, and what was found in it.

    ``system`` is the system message that most conversations begin with, empty where most have none.
    """

    sha256: str
    conversations: int
    system: str


def survey(path: Path) -> Survey:
    """Read a file of conversations through, or recall what was found when it was.

    Raises:
        NoReply: it is missing, or holds no trained reply.
        PersonaError: a line of it is wrong (named).
    """
    if not path.is_file():
        raise NoReply(path)
    digest = file_hash(path)
    if _is_small(path):
        return _survey(path, digest)
    target = _folder() / _key(digest)

    def fill(folder: Path) -> None:
        ui.info(f"reading {path}")
        write_text(folder / _SURVEY, json.dumps(asdict(_survey(path, digest))))

    def recall(folder: Path) -> Survey:
        return Survey(**json.loads((folder / _SURVEY).read_text(encoding="utf-8")))

    return _recalled(target, fill, recall) or _survey(path, digest)


def load_rows(path: Path, known: Survey, renderer: Renderer, max_tokens: int) -> Rows:
    """The rows of a file for SFT: mapped from the cache, and tokenized into it where they are not there yet.

    Raises:
        PersonaError: a conversation that the chat template refuses.
    """
    if _is_small(path):
        return conversation_rows(iter_conversations(path), renderer, max_tokens)
    target = _folder() / _key(known.sha256, renderer.fingerprint(), max_tokens)

    def fill(folder: Path) -> None:
        account = Account()
        write_rows(folder, rows_of(_shown(path, known), renderer, max_tokens, account), renderer.vocabulary)
        write_text(folder / _ACCOUNT, json.dumps(asdict(account)))

    def recall(folder: Path) -> Rows:
        return Rows(Stored.open(folder), Account(**json.loads((folder / _ACCOUNT).read_text(encoding="utf-8"))))

    rows = _recalled(target, fill, recall)
    return rows or conversation_rows(_shown(path, known), renderer, max_tokens)


def _folder() -> Path:
    return cache_dir() / "tokens"


def _is_small(path: Path) -> bool:
    return path.stat().st_size < SMALL


def _survey(path: Path, digest: str) -> Survey:
    systems: Counter[str] = Counter()
    trained = False
    for conversation in iter_conversations(path):
        systems[system_of(conversation)] += 1
        trained = trained or conversation.trained_replies > 0
    if not trained:
        raise NoReply(path)
    return Survey(digest, systems.total(), systems.most_common(1)[0][0])


def _shown(path: Path, known: Survey) -> Iterator[Conversation]:
    """The conversations of a file, behind a progress bar."""
    with ui.progress(f"tokenizing {path.name}", known.conversations) as bar:
        for number, conversation in enumerate(iter_conversations(path), 1):
            yield conversation
            if number % _NOTED == 0:
                bar.advance(_NOTED)


def _key(*facts: object) -> str:
    """A name for what follows from these facts and from this program's code that reads and renders."""
    digest = hashlib.sha256(json.dumps(facts).encode())
    for file in (*sorted(Path(__file__).parent.glob("*.py")), Path(schema.__file__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _recalled(target: Path, fill: Callable[[Path], None], recall: Callable[[Path], _T]) -> _T | None:
    """What ``recall`` reads from an entry of the cache, which ``fill`` fills where it is missing or broken.

    Returns:
        None where the cache cannot be written; the user is told.
    """

    def build(scratch: Path) -> None:
        fill(scratch / "entry")
        (scratch / "entry").rename(target)
        _tidy(target)

    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(2):
            build_once(target, build)
            try:
                found = recall(target)
            except (OSError, ValueError, TypeError):  # a disk that lost something
                shutil.rmtree(target, ignore_errors=True)
                continue
            os.utime(target)
            return found
    except (OSError, PersonaError) as error:
        if isinstance(error, PersonaError) and not isinstance(error.__cause__, OSError):
            raise
        ui.warn(f"tokens are not kept for the next run: {error}")
    return None


def _tidy(newest: Path) -> None:
    """Drop what nobody has used for long, and the longest unused where it is too much."""
    entries = [e for e in newest.parent.iterdir() if e.is_dir() and not e.name.startswith(".") and e != newest]
    total = _size(newest)
    for entry in sorted(entries, key=lambda e: e.stat().st_mtime, reverse=True):
        total += _size(entry)
        if total > KEEP_BYTES or entry.stat().st_mtime < time.time() - KEEP_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)


def _size(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.iterdir())
