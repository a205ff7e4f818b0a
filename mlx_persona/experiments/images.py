"""The image experiment of source 000, section 5.6: a small network, Adam 0.01, 30 epochs, watched and not touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_persona import backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx

from mlx_persona.experiments.networks import Params, cnn, init_cnn, row_losses
from mlx_persona.experiments.pictures import Pictures
from mlx_persona.experiments.trial import Plan

BATCH = 128
_PROBE = 128
_AT_ONCE = 500  # images of an evaluation in memory at once


class Classification:
    """Images and their labels, in an order that is new in every epoch. No augmentation: the source names none."""

    def __init__(self, pictures: Pictures, channels: Sequence[int], hidden: int, batch: int, seed: int) -> None:
        self.channels, self.hidden, self.size, self.seed = channels, hidden, batch, seed
        self.train = tuple(mx.array(part) for part in pictures.train)
        self.test = tuple(mx.array(part) for part in pictures.test)
        self.rows = len(pictures.train[1])
        self.per_epoch = -(-self.rows // batch)
        self._order: tuple[int, Any] = (-1, None)

    def init(self, key: mx.array) -> Params:
        """Random weights for images of this size."""
        height, width, depth = self.train[0].shape[1:]
        return init_cnn(key, (height, width, depth), self.channels, self.hidden)

    def logits(self, params: Params, x: mx.array) -> mx.array:
        """(N, 10) for images (N, H, W, C)."""
        return cnn(params, x)

    def batch(self, update: int) -> tuple[mx.array, mx.array]:
        """The next images of the epoch; the last batch holds what is left of it."""
        epoch, place = divmod(update - 1, self.per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        rows = mx.array(self._order[1][place * self.size : (place + 1) * self.size])
        return self.train[0][rows], self.train[1][rows]

    def probe(self) -> tuple[mx.array, mx.array]:
        """The same training images for every seed."""
        rows = mx.array(np.random.default_rng(0).permutation(self.rows)[:_PROBE])
        return self.train[0][rows], self.train[1][rows]

    def measure(self, params: Params) -> dict[str, float]:
        """Loss and accuracy over all held-out images."""
        images, labels = self.test
        losses, right = [], 0
        for start in range(0, len(labels), _AT_ONCE):
            logits = cnn(params, images[start : start + _AT_ONCE])
            some = labels[start : start + _AT_ONCE]
            losses.append(np.array(row_losses(logits, some)))
            right += int((logits.argmax(axis=-1) == some).sum())
        rows = np.concatenate(losses)
        return {
            "loss": float(rows.mean()),
            "accuracy": right / len(rows),
            "noise": float(rows.std() / np.sqrt(len(rows))),
        }


def images(name: str, pictures: Pictures, seed: int, epochs: int, schedule: str) -> tuple[Plan, Classification]:
    """The settings of source 000, section 5.6; batches of 128, which it does not say.

    Args:
        name: of the set of images.
        pictures: the set.
        seed: of the weights and of the order.
        epochs: 30 in the source; an evaluation after each.
        schedule: the source names none: ``constant``. Its public demo has ``cosine``.
    """
    settings: dict[str, Any] = {"channels": [32, 64, 128], "hidden": 256, "batch": BATCH}
    task = Classification(pictures, **settings, seed=seed)
    plan = Plan(
        name=f"images-{name}-{schedule}-{seed}",
        seed=seed,
        updates=epochs * task.per_epoch,
        eval_every=task.per_epoch,
        rate=0.01,
        schedule=schedule,
        weight_decay=0.0,
        curvature_every=2,
        products=10,
        settings={**settings, "images": name, "rows": task.rows},
    )
    return plan, task
