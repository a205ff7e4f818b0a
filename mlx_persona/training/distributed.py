"""Several processes that train one model together, on one machine or on many (data parallel).

``mlx.launch -n 2 --backend ring -- python -m mlx_persona sft ...`` starts them (docs/distributed.md). All ranks
know the same plan; each takes its share of the work, and sums are added over the ranks, never means. Rank 0
alone writes and speaks. Any rank's failure ends all of them with an error.

A process that was started alone gets a :class:`Group` of one, which does nothing and costs nothing.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from mlx_persona import ui
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.training.lifeline import Lifeline, meet

T = TypeVar("T")
# One reduction moves at most so many bytes: few big ones are fast, and this bounds the copies.
CHUNK = 32 * 2**20
# How often a rank that waits looks whether the others still live, in seconds.
_LOOK = 0.2


def overwrite(tree: Any, other: Any) -> None:
    """Put the arrays of ``other`` into the nested dicts and lists of ``tree``, which a compiled function holds."""
    for name, value in tree_flatten(other):
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[int(last) if isinstance(node, list) else last] = value


class PeerLost(PersonaError):  # noqa: N818  (it says what happened)
    """Another rank failed or is gone: nothing that all ranks do together can go on."""


class Group:
    """The ranks that train together: here one. :class:`Ranks` overrides everything that needs the others."""

    rank = 0
    size = 1

    def share(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """This rank's items, and whether they count: every item counts on exactly one rank.

        All ranks get equally many; those that come short repeat the first item, which then does not count.
        """
        mine = [(item, True) for item in items[self.rank :: self.size]]
        steps = -(-len(items) // self.size)
        return mine + [(item, False) for item in items[:1]] * (steps - len(mine))

    def reduce(self, tree: Any, asked: bool = False) -> Any:
        """The sum of a tree of arrays over the ranks, added in fp32; ``asked`` is this rank's wish to stop."""
        return tree

    def stopping(self, asked: bool) -> bool:
        """Whether all stop now, since any rank ``asked`` to at the last :meth:`reduce`."""
        return asked

    def sync(self, tree: Any) -> Any:
        """Rank 0's arrays, bit for bit, in place of this rank's."""
        return tree

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value (plain JSON), by rank."""
        return [value]

    def first(self, make: Callable[[], Any]) -> Any:
        """What ``make`` gives on rank 0, on every rank (plain JSON)."""
        return self.gather(make() if self.rank == 0 else None)[0]

    def agree(self, facts: dict[str, Any]) -> None:
        """Check that these facts (plain JSON) are the same on every rank.

        Raises:
            PersonaError: names the first that differs.
        """
        everyone = self.gather(facts)
        for rank, theirs in enumerate(everyone):
            for name in sorted({*everyone[0], *theirs}):
                here, there = everyone[0].get(name), theirs.get(name)
                if here != there:
                    raise PersonaError(
                        f"the ranks differ in {name}: {here!r} on rank 0, {there!r} on rank {rank}",
                        "all ranks need the same options, data, model and versions",
                    )

    def tell_failure(self, why: str) -> None:
        """Let the others know that this rank ends with an error."""


class Ranks(Group):
    """Several processes, joined by one of MLX's backends and watched over by a lifeline."""

    def __init__(self, group: Any, device: Any, host: str) -> None:
        self.rank, self.size = group.rank(), group.size()
        self._asked = self._waiting = False
        self._lifeline: Lifeline | None = None
        self._work: queue.SimpleQueue[NDArray[Any]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[NDArray[Any] | RuntimeError] = queue.SimpleQueue()
        threading.Thread(target=self._reducer, args=(group, device), daemon=True).start()
        ui.set_rank(self.rank)
        lines = meet(self.rank, self.size, host, lambda value: self.first(lambda: value))
        self._lifeline = Lifeline(self.rank, lines)
        atexit.register(self._at_exit)

    def _reducer(self, group: Any, device: Any) -> None:
        """Reductions run on a thread of their own, so that one that never ends cannot hold the main thread.

        NumPy arrays go in and out: nothing is left for two of MLX's streams to wait on each other for.
        """
        stream = mx.new_stream(device)
        while True:
            part = self._work.get()
            try:
                self._done.put(np.array(mx.distributed.all_sum(mx.array(part), group=group, stream=stream)))
            except RuntimeError as error:
                self._done.put(error)

    def _all_sum(self, flat: NDArray[Any]) -> NDArray[Any]:
        """The sum of a vector over the ranks; raises PeerLost."""
        step = max(1, CHUNK // flat.itemsize)
        return np.concatenate([self._one_sum(flat[i : i + step]) for i in range(0, len(flat), step)])

    def _one_sum(self, part: NDArray[Any]) -> NDArray[Any]:
        if self._lifeline is not None:
            self._lifeline.enter()
        self._waiting = True
        self._work.put(part)
        while True:
            try:
                done = self._done.get(timeout=_LOOK)
            except queue.Empty:
                if self._lifeline is not None and self._lifeline.loss:
                    raise PeerLost(self._lifeline.loss) from None
                continue
            self._waiting = False
            if isinstance(done, RuntimeError):
                # MLX knows only that a connection broke; the lifeline soon knows whose and why.
                known = self._lifeline.reason(2.0) if self._lifeline is not None else None
                raise PeerLost(known or f"the connection to another rank was lost: {done}") from done
            if self._lifeline is not None:
                self._lifeline.leave()
            return done

    def reduce(self, tree: Any, asked: bool = False) -> Any:
        """See :meth:`Group.reduce`."""
        leaves = tree_flatten(tree)
        flat = mx.concatenate([*(leaf.astype(mx.float32).reshape(-1) for _, leaf in leaves), mx.array([float(asked)])])
        total = self._all_sum(np.array(flat))
        self._asked = bool(total[-1] > 0)
        out, at = [], 0
        for name, leaf in leaves:
            part = total[at : at + leaf.size].reshape(leaf.shape)
            out.append((name, mx.array(part).astype(leaf.dtype)))
            at += leaf.size
        return tree_unflatten(out)

    def stopping(self, asked: bool) -> bool:
        """See :meth:`Group.stopping`."""
        return self._asked

    def sync(self, tree: Any) -> Any:
        """See :meth:`Group.sync`."""
        leaves = sorted(tree_flatten(tree), key=lambda pair: pair[0])
        flat = np.concatenate([np.array(leaf.reshape(-1).view(mx.uint8)) for _, leaf in leaves])
        theirs = self._all_sum(flat if self.rank == 0 else np.zeros_like(flat))
        out, at = [], 0
        for name, leaf in leaves:
            value = mx.array(theirs[at : at + leaf.nbytes]).view(leaf.dtype).reshape(leaf.shape)
            out.append((name, value))
            at += leaf.nbytes
        return tree_unflatten(out)

    def gather(self, value: Any) -> list[Any]:
        """See :meth:`Group.gather`."""
        mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = np.zeros(self.size, np.int32)
        lengths[self.rank] = len(mine)
        lengths = self._all_sum(lengths)
        everyone = np.zeros((self.size, int(lengths.max())), np.uint8)
        everyone[self.rank, : len(mine)] = mine
        everyone = self._all_sum(everyone.reshape(-1)).reshape(everyone.shape)
        return [json.loads(row[:length].tobytes()) for row, length in zip(everyone, lengths, strict=True)]

    def tell_failure(self, why: str) -> None:
        """See :meth:`Group.tell_failure`."""
        if self._lifeline is not None:
            self._lifeline.fail(why)

    def _at_exit(self) -> None:
        if self.rank and self._lifeline is not None:
            # mlx.launch ends all ranks when one ends with an error: let rank 0 have the last word, and keep our status.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._lifeline.outlive(5.0)
        if self._waiting:
            # MLX would wait for ever for the thread of a reduction that never ends.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


def _launched() -> tuple[str, str] | None:
    """``(backend, rank 0's address)`` when ``mlx.launch`` started this process beside others, else None."""
    known = os.environ
    if "MLX_RANK" not in known:
        return None
    if "MLX_IBV_DEVICES" in known:
        return "jaccl", known.get("MLX_JACCL_COORDINATOR", "").rpartition(":")[0]
    if "NCCL_HOST_IP" in known:
        return ("nccl", known["NCCL_HOST_IP"]) if int(known.get("MLX_WORLD_SIZE", "1")) > 1 else None
    hosts = Path(known["MLX_HOSTFILE"]).read_text(encoding="utf-8") if "MLX_HOSTFILE" in known else ""
    if not hosts.strip():
        return None  # one process needs no ring
    return "ring", str(json.loads(hosts)[0][0]).rpartition(":")[0]


@functools.cache
def join() -> Group:
    """The group that this process was launched in: itself alone, unless ``mlx.launch`` started several.

    Raises:
        PersonaError: the other ranks cannot be reached.
    """
    launched = _launched()
    if launched is None:
        return Group()
    backend, host = launched
    try:
        group = mx.distributed.init(strict=True, backend=backend)
    except RuntimeError as error:
        raise PersonaError(f"cannot join the other ranks: {error}", "see docs/distributed.md") from error
    # NCCL computes on the GPU; the ring and jaccl are the CPU's.
    return Ranks(group, mx.gpu if backend == "nccl" else mx.cpu, host)


_depth = 0


@contextmanager
def joined() -> Iterator[Group]:
    """All ranks do this block together: if one of them fails in it, all end with an error.

    Blocks may be nested; the outermost counts.
    """
    global _depth
    group = join()
    _depth += 1
    try:
        yield group
        if _depth == 1:
            group.gather(None)  # no rank leaves before the last is done
    except PeerLost:
        raise
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        group.tell_failure("it was stopped" if stopped else " ".join(str(error).split()) or type(error).__name__)
        raise
    finally:
        _depth -= 1
