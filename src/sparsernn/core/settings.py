"""Plain YAML as this project reads and writes it, and what can be done to a tree of settings.

The dialect is YAML 1.2's: `1e-6` is a number (YAML 1.1 reads a word), `no` and `on` are words (1.1 reads
truth values), `010` is ten. A key that stands twice in one mapping is an error, not a silent last-one-wins.
The bare word `drop` as a value takes an inherited key away ("drop" in quotes is the word itself).

Nothing here knows what the settings mean, and nothing here imports torch.
"""

import copy
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import PurePath
from typing import cast

import yaml

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json, Plain

Tree = Plain

MOST_CHARACTERS, MOST_NODES, DEEPEST, MOST_DIGITS = 100_000, 100_000, 40, 100
"""Of a document: the longest recipe that comes with the package has 60 lines and 4 levels."""


class _Drop:
    """The value of a key that shall not be inherited."""

    def __repr__(self) -> str:
        return "drop"

    def __deepcopy__(self, memo: object) -> "_Drop":
        return self


DROP = _Drop()


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Json]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice (line {line})")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless  # items of a list are indented, which reads better inside a mapping
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


_CORE = "tag:yaml.org,2002:"
# The core schema of YAML 1.2, section 10.3.2, and the word that drops a key.
_SCALARS = (
    ("!drop", r"drop", "d"),
    (f"{_CORE}null", r"~|null|Null|NULL|", "~nN\0"),
    (f"{_CORE}bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (f"{_CORE}int", r"[-+]?[0-9]+", "-+0123456789"),
    (f"{_CORE}float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    (f"{_CORE}float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)
for _dialect in (_Loader, _Dumper):
    _dialect.yaml_implicit_resolvers = {}  # in place of YAML 1.1's
    for _type, _pattern, _first in _SCALARS:
        _firsts = ["" if c == "\0" else c for c in _first]
        _dialect.add_implicit_resolver(_type, re.compile(f"^({_pattern})$"), _firsts)


def _construct_int(loader: _Loader, node: yaml.Node) -> int:
    digits = loader.construct_scalar(cast(yaml.ScalarNode, node))
    if len(digits) > MOST_DIGITS:
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"a whole number has {len(digits):,} digits, and more than {MOST_DIGITS} are none of ours",
        )
    return int(digits)


_Loader.add_constructor(f"{_CORE}int", _construct_int)
_Loader.add_constructor("!drop", lambda loader, node: DROP)


def _represent_float(dumper: _Dumper, number: float) -> yaml.ScalarNode:
    """`repr`, in a spelling that readers of YAML 1.1 take for a number too: 1.0e-06 where Python says 1e-06."""
    digits = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(number), repr(number))
    if "e" in digits and "." not in digits:
        digits = digits.replace("e", ".0e")
    return dumper.represent_scalar(f"{_CORE}float", digits)


_Dumper.add_representer(float, _represent_float)


def parse(text: str, origin: str) -> Json:
    """The value that one YAML document describes.

    Args:
        text: the document.
        origin: what to call it in an error message (a file's name, an override).

    Raises:
        InputError: `text` is not YAML.

    Example:
        >>> parse("{lr: 1e-3, tied: no, sizes: [010, 2]}", "example")
        {'lr': 0.001, 'tied': 'no', 'sizes': [10, 2]}
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{origin} has {len(text):,} characters; settings have at most {MOST_CHARACTERS:,}.")
    try:
        return _loaded(text)
    except RecursionError:
        raise InputError(f"{origin} is nested too deeply; {DEEPEST} levels are the most.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise InputError(f"{origin} is not valid YAML: {problem}{place}.") from None


def _loaded(text: str) -> Json:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that is too deep, that contains itself, or that aliases blow up: each use of one counts."""
    count, waiting = 0, [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if depth > DEEPEST:  # what contains itself has no end
            raise _refused(f"it is nested more than {DEEPEST} levels deep, or contains itself", node)
        if count > MOST_NODES:
            raise _refused(f"it has more than {MOST_NODES:,} entries, each use of an alias counted", node)
        inside = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for item in inside for part in (item if isinstance(item, tuple) else (item,)))
        waiting += [(part, depth + 1) for part in parts]


def _refused(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def dump(tree: Mapping[str, Json]) -> str:
    """The tree as a YAML document that `parse` reads back unchanged.

    Lists and mappings without further nesting stand on one line where they fit.

    Example:
        >>> print(dump({"epochs": 6, "model": {"name": "lm", "hidden_sizes": [200, 200]}}), end="")
        epochs: 6
        model:
          name: lm
          hidden_sizes: [200, 200]
    """
    return yaml.dump(
        dict(tree), Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100
    )


def merge(base: object, over: Mapping[str, Json]) -> Tree:
    """What `over` makes of `base`: mappings are merged key by key, anything else replaces, `drop` removes.

    Neither argument is changed; a `base` that is no mapping counts as an empty one.

    Example:
        >>> merge({"a": {"x": 1, "y": [1, 2]}, "b": 3}, {"a": {"y": [9], "x": DROP}})
        {'a': {'y': [9]}, 'b': 3}
    """
    merged: Tree = copy.deepcopy(dict(base)) if isinstance(base, Mapping) else {}
    for key, value in over.items():
        if value is DROP:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = merge(merged.get(key), value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def override(tree: Mapping[str, Json], assignments: Sequence[str]) -> Tree:
    """A copy of the tree with `a.b.c=value` carried out in the order given; values are YAML.

    A value that is a component of another kind (a mapping whose `name` is not the one that stands there) takes the
    place of the old component with all its settings; one of the same kind, or without a name, is merged into it.

    Raises:
        InputError: an assignment without `=` or with an empty key, a value that is not YAML, or a path that
            leads through something that has no keys.

    Example:
        >>> override({"optimizer": {"name": "sgd", "lr": 20}}, ["optimizer.lr=1e1", "optimizer.nonmono=5"])
        {'optimizer': {'name': 'sgd', 'lr': 10.0, 'nonmono': 5}}
        >>> override({"corpus": {"name": "embedded", "variant": "topics"}}, ["corpus={name: file, path: x}"])
        {'corpus': {'name': 'file', 'path': 'x'}}
    """
    result: Tree = copy.deepcopy(dict(tree))
    for assignment in assignments:
        path, value = split_assignment(assignment)
        change = _nested(result, path, value, assignment)
        renamed = path[-1] == "name"  # `sparsity.name=set` keeps the other settings of the component
        result = merge(result if renamed else _without_other_kinds(result, change), change)
    return result


def _without_other_kinds(tree: Json, change: object) -> Json:
    """The tree without the settings of every component that the change gives in another kind."""
    if not isinstance(tree, Mapping) or not isinstance(change, Mapping):
        return tree
    if "name" in tree and change.get("name", tree["name"]) != tree["name"]:
        return {}
    return {key: _without_other_kinds(value, change.get(key)) for key, value in tree.items()}


def assignments(settings: Mapping[str, Json]) -> list[str]:
    """Settings by dotted path as the assignments that `override` carries out.

    Numbers and arrays of numpy and torch are those of Python, paths are words. What else is no plain data is refused.

    >>> assignments({"optimizer.lr": 1e-3, "model": {"hidden_sizes": [8, 8]}, "clip": None})
    ['optimizer.lr=0.001', 'model={hidden_sizes: [8, 8]}', 'clip=null']
    """
    return [f"{path}={_flow(path, value)}" for path, value in settings.items()]


def _flow(path: str, value: object) -> str:
    try:
        text = yaml.dump(
            _plain(value),
            Dumper=_Dumper,
            default_flow_style=True,
            allow_unicode=True,
            width=math.inf,
            sort_keys=False,
        )
    except yaml.YAMLError:
        raise InputError(
            f"{path} is {str(value)[:60]}, which no recipe can hold; give numbers, words, lists and mappings."
        ) from None
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: object) -> object:
    """Numbers, arrays and tensors of numpy and torch as Python's own; paths as words, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(part) for part in value]
    if isinstance(value, PurePath):
        return str(value)
    found = getattr(value, "tolist", None)
    return found() if callable(found) else value


def split_assignment(assignment: str) -> tuple[list[str], Json]:
    """The path and the value of `a.b=value`.

    Raises:
        InputError: there is no `=`, a part of the path is empty, or the value is not YAML.

    Example:
        >>> split_assignment("model.hidden_sizes=[100, 100]")
        (['model', 'hidden_sizes'], [100, 100])
    """
    path, equals, text = assignment.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise InputError(f"'{assignment}' is not a setting; write key=value, for example optimizer.lr=20.")
    return keys, parse(text, f"the value of '{assignment}'")


def _nested(tree: Mapping[str, Json], path: list[str], value: object, assignment: str) -> Tree:
    """`value` under the keys of `path`, where the keys on the way are mappings (or bare component names)."""
    here: Json = tree
    result: Json = value
    for depth, key in enumerate(path[:-1]):
        here = here.get(key, {})
        if not isinstance(here, Mapping):
            place = ".".join(path[: depth + 1])
            raise InputError(
                f"'{assignment}' cannot be set: {place} is {here!r}, which has no settings inside; "
                f"give it a value as a whole ({place}=...)."
            )
    for key in reversed(path):
        result = {key: result}
    return dict(result)
