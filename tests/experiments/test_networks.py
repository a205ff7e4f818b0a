"""The small networks compute what MLX's own layers and NumPy do."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import numpy as np

from mlx_persona.experiments.networks import (
    adder,
    cnn,
    convolve,
    init_adder,
    init_cnn,
    logit_gaps,
    max_pool,
    row_losses,
)


def test_a_convolution_is_that_of_mlx() -> None:
    x = mx.random.normal((2, 5, 7, 3), key=mx.random.key(0))
    weight = mx.random.normal((27, 4), key=mx.random.key(1))
    theirs = mx.conv2d(x, weight.T.reshape(4, 3, 3, 3), padding=1)
    np.testing.assert_allclose(np.array(convolve(x, weight)), np.array(theirs), atol=2e-5)


def test_pooling_takes_the_largest_of_each_square_and_leaves_odd_edges_out() -> None:
    x = mx.random.normal((2, 5, 7, 3), key=mx.random.key(0))
    squares = np.array(x)[:, :4, :6].reshape(2, 2, 2, 3, 2, 3)
    assert np.array(max_pool(x)).tolist() == squares.max(axis=(2, 4)).tolist()


def test_the_image_network_is_that_of_the_paper() -> None:
    """32-64-128 channels of 3x3 on 32x32x3, FC 256 -> 10: 93,248 + 128 * 4 * 4 * 256 + 256 + 2,570 parameters."""
    params = init_cnn(mx.random.key(0), (32, 32, 3))
    assert sum(value.size for value in params.values()) == 93_248 + 524_544 + 2_570
    assert cnn(params, mx.zeros((2, 32, 32, 3))).shape == (2, 10)


def test_three_blocks_leave_one_pixel_of_eight_by_eight() -> None:
    params = init_cnn(mx.random.key(0), (8, 8, 1), (4, 5, 6), 7)
    assert params["hidden_w"].shape == (6, 7)


def test_sums_are_asked_for_in_order() -> None:
    """The embeddings stand side by side, so that (1, 2) and (2, 1) are different questions."""
    params = init_adder(mx.random.key(0), 5, 3, 4)
    table = np.array(params["embedding"])
    hidden = np.concatenate([table[1], table[2]]) @ np.array(params["hidden_w"])
    wanted = np.maximum(hidden, 0) @ np.array(params["out_w"])
    np.testing.assert_allclose(np.array(adder(params, mx.array([[1, 2]])))[0], wanted, rtol=1e-5)


def test_losses_and_gaps_of_rows() -> None:
    """By hand: logits log 1, log 2, log 5 give probabilities 1/8, 2/8, 5/8."""
    logits = mx.log(mx.array([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]))
    targets = mx.array([2, 1])
    np.testing.assert_allclose(np.array(row_losses(logits, targets)), np.log([8 / 5, 8 / 2]), rtol=1e-6)
    np.testing.assert_allclose(np.array(logit_gaps(logits, targets)), np.log([5 / 2, 2 / 5]), rtol=1e-6)
