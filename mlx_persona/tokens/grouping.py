"""Which rows go together: sorted windows, token budgets and packs, as pure functions on arrays of lengths.

Every function takes the lengths (n,) in the order in which an epoch draws them, and returns ``(order, edges)``:
group g is ``order[edges[g]:edges[g + 1]]``, positions in what was given. Ties keep the drawn order, so the
shuffle is what tells epochs apart.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

import numpy as np
from numpy.typing import NDArray

Groups = tuple[NDArray[np.int64], NDArray[np.int64]]

# Rows are packed within windows of so many drawn rows: enough to fill every sequence but the last one.
PACK_WINDOW = 4096


def round_up(n: NDArray[np.int64] | np.int64, step: int) -> NDArray[np.int64]:
    """Each number to the next multiple of ``step``, and at least that."""
    return np.maximum(step, -(-n // step) * step)


def by_count(lengths: NDArray[np.int64], size: int, window: int) -> Groups:
    """Groups of ``size``, sorted by length within windows of ``window`` (a multiple of ``size``)."""
    count = len(lengths)
    span = int(lengths.max(initial=0)) + 1
    order = np.argsort(np.arange(count) // window * span + lengths, kind="stable")
    return order, np.append(np.arange(0, count, size), count)


def by_tokens(lengths: NDArray[np.int64], budget: int, step: int) -> Groups:
    """Groups of like length, the longest first, whose padded size is at most ``budget`` tokens.

    The longest of a group, rounded up to ``step``, is its width, and width x rows <= budget. A group is
    filled up with narrower rows, down to half its width, so nearly all groups of a width have one shape.
    How many groups there are depends on the lengths only, not on their order.

    Args:
        lengths: (n,), each at most ``budget`` when rounded up to ``step``.
        budget: tokens per group, padding included.
        step: widths are multiples of this.
    """
    widths = round_up(lengths, step)
    order = np.argsort(-widths, kind="stable")
    falling: list[int] = (-widths[order]).tolist()
    edges = [0]
    while edges[-1] < len(falling):
        at = edges[-1]
        width = -falling[at]
        like = bisect_right(falling, -width // 2, lo=at)
        edges.append(min(at + max(1, budget // width), like))
    return order, np.asarray(edges)


def pack(lengths: NDArray[np.int64], capacity: int) -> Groups:
    """Groups whose lengths add up to at most ``capacity``: longest first, each where it leaves the least room.

    Args:
        lengths: (n,), each at most ``capacity``.
        capacity: tokens of a sequence.
    """
    order: list[int] = []
    edges = [0]
    for begin in range(0, len(lengths), PACK_WINDOW):
        part = lengths[begin : begin + PACK_WINDOW]
        longest_first = np.argsort(-part, kind="stable")
        packs: list[list[int]] = []
        rooms: list[tuple[int, int]] = []  # (room left, pack), the fullest first
        for index, length in zip((longest_first + begin).tolist(), part[longest_first].tolist(), strict=True):
            at = bisect_left(rooms, (length, 0))
            if at == len(rooms):
                packs.append([index])
                room, number = capacity, len(packs) - 1
            else:
                room, number = rooms.pop(at)
                packs[number].append(index)
            if room > length:
                insort(rooms, (room - length, number))
        for members in packs:
            order += members
            edges.append(len(order))
    return np.asarray(order, np.int64), np.asarray(edges)


def take(edges: NDArray[np.int64], groups: NDArray[np.int64]) -> Groups:
    """Groups in another order: ``(positions of their members, their new edges)``."""
    sizes = np.diff(edges)[groups]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return np.arange(ends[-1]) + np.repeat(edges[groups] - ends[:-1], sizes), ends
