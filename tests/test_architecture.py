"""The shape of the code: who may import whom, how long things are, and that public names say what they do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsernn

ROOT = Path(sparsernn.__file__).parent
SOURCES = sorted(path for path in ROOT.rglob("*.py"))

# room -> the other rooms that it may import, at any place in its code, TYPE_CHECKING included
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"core", "deploy", "nn", "optim", "report", "runs", "sparsity", "structure"},
    "__main__": {"cli"},
    "core": set(),
    "structure": {"core"},
    "contracts": {"core", "data", "structure"},
    "kernels": {"core"},
    "optim": {"contracts", "core", "kernels"},
    "numbering": {"core"},
    "data": {"core", "numbering"},
    "nn": {"core", "kernels", "structure"},
    "models": {"contracts", "core", "nn", "structure"},
    "tasks": {"contracts", "core", "data", "models", "nn"},
    "sparsity": {"core", "kernels", "optim", "structure"},
    "gradients": {"contracts", "core", "nn", "optim"},
    "deploy": {"contracts", "core", "kernels", "models", "nn", "sparsity", "structure"},
    "runs": {
        "contracts",
        "core",
        "data",
        "deploy",
        "gradients",
        "kernels",
        "models",
        "optim",
        "sparsity",
        "structure",
        "tasks",
    },
    "report": {"core", "runs"},
    "experiments": {"contracts", "core", "report", "runs", "sparsity"},
    "catalogue": {"core", "data", "gradients", "models", "nn", "optim", "sparsity", "tasks"},
    "cli": {"catalogue", "core", "data", "experiments", "kernels", "report", "runs", "sparsity", "tasks"},
}
TOP_LEVEL = set(MAY_IMPORT)

# Longer than the house rule, each for the reason given.
LONGEST_FILE = 400
LONG_FILES: dict[str, int] = {}
LONGEST_FUNCTION = 60
LONG_FUNCTIONS: dict[str, int] = {}

# Where Any stands besides the values of JSON, how often, and why no type can say it.
UNTYPED: dict[str, tuple[int, str]] = {
    "cli/app.py": (2, "the context is click's, or that of a copy of click inside typer, by its version"),
    "contracts.py": (1, "what a forward pass gives is each model's own"),
    "core/autograd_context.py": (1, "attributes under names that each autograd function chooses"),
    "core/forms.py": (1, "reads annotations, of which Any is one"),
    "core/onednn.py": (1, "torch makes this switch when it is imported"),
    "core/plain.py": (2, "Json itself, and Part"),
    "core/precision.py": (2, "states in any form, whose tensors alone change"),
    "deploy/calibration.py": (2, "words and vectors of a caller, checked there"),
    "deploy/compiled_runtime.py": (3, "states of a caller, checked there; an array of C"),
    "deploy/graph_export.py": (1, "a model of words or one of vectors; only its `reads` says which"),
    "deploy/graphs/onnx_graph.py": (2, "onnx's own messages, where it is installed"),
    "deploy/graphs/whole_sequence.py": (2, "states in each model's own form"),
    "deploy/onnx_runner.py": (3, "imports nothing of this library, to be copied"),
    "deploy/onnx_stream.py": (2, "sessions and arrays of onnxruntime, where it is installed"),
    "deploy/onnx_tasks.py": (4, "imports nothing of this library but its neighbour, to be copied"),
    "deploy/plain_c/const_tables.py": (1, "arrays of each type that C knows"),
    "deploy/plain_c/layer_parts.py": (1, "each part takes its own layer"),
    "deploy/plain_c/step_program.py": (3, "a model of words or one of vectors; only its `reads` says which"),
    "deploy/vector_stream.py": (1, "states in each model's own form"),
    "deploy/token_stream.py": (1, "models and states of others, in the form of their own forward pass"),
    "kernels/blocks_triton.py": (1, "triton's language, where it is installed"),
    "kernels/forget_triton.py": (1, "triton's language, where it is installed"),
    "kernels/recurrence_triton.py": (1, "the same"),
    "kernels/triton_language.py": (4, "triton's own kernels, where it is installed"),
    "kernels/ordered_triton.py": (1, "triton's language, where it is installed"),
    "kernels/window_triton.py": (1, "triton's language, where it is installed"),
    "nn/blocks/block_mixture.py": (1, "tied to a table in blocks, where its base is tied to one weight"),
    "nn/drive/held_places.py": (1, "an attribute of a module: a weight, a buffer or another module"),
    "nn/words/mixture.py": (1, "tied to one weight, or to a table in blocks"),
    "sparsity/attachment.py": (4, "torch's hooks hand on whatever a step was called with"),
    "sparsity/trained/weight_inputs.py": (10, "arguments of torch's own functions, whichever was called"),
    "structure/mixed_width.py": (1, "a state as torch's modules take it, checked here"),
    "structure/observation.py": (8, "inputs, outputs and states of others' modules, in any form"),
    "tasks/task.py": (9, "each task has its own model and batches"),
}


def part_of(path: Path) -> str:
    """The top-level part that a source file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(tree: ast.AST) -> set[str]:
    """The parts of this package that a file imports."""
    inside = (name.split(".") for name in imported_modules(tree) if name.split(".")[0] == "sparsernn")
    return {words[1] if len(words) > 1 and words[1] in TOP_LEVEL else "__init__" for words in inside} - {""}


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """A source file's place in the package."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_one_way(path):
    part = part_of(path)
    assert part in MAY_IMPORT, f"say in MAY_IMPORT what the new part '{part}' may import"
    # `from sparsernn.x import y` names the package first, and whoever asks for the version names it too
    imported = parts_imported(parsed(path)) - {part, "__init__"}
    assert imported <= MAY_IMPORT[part], f"{part} may not import {sorted(imported - MAY_IMPORT[part])}"


def module_of(path: Path) -> str:
    """The name by which a source file is imported."""
    return ".".join(("sparsernn", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imported_files(tree: ast.AST, known: set[str]) -> set[str]:
    """The modules of this package that a file needs; a package named for one of its modules counts as that module."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in known else str(node.module) for name in names}
    return found & known


def circle(needs: dict[str, set[str]]) -> list[str]:
    """What is left when files that need nothing that is left are taken away, again and again: [] without a circle.

    >>> circle({"a": {"b"}, "b": set()}), circle({"a": {"b"}, "b": {"a"}, "c": {"a"}})
    ([], ['a', 'b', 'c'])
    """
    left = dict(needs)
    while free := {name for name, wanted in left.items() if not wanted & left.keys()}:
        left = {name: wanted for name, wanted in left.items() if name not in free}
    return sorted(left)


def test_imports_have_no_circle():
    """Not under TYPE_CHECKING or inside a function either."""
    known = {module_of(path) for path in SOURCES}
    needs = {module_of(path): imported_files(parsed(path), known) - {module_of(path)} for path in SOURCES}
    assert circle({"a": {"b"}, "b": {"a"}}) == ["a", "b"]
    assert sum(map(len, needs.values())) > 500, "imports are seen"
    assert not circle(needs)


def test_no_file_name_twice():
    """A name says where something lives; only a command of the command line is called like what it works on."""
    names = [path.name for path in SOURCES if path.name != "__init__.py" and part_of(path) != "cli"]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_json_has_no_types(path):
    """Whatever a file holds is `core.plain.Json`, or has a type that mypy can check, or stands in `UNTYPED`."""
    found = sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(parsed(path)))
    allowed, _ = UNTYPED.get(name_of(path), (0, ""))
    assert found == allowed, f"Any stands here {found} times; {allowed} are known, see UNTYPED"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_templates_stay_in_the_report(path):
    heads = {name.split(".")[0] for name in imported_modules(parsed(path))}
    assert part_of(path) == "report" or not heads & {"matplotlib", "jinja2", "markupsafe"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONG_FILES.get(name_of(path), LONGEST_FILE)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{name_of(path)}:{node.name}"
            assert body_lines(node) <= LONG_FUNCTIONS.get(name, LONGEST_FUNCTION), name


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    documentation = ast.get_docstring(node, clean=False)
    return (node.end_lineno or 0) - node.lineno + 1 - (documentation.count("\n") + 1 if documentation else 0)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_public_names_are_documented(path):
    tree = parsed(path)
    empty = not tree.body
    assert empty or ast.get_docstring(tree), "the file says what it is about"
    assert not list(undocumented(tree))


def undocumented(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Public classes, functions and methods without a docstring."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        public = not node.name.startswith("_")
        if public and not ast.get_docstring(node) and not overloads(node):
            yield f"{node.name} (line {node.lineno})"
        if public and isinstance(node, ast.ClassDef):
            yield from undocumented(node)


def overloads(node: ast.AST) -> bool:
    """Whether a definition only declares types."""
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in getattr(node, "decorator_list", []))


def test_every_lazy_export_exists():
    for name in sparsernn.__all__:
        assert getattr(sparsernn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sparsernn.nothing


@pytest.mark.parametrize(
    "statement",
    [
        "import sparsernn",
        "import sparsernn.runs.recipe",
        "import sparsernn.cli.app",
        "from sparsernn.cli.app import app; app(['--help'], standalone_mode=False)",
    ],
)
def test_what_must_answer_at_once_does_not_import_torch(statement):
    code = f"import sys\n{statement}\nsys.exit(bool({{'torch', 'numpy', 'jinja2'}} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(ROOT.parent), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)
