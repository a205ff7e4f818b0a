"""The largest eigenvalue is that of the dense Hessian."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_persona.experiments.curvature import hessian_product, largest_eigenvalue, random_direction, unit
from mlx_persona.experiments.networks import Params, adder, cnn, init_adder, init_cnn, row_losses

Floats = NDArray[np.float64]


def quadratic(values: list[float]) -> Params:
    """A start with a part in every direction."""
    return {"x": mx.ones(len(values))}


@pytest.mark.parametrize("values", [[3.0, 1.0, -2.0], [-5.0, 2.0, 1.0], [-3.0, -2.0, -1.0]])
def test_of_a_quadratic_it_is_the_largest_and_not_the_largest_in_size(values: list[float]) -> None:
    """The Hessian of sum(a x²) / 2 has the eigenvalues a."""
    start = quadratic(values)
    product = hessian_product(lambda p: (mx.array(values) * p["x"] ** 2).sum() / 2, start)
    found = largest_eigenvalue(product, start, most=200, tolerance=1e-6)
    assert found.value == pytest.approx(max(values), rel=1e-3)
    assert abs(found.vector["x"][values.index(max(values))].item()) == pytest.approx(1.0, abs=1e-2)


def _numpy_loss(theta: Floats, shapes: dict[str, tuple[int, ...]], pairs: Floats, targets: Floats) -> float:
    """Mean loss of the network for sums, in float64."""
    params, place = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        params[name] = theta[place : place + size].reshape(shape)
        place += size
    x = params["embedding"][pairs.astype(int)].reshape(len(pairs), -1)
    x = np.maximum(x @ params["hidden_w"] + params["hidden_b"], 0)
    logits = x @ params["out_w"] + params["out_b"]
    right = logits[np.arange(len(pairs)), targets.astype(int)]
    return float((np.log(np.exp(logits).sum(axis=1)) - right).mean())


def _dense(params: Params, pairs: Floats, targets: Floats) -> Floats:
    """The Hessian by central second differences of the loss."""
    shapes = {name: value.shape for name, value in params.items()}
    theta = np.concatenate([np.array(value, np.float64).ravel() for value in params.values()])
    n, e = len(theta), 1e-4
    steps = e * np.eye(n)

    def f(offset: Floats) -> float:
        return _numpy_loss(theta + offset, shapes, pairs, targets)

    dense = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            a, b = steps[i], steps[j]
            dense[i, j] = dense[j, i] = (f(a + b) - f(a - b) - f(b - a) + f(-a - b)) / (4 * e * e)
    return dense


@pytest.mark.parametrize("preconditioned", [False, True])
def test_of_a_network_it_is_that_of_the_dense_hessian(preconditioned: bool) -> None:
    params = init_adder(mx.random.key(3), 4, 2, 4)
    pairs = np.stack(np.divmod(np.arange(16), 4), axis=1).astype(np.float64)
    targets = pairs.sum(axis=1) % 4
    dense = _dense(params, pairs, targets)
    scale = None
    if preconditioned:
        scale = {name: mx.abs(value) + 0.5 for name, value in params.items()}
        flat = np.concatenate([np.array(value, np.float64).ravel() for value in scale.values()])
        dense = flat[:, None] * dense * flat
    x, y = mx.array(pairs.astype(np.int32)), mx.array(targets.astype(np.int32))
    product = hessian_product(lambda p: row_losses(adder(p, x), y).mean(), params, scale)
    found = largest_eigenvalue(product, random_direction(params, mx.random.key(0)), most=500, tolerance=1e-7)
    assert found.value == pytest.approx(float(np.linalg.eigvalsh(dense)[-1]), rel=2e-3)
    assert found.residual < 0.05


def test_the_image_network_can_be_differentiated_twice() -> None:
    """Along a direction it is the difference of two gradients."""
    params = init_cnn(mx.random.key(1), (8, 8, 1), (2, 3, 4), 5)
    x, y = mx.random.normal((6, 8, 8, 1), key=mx.random.key(2)), mx.array([0, 1, 2, 3, 4, 5])

    def loss(p: Params) -> mx.array:
        return row_losses(cnn(p, x), y).mean()

    direction, e = unit(random_direction(params, mx.random.key(3))), 1e-3
    exact = hessian_product(loss, params)(direction)
    ahead, behind = (
        mx.grad(loss)({name: value + sign * e * direction[name] for name, value in params.items()}) for sign in (1, -1)
    )
    for name, value in exact.items():
        near = (ahead[name] - behind[name]) / (2 * e)
        assert mx.abs(value - near).max().item() <= 0.02 * max(mx.abs(value).max().item(), 0.05), name


def test_a_better_start_needs_fewer_products() -> None:
    values = mx.array([1.0, 0.9, 0.5])
    start = {"x": mx.ones(3)}
    product = hessian_product(lambda p: (values * p["x"] ** 2).sum() / 2, start)
    cold = largest_eigenvalue(product, start, most=500, tolerance=1e-5)
    warm = largest_eigenvalue(product, cold.vector, most=500, tolerance=1e-5)
    assert warm.products < cold.products
    assert warm.value == pytest.approx(cold.value, rel=1e-3)
