"""One training run of a small network, observed and never touched: losses, gradient norms and curvature into a file.

``metrics.jsonl`` gets a ``train`` event per update and an ``eval`` (with a ``curvature``) event per evaluation;
``state.safetensors`` holds everything that the next update depends on, written with each evaluation, so that a run that
was killed goes on bit for bit. The observer reads the file afterwards (:mod:`mlx_persona.experiments.observe`): it
cannot have changed a number.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from mlx_persona import backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from mlx_persona import ui
from mlx_persona.errors import PersonaError
from mlx_persona.experiments.curvature import dot, hessian_product, largest_eigenvalue, random_direction, unit
from mlx_persona.experiments.networks import Params, row_losses
from mlx_persona.runs import Run, closing, read_info
from mlx_persona.training.optim import learning_rate, make_optimizer

STATE = "state.safetensors"
_SPEAK = 60.0  # seconds between lines of progress, at least
_TOLERANCE = 0.005
_BETA, _EPSILON = 0.999, 1e-8  # those of make_optimizer


@dataclass(frozen=True)
class Plan:
    """How a trial is trained and how often it is looked at. Written into the run; a resumed run must have the same.

    Attributes:
        name: of the run's folder.
        seed: fixes the weights and the order of the rows.
        updates: optimizer updates.
        eval_every: updates between evaluations; one is made before the first update, and one after the last.
        rate: learning rate of Adam (the peak, where there is a schedule).
        schedule: ``constant``, or ``cosine`` (to 1 % of the peak, after warming up for 1/15 of the updates).
        weight_decay: decoupled, as a share of the weight per unit of learning rate.
        curvature_every: evaluations between measurements of the Hessian's largest eigenvalue.
        products: Hessian-vector products for one eigenvalue, at most; the next one begins with the vector found.
        settings: whatever else the task was made from: sizes of the network, the data.
    """

    name: str
    seed: int
    updates: int
    eval_every: int
    rate: float
    schedule: str
    weight_decay: float
    curvature_every: int
    products: int
    settings: dict[str, Any]


class Task(Protocol):
    """What is learned. Pure: the same arguments, the same answer."""

    def init(self, key: mx.array) -> Params:
        """The weights before the first update."""

    def logits(self, params: Params, x: mx.array) -> mx.array:
        """(N, K) for N rows."""

    def batch(self, update: int) -> tuple[mx.array, mx.array]:
        """Rows and targets of an update, 1 and up."""

    def probe(self) -> tuple[mx.array, mx.array]:
        """Fixed training rows and targets whose mean loss the curvature is that of."""

    def measure(self, params: Params) -> dict[str, float]:
        """Figures of an evaluation: ``loss`` (held-out rows), ``noise`` (its standard error) and more."""


@dataclass
class _State:
    """Where a trial is: all of it goes into the state file."""

    update: int
    params: Params
    moments: Any  # the optimizer's state
    plain: Params  # the eigenvector of the Hessian found last; before that a random direction
    adapted: Params  # the same of the preconditioned Hessian
    origin: Params  # the parameters where they were found


def run_trial(plan: Plan, task: Task, root: Path) -> Path:
    """Train, or go on where a run of the same plan was cut off, or do nothing where it is finished.

    Returns:
        The run's folder.

    Raises:
        PersonaError: a run of that name was made from another plan, its state is damaged, or somebody writes to it.
    """
    path = root / plan.name
    wanted = json.loads(json.dumps(asdict(plan)))
    info = read_info(path)
    if info is None:
        run = Run.create(path, wanted, {"plan": wanted})
    elif info.get("plan") != wanted:
        raise PersonaError(f"{path} was made with other settings", f"delete it, or give another --out than {root}")
    elif info.get("status") == "done":
        ui.info(f"{plan.name}: finished earlier, in {path}")
        return path
    else:
        run = Run.reopen(path)
    with closing(run):
        _train(plan, task, run)
        run.update_info(status="done", finished=time.time())
    return path


def _train(plan: Plan, task: Task, run: Run) -> None:
    """From the last state to the end of the plan."""
    optimizer = make_optimizer("adamw", plan.weight_decay)
    state = _restore(plan, task, run)
    # Compiled for the elementwise work; the loss is a mean, so that a smaller last batch weighs as much as any.
    step = mx.compile(mx.value_and_grad(lambda p, x, y: row_losses(task.logits(p, x), y).mean()))
    first, begun, spoke = state.update, time.monotonic(), time.monotonic()
    with ui.progress(plan.name, total=plan.updates, done=state.update) as bar:
        if not state.moments:
            optimizer.init(state.params)
            state.moments = optimizer.state
            _look(plan, task, run, state)
        optimizer.state = state.moments
        while state.update < plan.updates:
            state.update += 1
            optimizer.learning_rate = rate(plan, state.update)
            loss, gradients = step(state.params, *task.batch(state.update))
            norm = mx.sqrt(dot(gradients, gradients))
            state.params = optimizer.apply_gradients(gradients, state.params)
            state.moments = optimizer.state
            mx.eval(state.params, state.moments, loss, norm)
            run.log("train", update=state.update, loss=loss.item(), grad_norm=norm.item())
            bar.advance(1, f"loss {loss.item():.3f}")
            if state.update % plan.eval_every == 0 or state.update == plan.updates:
                _look(plan, task, run, state)
                if time.monotonic() > spoke + _SPEAK:
                    spoke = time.monotonic()
                    left = (spoke - begun) / (state.update - first) * (plan.updates - state.update) / 60
                    ui.info(f"{plan.name}: update {state.update} of {plan.updates}, about {left:.0f} minutes to go")


def rate(plan: Plan, update: int) -> float:
    """The learning rate of an update, 1 and up."""
    if plan.schedule == "constant":
        return plan.rate
    return learning_rate(update, plan.updates, plan.rate, warmup=1 / 15, final=0.01)


def _look(plan: Plan, task: Task, run: Run, state: _State) -> None:
    """An evaluation, every so often the curvature, and the state from which to go on."""
    run.log("eval", update=state.update, **task.measure(state.params))
    if state.update % (plan.eval_every * plan.curvature_every) == 0:
        run.log("curvature", update=state.update, **_curvature(plan, task, state))
    arrays = dict(tree_flatten({name: value for name, value in vars(state).items() if name != "update"}))
    where = {"update": str(state.update), "metrics_bytes": str(run.metrics_size())}
    part = run.path / f".part.{STATE}"
    mx.save_safetensors(str(part), arrays, metadata=where)
    part.replace(run.path / STATE)


def _curvature(plan: Plan, task: Task, state: _State) -> dict[str, Any]:
    """Figures of one measurement; the state keeps the vectors, from which the next one begins.

    ``eigenvalue`` of the Hessian of the probe's mean loss; ``preconditioned`` of the one that Adam sees, with the
    second moments of the last update (null before the first); ``alignment``: the cosine between the way gone since the
    measurement before and the eigenvector found there (source 000, section 2.1), without its sign.
    """
    x, y = task.probe()

    def loss(params: Params) -> mx.array:
        return row_losses(task.logits(params, x), y).mean()

    figures: dict[str, Any] = {"eigenvalue": None, "preconditioned": None, "alignment": None}
    if state.update > 0:
        way = unit({name: value - state.origin[name] for name, value in state.params.items()})
        figures["alignment"] = abs(dot(way, state.plain).item())
        done = state.moments["step"]
        scale = {
            name: mx.rsqrt(mx.sqrt(state.moments[name]["v"] / (1 - _BETA**done)) + _EPSILON) for name in state.params
        }
        adapted = largest_eigenvalue(
            hessian_product(loss, state.params, scale), state.adapted, plan.products, _TOLERANCE
        )
        state.adapted = adapted.vector
        figures |= {"preconditioned": adapted.value, "preconditioned_residual": adapted.residual}
    plain = largest_eigenvalue(hessian_product(loss, state.params), state.plain, plan.products, _TOLERANCE)
    state.plain, state.origin = plain.vector, state.params
    return figures | {"eigenvalue": plain.value, "residual": plain.residual, "products": plain.products}


def _restore(plan: Plan, task: Task, run: Run) -> _State:
    """The state that the run was cut off at, with its metrics cut back to it; or its beginning."""
    path = run.path / STATE
    keys = mx.random.split(mx.random.key(plan.seed), 3)
    params = task.init(keys[0])
    if not path.exists():
        run.cut_metrics(0)
        plain, adapted = (unit(random_direction(params, key)) for key in keys[1:])
        return _State(0, params, {}, plain, adapted, params)
    try:
        loaded: Any = mx.load(str(path), return_metadata=True)
        arrays, where = loaded
        mx.eval(arrays)
        tree = tree_unflatten(list(arrays.items()))
        # In the order in which they were made: sums over them must come out the same to the last bit.
        trees = {part: {name: tree[part][name] for name in params} for part in ("params", "plain", "adapted", "origin")}
        state = _State(int(where["update"]), moments=tree["moments"], **trees)
        run.cut_metrics(int(where["metrics_bytes"]))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise PersonaError(f"{path} is damaged: {error!r}", f"begin again: delete {run.path}") from error
    return state
