"""How the user stops a run: asked once, it ends after the update at hand; asked twice, at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether the user asked to stop; a second request stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def catch_signals(stop: Stop) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a lost terminal ask for a stop during the block."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it
        signals.append(signal.SIGHUP)  # what a rank on another machine gets when mlx.launch ends
    try:
        old = {s: signal.signal(s, stop) for s in signals}
    except ValueError:  # not the main thread: a notebook's or a server's worker
        old = {}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
