"""Where the outputs of a module go in a model's forward pass: read off its graph (torch.fx), without running it.

Only what is known to leave every feature in its column, and a 0 as a 0, is followed; everything else is named, so
that nobody has to guess.
"""

import copy
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from sparsernn.structure.feature_axis import (
    ALIGNED,
    FEATURES,
    KEEP_ZERO,
    KEEP_ZERO_MODULES,
    PLAIN_FACTS,
    Value,
    attribute_of,
    is_before_last,
    name_of,
    rearranged,
    taken,
)
from sparsernn.structure.mixed_width import UnevenRNN


@dataclass
class Uses:
    """What happens to the features that a module puts out.

    Attributes:
        readers: names of the modules that multiply them by the columns of a weight.
        unclear: in words, whatever else is done with them; where there is any, `readers` may not be all.
        binding: in words, what needs as many of them as there are, so that none can be removed.
        returned: whether they are outputs of the model.
        called: whether the forward pass calls the module at all.
    """

    readers: set[str] = field(default_factory=set)
    unclear: set[str] = field(default_factory=set)
    binding: set[str] = field(default_factory=set)
    returned: bool = False
    called: bool = False

    def __or__(self, other: "Uses") -> "Uses":
        """Both."""
        return Uses(
            self.readers | other.readers,
            self.unclear | other.unclear,
            self.binding | other.binding,
            self.returned or other.returned,
            self.called or other.called,
        )


class Untraceable(Exception):
    """The forward pass has no fixed graph; the message says why."""


PACKING = (nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence)
"""Functions of torch that are a node of the graph each, although they look at numbers."""


class _Tracer(fx.Tracer):
    """Takes modules whose forward pass is torch's own, or this library's, as they are."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=PACKING)
        self._autowrap_search.append(nn.utils.rnn)  # wherever they are called from

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        """Whether the module is one node of the graph."""
        home = type(module).forward.__module__ or ""
        return home.startswith(("torch.nn.", "sparsernn.")) and not isinstance(module, nn.Sequential)


class Graph:
    """The forward pass of a model, as it trains and as it is evaluated.

    Args:
        model: left as it is; a copy is traced.

    Raises:
        Untraceable: where the forward pass depends on numbers, or is not there.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.1), nn.Linear(3, 1))
        >>> Graph(model).uses("0").readers
        {'2'}
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            self.model = copy.deepcopy(model)
            self.passes = [_Tracer().trace(self.model.train(mode)) for mode in (True, False)]
        except Exception as fault:  # whatever somebody's forward pass does with values that are not there
            raise Untraceable(
                (str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip(".")
            ) from fault

    def uses(self, name: str) -> Uses:
        """Where the outputs of the module `name` go."""
        first, second = (_Walk(self.model, graph, name).uses for graph in self.passes)
        return first | second


class _Walk:
    """Follows the outputs of one module through one graph."""

    def __init__(self, model: nn.Module, graph: fx.Graph, name: str) -> None:
        self.uses, self.graph = Uses(), graph
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.module: nn.Module = self.modules[name]
        self.name, self.model = name, model
        self.seen: dict[fx.Node, Value] = {}
        for node in self._calls(self.module):
            self.uses.called = True
            self._check_state(node)
            self._follow(node, Value("pair") if _is_recurrent(self.module) else Value(FEATURES, 3))
        for reader in list(self.uses.readers):
            self._check_reader(self.modules[reader])
        self._check_parameters()

    def _calls(self, module: nn.Module) -> Iterator[fx.Node]:
        return (
            node
            for node in self.graph.nodes
            if node.op == "call_module" and self.modules[node.target] is module
        )

    def _follow(self, node: fx.Node, value: Value) -> None:
        if node in self.seen:
            return
        self.seen[node] = value
        for user in node.users:
            self._use(user, node, value)

    def _use(self, user: fx.Node, node: fx.Node, value: Value) -> None:
        if user.op == "output":
            self.uses.returned |= value.kind not in ("state", "h")
        elif value.kind == FEATURES:
            self._use_features(user, node, value)
        else:
            self._unpack(user, node, value)

    # what modules put out beside features

    def _unpack(self, user: fx.Node, node: fx.Node, value: Value) -> None:
        """A part is taken of a pair (y, state), a state, a tensor of states by layer, or (maximum, index)."""
        at = user.args[1] if user.op == "call_function" and user.target is operator.getitem else None
        if value.kind in ("state", "h") and user.op == "call_module":
            self._hand_on(user, node)
        elif value.kind in ("pair", "maximum", "padded") and at == 0:
            self._follow(user, Value(FEATURES, None if value.kind == "maximum" else 3))
        elif value.kind == "pair" and at == 1:
            self._follow(user, Value("state" if is_lstm(self.module) else "h"))
        elif value.kind == "state" and at in (0, 1):
            self._follow(user, Value("h"))
        elif value.kind == "h" and self._is_last(user, at):
            self._follow(user, Value(FEATURES, 2))
        elif value.kind == "maximum" and attribute_of(user) == "values":
            self._follow(user, Value(FEATURES))
        elif (value.kind, at) not in (("padded", 1), ("maximum", 1)):
            of = " of its final state" if value.kind in ("state", "h") else ""
            self.uses.unclear.add(self._words(user) + of)

    def _is_last(self, user: fx.Node, at: object) -> bool:
        """Whether the last layer's state is taken of those of all layers; in one direction only."""
        if getattr(self.module, "bidirectional", False):
            return False
        layers: int = getattr(self.module, "num_layers", 1)
        squeezed = user.op == "call_method" and user.target == "squeeze" and user.args[1:] == (0,)
        return (isinstance(at, int) and at in (-1, layers - 1)) or (layers == 1 and squeezed)

    def _hand_on(self, user: fx.Node, node: fx.Node) -> None:
        """The final state begins another window of the same module, or it is read by somebody."""
        if self.modules[str(user.target)] is not self.module or user.args[0] is node:
            self.uses.unclear.add(f"{self._words(user)}, which takes its final state")

    # features

    def _use_features(self, user: fx.Node, node: fx.Node, value: Value) -> None:
        if user.op == "call_module":
            self._use_in_module(user, node, value)
        elif attribute_of(user) in ("shape", "size") or (user.op, user.target) == ("call_method", "size"):
            self._use_shape(user, value)
        elif attribute_of(user) in PLAIN_FACTS or (user.op == "call_method" and user.target in PLAIN_FACTS):
            return
        else:
            after = self._moved(user, node, value)
            if after is None:
                self.uses.unclear.add(self._words(user))
            else:
                self._follow(user, after)

    def _use_in_module(self, user: fx.Node, node: fx.Node, value: Value) -> None:
        module = self.modules[str(user.target)]
        first = _is_first(user, node)
        if first and isinstance(module, nn.Linear | nn.RNNBase | UnevenRNN):
            self.uses.readers.add(str(user.target))
        elif first and type(module) in KEEP_ZERO_MODULES:
            self._follow(user, value)
        else:
            self.uses.unclear.add(self._words(user))

    def _moved(self, user: fx.Node, node: fx.Node, value: Value) -> Value | None:
        """The features after a function; None where they are not known to keep their columns."""
        name, rank = name_of(user), value.rank
        if attribute_of(user) == "data":
            return Value(FEATURES)
        if name in ALIGNED:
            return self._combined(user, node, value)
        if not _is_first(user, node):
            return None
        if name in KEEP_ZERO:
            return value
        if name == "pack_padded_sequence":
            return Value(FEATURES)
        if name == "pad_packed_sequence":
            return Value("padded")
        rest, options = list(user.args[1:]), dict(user.kwargs)
        if name == "getitem":
            return taken(rest[0], rank)
        if name in ("view", "reshape"):
            return self._reshaped(rest)
        return rearranged(name, rest, options, rank)

    def _combined(self, user: fx.Node, node: fx.Node, value: Value) -> Value | None:
        """Features and something else, number by number."""
        other = [part for part in user.args if part is not node]
        if user.kwargs:
            return None
        factor = name_of(user) in ("mul", "truediv", "div") and user.args[0] is node
        if not (factor and len(other) == 1 and isinstance(other[0], int | float)):
            self.uses.binding.add(f"{name_of(user)}, which takes them together with something else")
            return Value(FEATURES)
        return value

    def _reshaped(self, shape: Sequence[object]) -> Value | None:
        """`view` and `reshape`: the last size must be that of the features."""
        sizes = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape
        last = sizes[-1] if sizes else None
        if isinstance(last, fx.Node) and self.seen.get(last, Value("")).kind == "width":
            return Value(FEATURES, len(sizes))
        if isinstance(last, int) and last == width_of(self.module) and last > 0:
            self.uses.binding.add(f"a view with the size {last} written into it")
            return Value(FEATURES, len(sizes))
        return None

    def _use_shape(self, user: fx.Node, value: Value) -> None:
        """Sizes of other axes are free; the number of features may only be used to keep it."""
        axis = user.args[1] if user.op == "call_method" and len(user.args) > 1 else None
        if axis is not None:
            self._use_size(user, axis, value.rank)
            return
        for part in user.users:
            if part.op == "call_function" and part.target is operator.getitem:
                self._use_size(part, part.args[1], value.rank)
            else:
                self.uses.binding.add(self._words(part))

    def _use_size(self, node: fx.Node, axis: object, rank: int | None) -> None:
        if axis == slice(None, -1) or (isinstance(axis, int) and is_before_last(axis, rank)):
            return
        self.seen[node] = Value("width")
        for user in node.users:
            kept = user.op == "call_method" and user.target in ("view", "reshape")
            if not (kept and user.args[0] in self.seen):
                self.uses.binding.add(f"{self._words(user)}, which takes their number")

    # what units cannot be taken from although their readers are known

    def _check_state(self, node: fx.Node) -> None:
        """A state that the model makes by itself has a size of its own."""
        state = node.args[1] if len(node.args) > 1 else node.kwargs.get("hx")
        parts = state if isinstance(state, list | tuple) else [state]
        if not all(self._is_given(part) for part in parts):
            self.uses.binding.add("the state that it begins with, which the model makes by itself")

    def _is_given(self, state: object) -> bool:
        """Whether a state is none, an input of the model, or the module's own."""
        while isinstance(state, fx.Node) and state.op == "call_function" and state.target is operator.getitem:
            state = state.args[0]
        if not isinstance(state, fx.Node):
            return state is None
        own = state.op == "call_module" and self.modules[str(state.target)] is self.module
        return own or state.op == "placeholder"

    def _check_reader(self, module: nn.Module) -> None:
        """Whoever reads these features may not read others with the same columns."""
        for call in self._calls(module):
            read = call.args[0] if call.args else None
            if not isinstance(read, fx.Node) or self.seen.get(read, Value("")).kind != FEATURES:
                self.uses.binding.add(f"'{call.target}', which reads something else as well")

    def _check_parameters(self) -> None:
        """Nobody may use the weights that would be cut but the modules that own them."""
        owners = [self.module, *(self.modules[reader] for reader in self.uses.readers)]
        cut = {id(p) for owner in owners for p in owner.parameters()}
        for node in self.graph.nodes:
            if node.op == "get_attr" and node.users and id(_fetched(self.model, str(node.target))) in cut:
                self.uses.binding.add(f"the forward pass, which uses '{node.target}' by itself")

    def _words(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"'{node.target}' ({type(self.modules[str(node.target)]).__name__})"
        return attribute_of(node) or name_of(node) or getattr(node.target, "__name__", str(node.target))


def width_of(module: nn.Module) -> int:
    """How many features a recurrent module, or an embedding, puts out.

    >>> width_of(nn.GRU(3, 4, bidirectional=True)), width_of(nn.Embedding(9, 2))
    (8, 2)
    """
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    ends = ("", "_reverse") if getattr(module, "bidirectional", False) else ("",)
    last = getattr(module, "num_layers", 1) - 1
    weights = (getattr(module, f"weight_hh_l{last}{end}", None) for end in ends)
    return sum(w.shape[1] for w in weights if w is not None)


def reads(module: nn.Module) -> int | None:
    """How many features a module reads through the columns of a weight; None where there is no such weight.

    >>> reads(nn.Linear(3, 4)), reads(nn.LayerNorm(3))
    (3, None)
    """
    if isinstance(module, nn.Linear):
        return module.in_features
    return module.input_size if isinstance(module, nn.RNNBase | UnevenRNN) else None


def _is_recurrent(module: nn.Module) -> bool:
    return isinstance(module, nn.RNNBase | UnevenRNN)


def is_lstm(module: nn.Module) -> bool:
    """Whether the state of a recurrent module is a pair (h, c)."""
    return isinstance(module, nn.LSTM) or getattr(module, "kind", "") == "lstm"


def _is_first(user: fx.Node, node: fx.Node) -> bool:
    """Whether a node is the first argument of another one, and no other argument of it."""
    found: list[fx.Node] = []
    fx.node.map_arg((user.args, user.kwargs), found.append)
    return bool(user.args) and user.args[0] is node and found.count(node) == 1


def _fetched(model: nn.Module, path: str) -> object:
    found: object = model
    for part in path.split("."):
        found = getattr(found, part)
    return found


def said(parts: Iterable[str]) -> str:
    """Words in a row, in a settled order."""
    return ", ".join(sorted(parts))
