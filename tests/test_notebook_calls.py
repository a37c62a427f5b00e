"""What notebooks and benchmarks call of the package is there and takes the arguments; none is run."""

import ast
import importlib
import inspect

import pytest

from sawyer_utils.plumbing.files import project_root

SOURCES = sorted(
    path for name in ("notebooks", "benchmarks") for path in project_root().glob(f"{name}/**/*.py")
)


def imported(tree: ast.Module) -> dict[str, object]:
    """Name in the notebook -> what it is in the package. What the notebook gives another meaning is left out.

    Raises:
        ImportError: if there is no such thing.
    """
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sawyer_utils"):
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
                found[name.asname or name.name] = getattr(module, name.name)
    own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    return {name: thing for name, thing in found.items() if name not in own}


def meant(node: ast.expr, names: dict[str, object]) -> object | None:
    """The package's thing that an expression names; None if it is not one.

    Raises:
        AttributeError: if a module has no such thing.
    """
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and inspect.ismodule(owner := meant(node.value, names)):
        return getattr(owner, node.attr)
    return None


def problems(source: str) -> list[str]:
    """What a source asks of the package and would not get."""
    tree, found = ast.parse(source), []
    names = imported(tree)
    for node in ast.walk(tree):
        try:
            if isinstance(node, ast.Attribute):
                meant(node, names)
            if not isinstance(node, ast.Call) or not callable(called := meant(node.func, names)):
                continue
            # What is unpacked is not known here: then only the names are looked at.
            known = {k.arg: None for k in node.keywords if k.arg}
            whole = len(known) == len(node.keywords) and not any(
                isinstance(a, ast.Starred) for a in node.args
            )
            bind = inspect.signature(called).bind if whole else inspect.signature(called).bind_partial
            bind(*([None] * len(node.args) if whole else []), **known)
        except (AttributeError, TypeError) as problem:
            found.append(f"line {node.lineno}: {ast.unparse(node)[:80]}: {problem}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_asked_for_that_is_not_there(path):
    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("plots.no_such_figure()", "no_such_figure"),
        ("plots.save()", "missing a required argument"),
        ("plots.save(figure, folder, 'name', colour=1)", "colour"),
        ("plots.save(*some, colour=1)", "colour"),
    ],
)
def test_what_is_not_there_is_found(call, told):
    found = problems(f"from sawyer_utils import plots\n{call}")
    assert any(told in problem for problem in found)
    assert problems("from sawyer_utils import plots\nplots.save(figure, folder, 'name')") == []
