"""The largest eigenvalue of a loss's Hessian, by power iteration on Hessian-vector products.

A Hessian-vector product is the derivative of the gradient along a direction (Pearlmutter, 1994): forward mode over
reverse mode, ``mx.jvp`` of ``mx.grad``, in about the time of two gradients and without ever forming the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mlx_persona import backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx

from mlx_persona.experiments.networks import Params

Scalar = Callable[[Params], mx.array]
Product = Callable[[Params], Params]


class Eigen(NamedTuple):
    """An eigenvalue with its unit vector, the products it took, and the relative residual ``|Hv - λv| / |λ|``."""

    value: float
    vector: Params
    products: int
    residual: float


def hessian_product(loss: Scalar, params: Params, scale: Params | None = None) -> Product:
    """``v -> S H S v`` for the Hessian ``H`` of ``loss`` at ``params``.

    Args:
        loss: a scalar function of the parameters.
        params: where the Hessian is taken.
        scale: the diagonal ``S``, as a tree like the parameters; none: the plain Hessian. With
            ``S = (sqrt(v_hat) + eps)^(-1/2)`` it is the preconditioned Hessian that governs Adam (Cohen et al., 2022).
    """
    names = list(params)
    gradient = mx.grad(lambda *values: loss(dict(zip(names, values, strict=True))), argnums=list(range(len(names))))

    def product(vector: Params) -> Params:
        inner = vector if scale is None else {name: scale[name] * vector[name] for name in names}
        _, out = mx.jvp(gradient, [params[name] for name in names], [inner[name] for name in names])
        found = dict(zip(names, out, strict=True))
        return found if scale is None else {name: scale[name] * found[name] for name in names}

    return product


def largest_eigenvalue(product: Product, start: Params, most: int = 100, tolerance: float = 1e-3) -> Eigen:
    """The largest (not the largest in size) eigenvalue of a symmetric operator.

    Power iteration finds the eigenvalue of the largest size. Where that is negative, ``λ``, it is run again on
    ``H - λ``, whose eigenvalues are all at least zero and whose largest belongs to ``H``'s largest.

    Args:
        product: ``v -> H v``.
        start: where to begin: random, or the vector found a little earlier in training.
        most: Hessian-vector products at most, in each of the two passes.
        tolerance: a pass ends when the Rayleigh quotient changed by less than this share.

    Returns:
        The Rayleigh quotient and its vector: never above the largest eigenvalue, and from below close to it where the
        iteration has converged. The residual tells how close.
    """
    first = _power(product, start, 0.0, most, tolerance)
    if first.value >= 0:
        return first
    second = _power(product, start, first.value, most, tolerance)
    return second._replace(products=first.products + second.products)


def _power(product: Product, start: Params, shift: float, most: int, tolerance: float) -> Eigen:
    """Power iteration on ``H - shift``; the value and the residual are those of ``H``."""
    vector = unit(start)
    value, before, residual = 0.0, 0.0, 0.0
    products = 0
    while products < most:
        image = product(vector)
        products += 1
        value = float(dot(vector, image))
        off = {name: image[name] - value * vector[name] for name in vector}
        size = float(mx.sqrt(dot(off, off)))
        residual = size / max(abs(value), 1e-30)
        if products == most or (products > 1 and abs(value - before) <= tolerance * abs(value)):
            break
        before = value
        vector = unit({name: image[name] - shift * vector[name] for name in vector})
    return Eigen(value, vector, products, residual)


def dot(left: Params, right: Params) -> mx.array:
    """The inner product of two trees."""
    return sum(((left[name] * right[name]).sum() for name in left), mx.array(0.0))


def unit(tree: Params) -> Params:
    """The tree divided by its norm, evaluated; one of zeros stays."""
    norm = mx.sqrt(dot(tree, tree))
    made = {name: value / mx.maximum(norm, 1e-30) for name, value in tree.items()}
    mx.eval(made)
    return made


def random_direction(params: Params, key: mx.array) -> Params:
    """A normal random direction in the space of the parameters."""
    keys = mx.random.split(key, len(params))
    return {name: mx.random.normal(value.shape, key=keys[i]) for i, (name, value) in enumerate(params.items())}
