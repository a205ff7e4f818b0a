"""How processes that train together learn that one of them is gone, while they wait in a reduction.

Rank 0 holds a TCP connection to each other rank. A process that is killed closes it, a machine that left
the network falls silent, and a rank that fails says so. Nothing but news travels here. MLX's own transports
cannot be relied on for it: of those, only the ring reports a dead peer.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from mlx_persona.errors import PersonaError

BEAT = 2.0  # seconds between two signs of life
SILENT_BEATS = 30  # so many without one, and a rank counts as gone
STALLED_BEATS = 150  # so long in one reduction that all ranks have entered, and it will never end
_FIREWALL = "let Python accept incoming connections on rank 0's machine"


@dataclass
class _Place:
    """Where a rank is: reductions entered, and for how many beats it has waited in the last of them."""

    entered: int = 0
    waited: int = 0


def meet(rank: int, size: int, host: str, tell: Any) -> dict[int, socket.socket]:
    """Connect every rank with rank 0.

    Args:
        rank: this process.
        size: how many there are.
        host: rank 0's address, as all ranks know it.
        tell: gives rank 0's value (port and password) to all ranks.

    Returns:
        The sockets by rank: all others for rank 0, rank 0 for the others.

    Raises:
        PersonaError: they cannot reach one another.
    """
    try:
        if rank:
            port, password = tell(None)
            line = socket.create_connection((host, port), timeout=20)
            line.sendall(json.dumps([password, rank]).encode() + b"\n")
            return {0: line}
        with socket.create_server((host, 0), backlog=size) as door:
            door.settimeout(30)
            password = secrets.token_hex(16)
            tell([door.getsockname()[1], password])
            return _welcome(door, size, password)
    except OSError as error:
        raise PersonaError(f"rank {rank} cannot connect at {host}: {error}", _FIREWALL) from error


def _welcome(door: socket.socket, size: int, password: str) -> dict[int, socket.socket]:
    """The other ranks' connections; whoever does not know the password is turned away."""
    lines: dict[int, socket.socket] = {}
    while len(lines) < size - 1:
        line, _ = door.accept()
        line.settimeout(5)
        try:
            with line.makefile("rb") as file:
                said, rank = json.loads(file.readline(200))
            if not secrets.compare_digest(str(said), password):
                raise ValueError(said)
        except (OSError, ValueError, TypeError):
            line.close()
            continue
        lines[int(rank)] = line
    return lines


class Lifeline:
    """Watches over the other ranks; :attr:`loss` says in words what was lost first, or is None."""

    def __init__(self, rank: int, lines: dict[int, socket.socket], beat: float = BEAT) -> None:
        self.loss: str | None = None
        self._rank, self._lines, self._beat = rank, lines, beat
        self._places = {r: _Place() for r in (rank, *lines)}
        self._waiting = False
        self._lock, self._lost, self._closed = threading.Lock(), threading.Event(), threading.Event()
        for other, line in lines.items():
            line.settimeout(beat)
            threading.Thread(target=self._listen, args=(other, line), daemon=True).start()
        threading.Thread(target=self._live, daemon=True).start()

    def enter(self) -> None:
        """This rank begins to wait in a reduction."""
        place = self._places[self._rank]
        place.entered, place.waited, self._waiting = place.entered + 1, 0, True

    def leave(self) -> None:
        """The reduction is over."""
        self._waiting, self._places[self._rank].waited = False, 0

    def fail(self, why: str) -> None:
        """Tell the others that this rank ends with an error."""
        self._send({"lost": f"rank {self._rank} failed: {why}"})

    def reason(self, seconds: float) -> str | None:
        """What was lost; waits for the news for so many seconds."""
        self._lost.wait(seconds)
        return self.loss

    def outlive(self, seconds: float) -> None:
        """Wait, at most so long, until a connection is closed: for all but rank 0, until rank 0 has ended."""
        self._closed.wait(seconds)

    def _lose(self, why: str) -> None:
        """Remember the first loss; rank 0 passes it on to all."""
        with self._lock:
            if self.loss is not None:
                return
            self.loss = why
        self._lost.set()
        if self._rank == 0:
            self._send({"lost": why})

    def _send(self, message: dict[str, Any]) -> None:
        for line in self._lines.values():
            try:
                line.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                continue  # its reader notices

    def _listen(self, other: int, line: socket.socket) -> None:
        """Read what one rank says until it falls silent."""
        rest, silent = b"", 0
        # Beats are counted, not the clock read: a laptop that was asleep must not take the others for dead.
        while silent < SILENT_BEATS:
            try:
                data = line.recv(4096)
            except TimeoutError:
                silent += 1
                continue
            except OSError:
                data = b""
            if not data:
                self._lose(f"rank {other} is gone: its process was killed, or its machine left the network")
                self._closed.set()
                return
            silent = 0
            *whole, rest = (rest + data).split(b"\n")
            for message in map(json.loads, whole):
                if "lost" in message:
                    self._lose(str(message["lost"]))
                else:
                    self._places[other] = _Place(**message)
        self._lose(f"rank {other} has not been heard of for {SILENT_BEATS * self._beat:.0f} seconds")

    def _live(self) -> None:
        """Send a sign of life with every beat, and look for a reduction that all wait in for ever."""
        mine = self._places[self._rank]
        while True:
            time.sleep(self._beat)
            mine.waited += self._waiting
            self._send({"entered": mine.entered, "waited": mine.waited})
            everyone = self._places.values()
            entered = min(place.entered for place in everyone)
            if self._rank == 0 and any(p.waited > STALLED_BEATS and p.entered <= entered for p in everyone):
                self._lose(f"a reduction did not end in {STALLED_BEATS * self._beat:.0f} seconds: the network hangs")
