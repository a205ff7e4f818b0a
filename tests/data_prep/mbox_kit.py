"""Short ways to write mailboxes and to read them."""

from __future__ import annotations

from pathlib import Path

from data_prep.sources import mbox
from data_prep.sources.base import Bad, RawConversation, RawMessage, ReadOptions
from data_prep.sources.head import Head

FIXTURES = Path(__file__).parent / "fixtures" / "mbox"
TAKEOUT = FIXTURES / "All mail Including Spam and Trash.mbox"


def everything(path: Path) -> tuple[list[RawConversation], list[Bad]]:
    items = list(mbox.read(path, ReadOptions()))
    return [i for i in items if isinstance(i, RawConversation)], [i for i in items if isinstance(i, Bad)]


def messages(path: Path) -> list[RawMessage]:
    threads, bad = everything(path)
    assert bad == []
    return [m for thread in threads for m in thread.messages]


def known(path: Path) -> bool:
    return mbox.matches(Head.of(path))


def box(folder: Path, *mails: str | bytes, name: str = "a.mbox") -> Path:
    """A mailbox of mails without their separators."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [m if isinstance(m, bytes) else m.encode() for m in mails]
    path.write_bytes(b"".join(b"From - Mon Jan  1 00:00:00 2024\n" + m + b"\n\n" for m in raw))
    return path
