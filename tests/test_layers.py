"""The rules of the house, read from the source: who may import whom, how long, and that everything is described."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Lowest first; within a layer modules may import one another.
LAYERS = (
    (
        *(
            "errors",
            "cache",
            "blas",
            "heap",
            "files",
            "pages",
            "schema",
            "settings",
            "config",
            "ui",
            "runs",
            "model_names",
        ),
        *("awake", "backend"),
    ),
    ("tokens", "models"),
    ("generation", "training", "phase"),
    ("evals", "planner"),
    ("stages",),
    ("benchmarks", "selftest"),
    ("report",),
    ("web",),
    ("experiments",),
    ("cleaning", "demo", "cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for package in ("mlx_persona", "data_prep") for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """``mlx_persona.tokens.render`` for its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """``(line, module)`` of everything that a module imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if whole in NAMES else str(node.module)


def layer(module: str) -> str:
    """The room of a module of mlx_persona: ``tokens`` for ``mlx_persona.tokens.render``."""
    return module.split(".")[1]


def ids(path: Path) -> str:
    return name_of(path)


def test_every_module_has_its_place() -> None:
    rooms = {layer(name) for name in NAMES if name.startswith("mlx_persona.")}
    assert rooms <= RANK.keys()


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_go_one_way(path: Path) -> None:
    name = name_of(path)
    for line, module in imports(path):
        top = module.split(".")[0]
        where = f"{path.relative_to(ROOT)}:{line} imports {module}"
        if top == "mlx_persona" and module != "mlx_persona":
            if name.startswith("data_prep"):
                assert RANK[layer(module)] == 0, where
                assert layer(module) not in ("backend", "ui", "runs", "model_names"), where
            elif name != "mlx_persona":
                assert RANK[layer(module)] <= RANK[layer(name)], where
        if top == "data_prep" and not name.startswith("data_prep"):
            assert layer(name) in ("cleaning", "cli", "demo"), where
        if top == "rich":
            assert name == "mlx_persona.ui", where
        if top in ("mlx", "mlx_lm"):
            low = set(LAYERS[0]) - {"backend"}
            assert name.startswith("mlx_persona."), where
            assert layer(name) not in low, where


def test_modules_do_not_import_in_a_circle() -> None:
    """Within a layer too: a module can be read from its imports down."""
    needs = {name_of(p): {m for _, m in imports(p) if m in NAMES} for p in MODULES}
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(needs[name]):
            visit(other)
        done.add(path.pop())

    for name in sorted(needs):
        visit(name)


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_modules_and_functions_stay_short_and_described(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no docstring"
    assert text.count("\n") < 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 < 60, f"{path.name}:{node.lineno} {node.name}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import mlx_persona", ("mlx", "rich", "click", "yaml")),
        ("import data_prep.pipeline", ("mlx", "mlx_lm", "transformers", "rich")),
        ("from mlx_persona import PersonaError, CleanConfig, clean", ("mlx", "mlx_lm", "transformers")),
        ("import mlx_persona.web.compare", ("mlx_lm", "transformers", "starlette", "uvicorn")),
        ("from mlx_persona.cli import main; main(['clean', '--help'], standalone_mode=False)", ("mlx", "mlx_lm")),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_asked_for(statement: str, absent: tuple[str, ...]) -> None:
    script = f"import sys; {statement}; sys.exit(str([m for m in {absent!r} if m in sys.modules]).strip('[]'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.strip() == ""


def test_the_top_level_names_are_there() -> None:
    import mlx_persona

    for name in mlx_persona.__all__:
        assert getattr(mlx_persona, name) is not None
    assert set(mlx_persona.__all__) == set(dir(mlx_persona))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mlx_persona.nothing
