"""Peak memory of a run, from a model's shapes: what is held, what the backward pass needs, what a block works with.

Two models that share their formulas and no coefficient: the CPU's (float32, measured: docs/planner.md) and the
GPU's (16-bit activations, quantized and fused kernels; reasoned, not measured on Metal or CUDA).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from mlx_persona.models.attention import BLOCK
from mlx_persona.models.cross_entropy import slab_rows
from mlx_persona.models.load import DENSE_SHARE
from mlx_persona.models.quantized import PART_BYTES
from mlx_persona.models.token_chunks import CHUNK
from mlx_persona.planner.coefficients import Head, Sizes, coefficients
from mlx_persona.planner.shapes import FULL, HALF, Block, Linear, Shapes

DENSE, PACKED = "dense", "packed"
FULL_ROWS = 4  # float32 copies of the largest layer while it is merged and quantized
_PROMPT_TOKENS = 2048  # read at once, as generation/engine.py does


@dataclass(frozen=True)
class Setup:
    """What is trained and how: everything that memory depends on but the batch.

    ``checkpointed`` counts blocks, from the first on; with any, long sequences go through all MLPs in parts.
    ``states`` are the optimizer's arrays per
    trainable parameter (AdamW: 2). ``held`` is how the base is held: dense float32, or packed as it is stored.
    ``below`` is the rank of a frozen adapter below the trained one (0: none). ``anchored``: the loss holds the model
    to its base by a KL term. ``keys``: the layers of a block that are adapted (empty: all).
    """

    rank: int
    dora: bool = True
    num_layers: int = -1
    checkpointed: int = 0
    accumulation: int = 1
    states: float = 2.0
    device: str = "cpu"
    held: str = DENSE
    below: int = 0
    pairs: bool = False
    anchored: bool = False
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Load:
    """A batch: rows, tokens per row (padded), and targets in all of it (padded)."""

    rows: int
    length: int
    targets: int

    @property
    def tokens(self) -> int:
        """Tokens, padding included."""
        return self.rows * self.length


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak of each phase, and what they are made of."""

    step: int
    update: int
    evaluation: int
    parts: dict[str, int]

    @property
    def bytes(self) -> int:
        """The largest."""
        return max(self.step, self.update, self.evaluation)

    @property
    def phase(self) -> str:
        """Where the peak is: ``step``, ``update`` or ``evaluation``; the parts are those of a step."""
        return max(("step", "update", "evaluation"), key=lambda name: int(getattr(self, name)))


def holding(shapes: Shapes, device: str, memory: int) -> str:
    """How a base model is held: as it is stored on a GPU; on the CPU dense float32 where that fits."""
    if device != "cpu":
        return PACKED
    return DENSE if shapes.parameters * FULL <= DENSE_SHARE * memory or not shapes.quantized else PACKED


def resident(shapes: Shapes, setup: Setup) -> int:
    """Bytes of the base model."""
    if setup.held == DENSE:
        return shapes.parameters * FULL
    return shapes.stored(FULL if setup.device == "cpu" else HALF)


def trainable(shapes: Shapes, rank: int, dora: bool, num_layers: int = -1, keys: tuple[str, ...] = ()) -> int:
    """Parameters of an adapter: A and B of each layer, of every expert, and DoRA's magnitudes.

    ``keys`` are the names, within a block, of the layers that it is on; empty: of all.
    """
    layers = [linear for _, linear in shapes.adapted(num_layers, keys)]
    return sum(a.experts * rank * (a.inputs + a.outputs) + (a.outputs if dora else 0) for a in layers)


def _norms(shapes: Shapes, setup: Setup) -> int:
    """Numbers that DoRA keeps beside its parameters: ‖W‖² and ‖W + sBA‖ of every row."""
    return sum(2 * a.outputs for _, a in shapes.adapted(setup.num_layers, setup.keys)) if setup.dora else 0


def states_of(optimizer: str, rank: int) -> float:
    """Arrays of an optimizer's state per trainable parameter; Adafactor keeps a row and a column of a matrix."""
    return {"adamw": 2.0, "lion": 1.0, "adafactor": 1.0 / max(1, rank)}[optimizer]


@cache
def sizes(shapes: Shapes, block: Block, load: Load, setup: Setup) -> Sizes:
    """What the activations of one block are made of while it is worked with, in numbers."""
    return _sizes(shapes, block, load, setup, min(load.length, CHUNK) if _in_parts(setup, load) else load.length)


@cache
def saved_sizes(shapes: Shapes, block: Block, load: Load, setup: Setup) -> Sizes:
    """What a block that is not recomputed keeps: an MLP that takes a sequence in parts keeps its input only."""
    return _sizes(shapes, block, load, setup, 0 if _in_parts(setup, load) else load.length)


def _in_parts(setup: Setup, load: Load) -> bool:
    return setup.checkpointed > 0 and load.length > CHUNK


def _sizes(shapes: Shapes, block: Block, load: Load, setup: Setup, gated: int) -> Sizes:
    """Sizes with ``gated`` tokens of each row in the gated MLP."""
    cpu = setup.device == "cpu"
    packed = setup.held == PACKED and cpu

    def tokens(layer: Linear) -> int:
        return load.rows * (gated if layer.gated and layer.experts == 1 else load.length) * layer.active

    queries = min(load.length, BLOCK) if cpu else load.length  # at a time
    scores = load.rows * shapes.heads * queries * load.length
    closing = [a for a in block.linears if a.closing]
    opening = [a for a in block.linears if not a.closing and a.outputs > 1]
    coded = [a for a in block.linears if a.bits and packed]
    return Sizes(
        stream=load.tokens * shapes.width,
        inside=sum(tokens(a) * a.inputs for a in closing if not a.gated),
        opened=sum(tokens(a) * a.outputs for a in opening if not a.gated),
        gated=sum(tokens(a) * a.inputs for a in closing if a.gated),
        gating=sum(tokens(a) * a.outputs for a in opening if a.gated),
        scores=scores,
        probabilities=0 if cpu and load.length > BLOCK else scores,
        biases=load.length * (load.length + queries) // 2,
        low=(setup.rank + setup.below) * sum(tokens(a) for a in block.linears if a.adapted(setup.keys)),
        weight=max((min(a.weights, PART_BYTES // FULL) for a in coded), default=0),
        pieces=max((tokens(a) * a.inputs for a in coded if a.weights * FULL > PART_BYTES), default=0),
        routed=max((tokens(a) * a.outputs for a in closing if a.experts > 1), default=0),
    )


def logits(shapes: Shapes, load: Load, setup: Setup) -> int:
    """Bytes of one copy of the logits that are there at once: of all targets, for a slab of the vocabulary.

    With an anchor those of the base are there too, and slabs are half as wide.
    """
    cpu = setup.device == "cpu"
    coded = setup.held == PACKED and shapes.quantized
    count = load.targets * (1 + setup.anchored)
    rows = slab_rows(count, shapes.width if coded else 0, cpu)
    return min(shapes.vocabulary, rows) * count * FULL


def _head(shapes: Shapes, load: Load, setup: Setup, head: Head, work: float) -> float:
    """Bytes at the loss, with ``work`` of a block; an anchor has a gradient of its own."""
    gradient = load.targets * shapes.width * FULL * (1 + setup.anchored)
    return head.copies * logits(shapes, load, setup) + head.gradients * gradient + head.work * work


def _step(shapes: Shapes, setup: Setup, load: Load, held: int) -> tuple[int, dict[str, int]]:
    """Peak of a micro-batch, forward and backward, above nothing, and its parts; ``held`` is there all the time."""
    known = coefficients(setup.device)
    kind = known.dora if setup.dora else known.lora
    grads = trainable(shapes, setup.rank, setup.dora, setup.num_layers, setup.keys) * FULL
    first = 0 if setup.num_layers < 0 else len(shapes.blocks) - setup.num_layers
    # The base's hidden states at the targets wait for the loss.
    kept = float(load.targets * shapes.width * FULL * setup.anchored)
    work = again = forward = 0.0
    for number, block in enumerate(shapes.blocks):
        if number < first:
            continue  # nothing below the first adapter has a gradient
        measures = sizes(shapes, block, load, setup)
        forward = max(forward, measures.times(known.forward))
        if number < setup.checkpointed:
            kept += measures.times(known.checkpointed)
            again = max(again, measures.times(kind.recompute))
        else:
            kept += saved_sizes(shapes, block, load, setup).times(kind.saved)
            # A part of an MLP is recomputed, which is nearly what recomputing its block takes.
            work = max(work, measures.times(kind.recompute if _in_parts(setup, load) else kind.working))
    if setup.checkpointed >= len(shapes.blocks):
        head = _head(shapes, load, setup, known.retrained, again)
    else:
        head = _head(shapes, load, setup, known.trained, forward)
    per_block = grads / max(1, len(shapes.blocks) - first)
    waiting = grads if setup.accumulation > 1 else 0
    # Saved activations shrink while gradients grow, so the peak is where the backward pass begins or where it ends.
    begins = kept + max(head, (work or again) + per_block)
    ends = grads + max(again if setup.checkpointed > first else 0.0, work if setup.checkpointed <= first else 0.0)
    most = max(begins, ends)
    parts = {
        "gradients": round(waiting + (grads if ends >= begins else per_block)),
        "activations": round(kept if begins > ends else 0),
    }
    parts["working"] = round(most) - parts["activations"] - parts["gradients"] + round(waiting)
    return held + round(most + waiting), parts


def _block_forward(shapes: Shapes, setup: Setup, load: Load) -> float:
    """What a block takes without gradients; MLPs take a sequence in parts only in training."""
    known, whole = coefficients(setup.device), replace(setup, checkpointed=0)
    return max(sizes(shapes, block, load, whole).times(known.forward) for block in shapes.blocks)


def _forward(shapes: Shapes, setup: Setup, load: Load) -> int:
    """What an evaluation takes beside what is held."""
    work = _block_forward(shapes, setup, load)
    waiting = load.targets * shapes.width * FULL * setup.anchored
    return round(waiting + max(work, _head(shapes, load, setup, coefficients(setup.device).evaluated, work)))


def peak(shapes: Shapes, setup: Setup, train: Load, evaluation: Load) -> Peak:
    """The peak of training, by phase.

    Args:
        shapes: the model.
        setup: what is trained and how.
        train: the largest micro-batch; for DPO chosen and rejected rows together.
        evaluation: the largest evaluation batch.
    """
    own = trainable(shapes, setup.rank, setup.dora, setup.num_layers, setup.keys) * FULL
    below = trainable(shapes, setup.below, setup.dora, keys=setup.keys) * FULL if setup.below else 0
    norms = _norms(shapes, setup) * FULL
    base = resident(shapes, setup)
    held = base + own + below + norms + round(own * setup.states)
    step, parts = _step(shapes, setup, train, held)
    gradients = own * (3 if setup.accumulation > 1 else 2)
    return Peak(
        step=step,
        update=held + gradients,
        evaluation=held + _forward(shapes, setup, evaluation),
        parts={"base": base, "adapter": own + below + norms, "optimizer": round(own * setup.states), **parts},
    )


def generation_peak(shapes: Shapes, setup: Setup, load: Load, per_token: int) -> int:
    """Peak of writing replies: base, adapter, keys and values of every row, and a forward pass of one chunk of prompts.

    Args:
        shapes: the model.
        setup: the adapter that writes (rank 0: none).
        load: rows written at once and their tokens, prompt and reply.
        per_token: bytes of keys and values per token.
    """
    adapter = trainable(shapes, setup.rank, setup.dora) * FULL if setup.rank else 0
    chunk = replace(load, length=max(1, min(load.length, _PROMPT_TOKENS // load.rows)), targets=load.rows)
    # Logits of a prompt's chunk are not asked for; of a step's they are, with a copy to draw from.
    work = max(_block_forward(shapes, setup, chunk), 2 * load.rows * shapes.vocabulary * FULL)
    return resident(shapes, setup) + adapter + 2 * load.tokens * per_token + round(work)


def dense_row(shapes: Shapes) -> int:
    """Bytes of the largest layer in float32, which merging and converting hold a few of."""
    return max(a.weights for block in shapes.blocks for a in (*block.linears, *shapes.outside)) * FULL


def fewest_checkpoints(shapes: Shapes, setup: Setup, train: Load, evaluation: Load, budget: int) -> int | None:
    """The fewest blocks to checkpoint so that the run fits in ``budget`` bytes, or None where not even all suffice."""
    fits = [
        count
        for count in range(len(shapes.blocks) + 1)
        if peak(shapes, replace(setup, checkpointed=count), train, evaluation).bytes <= budget
    ]
    return min(fits, default=None)
