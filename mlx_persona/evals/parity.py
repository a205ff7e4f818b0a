"""How much of an adapter's effect another model keeps, on held-out replies.

retention = 1 - KL(adapter || model) / KL(adapter || base), where KL is the mean over reply positions of
sum p_adapter (log p_adapter - log p), in nats. The models are scored one after the other: only the first
one's log-probabilities stay, in a memory-mapped file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_persona import ui
from mlx_persona.models.divergence import kl, log_softmax
from mlx_persona.models.heads import RowLogits, row_logits
from mlx_persona.schema import Conversation
from mlx_persona.tokens.batches import Row, collate, evenly, ordered_batches
from mlx_persona.tokens.dataset import conversation_rows
from mlx_persona.tokens.render import Renderer

# Reply tokens taken from one conversation: its first ones, because each later one costs all that precedes it.
PER_ROW = 32
BATCH = 4
# Below this, in nats, the adapter and the base are the same model, and a share of their difference is noise.
NOTHING = 1e-6


def sample_rows(
    conversations: Sequence[Conversation], renderer: Renderer, tokens: int, max_seq_length: int
) -> list[Row]:
    """Held-out rows with about ``tokens`` reply tokens in all, spread evenly over conversations.

    Each row begins as in training and ends with the last reply token that is compared.

    Args:
        conversations: the held-out ones.
        renderer: for the model's template.
        tokens: reply tokens wanted; fewer where there are not as many.
        max_seq_length: longest row, in tokens.
    """
    per_row = max(PER_ROW, -(-tokens // max(1, len(conversations))))
    first = evenly(len(conversations), -(-tokens // per_row))
    later = sorted(set(range(len(conversations))) - set(first))
    rows: list[Row] = []
    missing = tokens
    for index in (*first, *later):
        found = conversation_rows([conversations[index]], renderer, max_seq_length).rows
        if found and missing > 0:
            wanted = min(per_row, missing)
            row = max(found, key=lambda row: min(row.targets, wanted))  # the first of equals
            taken = np.flatnonzero(row.mask[1:])[:wanted] + 1
            end = int(taken[-1]) + 1
            rows.append(Row(row.ids[:end], row.mask[:end]))
            missing -= len(taken)
    return rows


def reference_bytes(model: nn.Module, rows: Sequence[Row]) -> int:
    """Size of the file that :func:`write_reference` writes."""
    vocabulary = int(model(mx.array([[0]])).shape[-1])
    return 4 * vocabulary * sum(row.targets for row in rows)


def write_reference(model: nn.Module, rows: Sequence[Row], path: Path) -> None:
    """Score the model that the others are compared with: its log-probabilities, fp32 (N, V), as ``.npy``."""
    total, start = sum(row.targets for row in rows), 0
    stored: np.memmap | None = None
    for block in _log_probs(model, rows, "scoring the adapter"):
        if stored is None:
            shape = (total, int(block.shape[1]))
            stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        stored[start : start + len(block)] = np.asarray(block)
        start += len(block)
    if stored is not None:
        stored.flush()


def divergence(model: nn.Module, rows: Sequence[Row], reference: Path, title: str) -> float:
    """KL(reference || model) in nats, the mean over the rows' marked tokens.

    Args:
        model: what is compared.
        rows: those that the reference was written for.
        reference: the file that :func:`write_reference` wrote.
        title: what the progress bar says.
    """
    stored = np.load(reference, mmap_mode="r")  # (N, V)
    parts: list[np.ndarray] = []
    start = 0
    for block in _log_probs(model, rows, title):
        parts.append(np.asarray(kl(mx.array(stored[start : start + len(block)]), block)))
        start += len(block)
    return float(np.concatenate(parts).mean(dtype=np.float64))


def retention(kl_model: float, kl_base: float) -> float:
    """1 - KL(adapter || model) / KL(adapter || base); 1 for an adapter that does nothing and has nothing to lose."""
    return 1.0 if kl_base < NOTHING else 1.0 - kl_model / kl_base


def _log_probs(model: nn.Module, rows: Sequence[Row], title: str) -> Iterator[mx.array]:
    """Log-probabilities (P, V) of the next token at the marked positions, batch by batch, always in one order."""
    logits = row_logits(model)
    groups = ordered_batches([len(row.ids) for row in rows], BATCH)
    with ui.progress(title, len(groups)) as bar:
        for group in groups:
            found = batch_log_probs(model, logits, [rows[i] for i in group])
            mx.eval(found)
            yield found
            bar.advance()


def batch_log_probs(model: nn.Module, logits: RowLogits, rows: Sequence[Row]) -> mx.array:
    """Log-probabilities (P, V) of the next token at the marked positions of one batch, row after row."""
    batch = collate(rows)
    positions = batch["positions"][batch["weights"].astype(bool)]
    return log_softmax(logits(model, mx.array(batch["tokens"]), mx.array(positions)))
