"""Two small networks as pure functions of a flat dict of arrays, float32 throughout.

Pure functions, so that gradients, Hessian-vector products and checkpoints need nothing of a module's state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlx_persona import backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx

Params = dict[str, mx.array]
_KEYS = 16  # more than any network here has matrices


def init_cnn(
    key: mx.array,
    shape: tuple[int, int, int],
    channels: Sequence[int] = (32, 64, 128),
    hidden: int = 256,
    classes: int = 10,
) -> Params:
    """Weights of the image network of source 000, section 5.6: 32-64-128 channels, FC 256 -> 10.

    Uniform within 1 / sqrt(fan in) of zero, biases zero: the loss begins near log(classes).

    Args:
        key: random key; the same key gives the same weights.
        shape: height, width, channels of an image; each block halves height and width, rounding down.
        channels: of each 3x3 block.
        hidden: width of the fully connected layer.
        classes: number of outputs.
    """
    height, width, depth = shape
    shapes: dict[str, tuple[int, int]] = {}
    for index, wide in enumerate(channels):
        shapes[f"conv{index}"] = (9 * depth, wide)
        height, width, depth = height // 2, width // 2, wide
    shapes["hidden"] = (height * width * depth, hidden)
    shapes["out"] = (hidden, classes)
    return _uniform(key, shapes)


def cnn(params: Params, x: mx.array) -> mx.array:
    """Logits (N, classes) for images (N, H, W, C): blocks of 3x3 convolution, ReLU, 2x2 max-pooling; two layers."""
    blocks = sum(name.startswith("conv") and name.endswith("_w") for name in params)
    for index in range(blocks):
        x = max_pool(mx.maximum(convolve(x, params[f"conv{index}_w"]) + params[f"conv{index}_b"], 0))
    x = x.reshape(x.shape[0], -1)
    x = mx.maximum(x @ params["hidden_w"] + params["hidden_b"], 0)
    return x @ params["out_w"] + params["out_b"]


def convolve(x: mx.array, weight: mx.array) -> mx.array:
    """A 3x3 convolution with zero padding, as one matrix product of patches (im2col).

    ``mx.conv2d`` has no forward-mode derivative, which a Hessian-vector product needs. A training step takes the same
    time either way on the CPU (docs/experiments.md).

    Args:
        x: (N, H, W, C).
        weight: (9 * C, O), rows in the order row, column, channel of the patch.

    Returns:
        (N, H, W, O).
    """
    _, height, width, _ = x.shape
    padded = mx.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    patches = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return mx.concatenate(patches, axis=-1) @ weight


def max_pool(x: mx.array) -> mx.array:
    """The largest of each 2x2 square of (N, H, W, C); an odd last row or column is left out."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    rows = mx.maximum(x[:, 0:height:2, :width], x[:, 1:height:2, :width])
    return mx.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


def init_adder(key: mx.array, modulus: int, embedding: int, hidden: int) -> Params:
    """Weights of the network for modular addition: one embedding for both numbers, one hidden layer."""
    made = _uniform(key, {"hidden": (2 * embedding, hidden), "out": (hidden, modulus)})
    made["embedding"] = mx.random.normal((modulus, embedding), key=mx.random.split(key, _KEYS)[-1])
    return made


def adder(params: Params, pairs: mx.array) -> mx.array:
    """Logits (N, modulus) for pairs of numbers (N, 2): embeddings side by side, a ReLU layer, an output layer."""
    # A product with one-hot rows: MLX cannot differentiate a look-up twice (the scatter of its gradient has no JVP).
    table = params["embedding"]
    chosen = (pairs[..., None] == mx.arange(table.shape[0])).astype(table.dtype)  # (N, 2, modulus)
    x = (chosen @ table).reshape(pairs.shape[0], -1)  # (N, 2 * embedding)
    x = mx.maximum(x @ params["hidden_w"] + params["hidden_b"], 0)
    return x @ params["out_w"] + params["out_b"]


def _uniform(key: mx.array, shapes: dict[str, tuple[int, int]]) -> Params:
    params: Params = {}
    keys = mx.random.split(key, _KEYS)
    for index, (name, (fan_in, wide)) in enumerate(shapes.items()):
        edge = 1 / math.sqrt(fan_in)
        params[f"{name}_w"] = mx.random.uniform(-edge, edge, (fan_in, wide), key=keys[index])
        params[f"{name}_b"] = mx.zeros((wide,))
    return params


def row_losses(logits: mx.array, targets: mx.array) -> mx.array:
    """Cross-entropy of each row in nats (N,): logits (N, K), targets (N,)."""
    right = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return mx.logsumexp(logits, axis=-1) - right


def logit_gaps(logits: mx.array, targets: mx.array) -> mx.array:
    """The right logit minus the best other one, of each row (N,): above zero where the answer is right."""
    index = targets[:, None]
    right = mx.take_along_axis(logits, index, axis=-1)[:, 0]
    others = mx.put_along_axis(logits, index, mx.array(-mx.inf), axis=-1)
    return right - others.max(axis=-1)
