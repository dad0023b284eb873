"""A CUDA device that is not there: values in the CPU's memory behind tensors that say that they are on `cuda:0`.

It refuses what a real one refuses: operations on tensors of two devices, `.numpy()`, pointers for the compiled
kernels, generators of another device. It counts what a real one makes the program wait for: copies to the CPU, copies
to the device that are not sent ahead, and operations whose result has a size or a value that the CPU must know.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

import sparsernn
from sparsernn.kernels import triton_language
from sparsernn.nn.drive import loop_choice

LIBRARY_ROOT = Path(sparsernn.__file__).parent
DEVICE, HOST = torch.device("cuda", 0), torch.device("cpu")

ASKS = frozenset(
    [
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "equal",
        "repeat_interleave",
        "bincount",
        "unique_consecutive",
        "_unique2",
        "unique_dim",
        "_linalg_check_errors",
    ]
)
"""Operations that end on the CPU, or whose result is as large as their values say: the queue is waited for."""

DRAWS = frozenset(
    [
        "uniform_",
        "normal_",
        "bernoulli_",
        "random_",
        "exponential_",
        "native_dropout",
        "multinomial",
        "bernoulli",
        "rand",
        "randn",
        "randint",
        "randperm",
        "rand_like",
        "randn_like",
        "randint_like",
        "normal",
    ]
)
INDEXING = frozenset(["index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"])


class Pretended(torch.Tensor):
    """A tensor on the pretended device; `values` is where its numbers really are."""

    values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "Pretended":
        shape = torch.empty_strided(values.size(), values.stride(), dtype=values.dtype, device="meta")
        made = torch.Tensor._make_subclass(
            cls, shape, False, dispatch_device=True, device_for_backend_keys=DEVICE
        )
        made.values = values.detach()
        return made

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def numpy(self, *args: Any, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def data_ptr(self) -> int:
        if place().startswith("kernels/"):
            raise RuntimeError("an address on the device: the compiled kernels read the CPU's memory.")
        return self.values.data_ptr()

    def untyped_storage(self) -> Any:
        return self.values.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied: torch.Tensor = Pretended(self.values.clone())
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]

    def __repr__(self, **options: Any) -> str:
        return f"Pretended({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # also where no mode is on: autograd's own threads
        return THE_DEVICE.run(func, args, kwargs or {})


def is_here(value: Any) -> bool:
    """Whether a value is a tensor of the pretended device."""
    return isinstance(value, Pretended)


def _values(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.values if isinstance(leaf, Pretended) else leaf, tree)


def place() -> str:
    """The innermost function of the library that is at work: "sparsity/projection.py:project"; "" for none.

    Not that which moves things for all others.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(LIBRARY_ROOT) and file.name != "devices.py":
            return f"{file.relative_to(LIBRARY_ROOT).as_posix()}:{frame.f_code.co_name}"
        frame = frame.f_back
    return ""


BETWEEN = ("/torch/_compile", "/torch/_dynamo", "/torch/_ops")
"""Parts of torch that stand between whoever asks for an operation and `Device`."""


def of_autograd() -> bool:
    """Whether it is torch's backward pass itself that asks, which fills in zeros where it thinks the tensors are."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename.replace("\\", "/")
        if file != __file__ and not any(
            part in file for part in ("/torch/_compile", "/torch/_dynamo", "/torch/_ops")
        ):
            return bool(frame.f_code.co_name == "_engine_run_backward")
        frame = frame.f_back
    return False


class Device(TorchDispatchMode):
    """Sends every operation where its tensors say, and counts.

    Attributes:
        fetched: copies to the CPU, by the place in the library that asks for them.
        scattered: calls of cuDNN with weights that torch would copy together first, and warn of, by place.
        waits: everything that the CPU waits for, those copies included, by (operation, place).
        launches: operations that a device would launch, by name: those that make or change a tensor, and Triton's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fetched: Counter[str] = Counter()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.launches: Counter[str] = Counter()
        self.scattered: list[str] = []
        self.generator = torch.Generator().manual_seed(0).get_state()

    def forget(self) -> None:
        """Begin to count anew."""
        self.fetched.clear()
        self.waits.clear()
        self.launches.clear()
        self.scattered.clear()

    def wait(self, name: str) -> None:
        """Count one wait."""
        self.waits[name, place()] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation."""
        name = func.overloadpacket.__name__
        if (
            func.namespace == "prim"
        ):  # torch's own code asks where a tensor is; this build knows no other place
            return HOST
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = [tensor for tensor in given if isinstance(tensor, Pretended)]
        if name in ("_to_copy", "_pin_memory"):
            return self._moved(func, args, kwargs)
        if name == "copy_":
            return self._copied(func, args, kwargs)
        wanted = kwargs.get("device")
        to_device = bool(here) if wanted is None else torch.device(wanted).type == "cuda"
        if not to_device and wanted is not None and (here or not given) and of_autograd():
            to_device = True
        if not to_device and not here:
            return func(*args, **kwargs)
        self._check(name, args, kwargs, [t for t in given if not isinstance(t, Pretended)])
        if name in ASKS or (name in INDEXING and _by_truth(args[1])):
            self.wait(name)
            if name == "_local_scalar_dense":
                self.fetched[place()] += 1
        if not _is_view(func):
            self.launches[name] += 1
        plain = dict(_values(kwargs))
        if wanted is not None:
            plain["device"] = HOST
        plain.pop("pin_memory", None)
        result = self._worked_out(name, func, _values(args), plain)
        if name == "_pack_padded_sequence":  # sizes stay on the CPU
            return Pretended(result[0]), result[1]
        same = {id(tensor.values): tensor for tensor in here}
        return tree_map(lambda out: same.get(id(out), _here(out)), result) if to_device else result

    def _worked_out(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The operation on the values; what is drawn comes from the device's own generator."""
        if name not in DRAWS:
            return func(*args, **kwargs)
        host = torch.get_rng_state()
        torch.set_rng_state(self.generator)
        try:
            return func(*args, **kwargs)
        finally:
            self.generator = torch.get_rng_state()
            torch.set_rng_state(host)

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        source, wanted = args[0], kwargs.get("device")
        target = source.device if wanted is None else torch.device(wanted)
        rest = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
        self.launches["copy"] += 1
        self._crossing(source, target.type == "cuda", rest.get("non_blocking", False))
        result = func(_values(source), *args[1:], **rest)
        return Pretended(result) if target.type == "cuda" else result

    def _copied(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        target, source, *rest = args
        self.launches["copy"] += 1
        self._crossing(source, isinstance(target, Pretended), (*rest, kwargs.get("non_blocking", False))[0])
        func(_values(target), _values(source), *rest, **kwargs)
        return target

    def _crossing(self, source: torch.Tensor, to_device: bool, ahead: bool) -> None:
        if isinstance(source, Pretended) and not to_device:
            self.fetched[place()] += 1
            self.wait("to the CPU")
        elif to_device and not isinstance(source, Pretended) and not ahead:
            self.wait("to the device")

    def _check(self, name: str, args: Any, kwargs: Any, others: list[torch.Tensor]) -> None:
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != "cuda":
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name})")
        strangers = [t for t in others if t.dim() > 0]  # a number may come along
        if name in INDEXING and isinstance(args[0], Pretended):  # indices are brought over, and waited for
            indices = [t for t in tree_leaves(args[1]) if isinstance(t, torch.Tensor)]
            strangers = [t for t in strangers if not any(t is index for index in indices)]
            if any(not isinstance(t, Pretended) for t in indices):
                self.wait("index from the CPU")
        if name == "_pack_padded_sequence":  # lengths stay on the CPU
            strangers = [t for t in strangers if t.dtype != torch.int64]
        if strangers:
            raise RuntimeError(f"Expected all tensors to be on the same device: cuda:0 and cpu ({name})")


THE_DEVICE = Device()


def _is_view(func: Any) -> bool:
    """Whether an operation gives what is there in another shape, or room without numbers."""
    aliases = [value.alias_info for value in func._schema.returns]
    looks = bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)
    return looks or func.overloadpacket.__name__ in EMPTY


EMPTY = (
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "_unsafe_view",
    "_reshape_alias",
)


def _here(out: Any) -> Any:
    return Pretended(out) if isinstance(out, torch.Tensor) and not isinstance(out, Pretended) else out


def _by_truth(indices: Any) -> bool:
    kinds = [i.dtype for i in tree_leaves(indices) if isinstance(i, torch.Tensor)]
    return torch.bool in kinds or torch.uint8 in kinds


class Calls(TorchFunctionMode):
    """Calls that torch would answer inside, where it takes the device's tensors for the CPU's.

    Copies from device to device; `torch.lstm` and `torch.gru` as the device's library has them: one call that takes
    tensors of one device.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.type_as):
            return _sent(func, *args, **kwargs)
        if func is torch.tensor and torch.device(kwargs.get("device") or HOST).type == "cuda":
            return func(*args, **{**kwargs, "device": HOST}).to(DEVICE)
        if func in LIBRARY and any(isinstance(t, Pretended) for t in tree_leaves(args)):
            return _in_one_call(func, args)
        return func(*args, **kwargs)


LIBRARY = (torch.lstm, torch.gru, torch._pad_packed_sequence)


def _in_one_call(func: Any, args: Any) -> Any:
    # sizes of ragged batches are the CPU's
    padding = func is torch._pad_packed_sequence
    ragged = padding or (isinstance(args[1], torch.Tensor) and isinstance(args[3], list | tuple))
    flat, form = tree_flatten(args)
    strangers = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, Pretended)]
    if any(not ragged or t is not args[1] for t in strangers) or (ragged and isinstance(args[1], Pretended)):
        raise RuntimeError("Input, hidden and parameter tensors are not at the same device.")
    goes_back = padding or args[7 if ragged else 6]
    lists = [] if padding else [part for part in args if isinstance(part, list)]
    if any(not _in_one_piece(weights) for weights in lists) and not torch.is_autocast_enabled("cuda"):
        THE_DEVICE.scattered.append(place())
    outputs: tuple[torch.Tensor, ...] = Library.apply(func, form, goes_back, *flat)
    return outputs


def _in_cudnn_order(weights: list[Any]) -> list[Any]:
    return sorted(weights, key=lambda weight: weight.dim() == 1)


def _in_one_piece(weights: list[Any]) -> bool:
    """As torch asks: one storage from its beginning, one after the other, the biases last."""
    ordered, end = _in_cudnn_order([weight.values for weight in weights]), 0
    for weight in ordered:
        if weight.storage_offset() != end or not weight.is_contiguous():
            return False
        end += weight.numel()
    return len({weight.untyped_storage().data_ptr() for weight in ordered}) == 1


def _flatten(weights: list[Any], *sizes: Any) -> torch.Tensor:
    """Lay weights side by side, in the order that torch has for one layer."""
    ordered = _in_cudnn_order(weights)
    flat, first = torch.cat([weight.values.flatten() for weight in ordered]), 0
    for weight in ordered:
        weight.values = flat[first : first + weight.numel()].view(weight.shape)
        first += weight.numel()
    return Pretended(flat)


class Library(torch.autograd.Function):
    """A call of the CPU's kernel on the values, and its gradient, each as one operation."""

    @staticmethod
    def forward(ctx: Any, func: Any, form: Any, goes_back: bool, *flat: Any) -> Any:
        ctx.goes_back = goes_back
        with _disable_current_modes(), torch.enable_grad():
            plain = [
                t.values.detach().requires_grad_(needed) if isinstance(t, Pretended) else t
                for t, needed in zip(flat, ctx.needs_input_grad[3:], strict=True)
            ]
            outputs = func(*tree_unflatten(plain, form))
        ctx.plain, ctx.outputs = plain, outputs
        return tuple(Pretended(out) if out.is_floating_point() else out for out in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if not ctx.goes_back:
            raise RuntimeError("cudnn RNN backward can only be called in training mode")
        with _disable_current_modes():
            wanted = [t for t, needed in zip(ctx.plain, ctx.needs_input_grad[3:], strict=True) if needed]
            pairs = zip(ctx.outputs, gradients, strict=True)
            outputs, given = zip(*((o, g.values) for o, g in pairs if o.is_floating_point()), strict=True)
            found = iter(torch.autograd.grad(outputs, wanted, given, retain_graph=True, allow_unused=True))
        return (
            None,
            None,
            None,
            *(_here(next(found)) if needed else None for needed in ctx.needs_input_grad[3:]),
        )


def _sent(func: Any, source: torch.Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> torch.Tensor:
    device, kind, ahead = None, None, kwargs.get("non_blocking", False)
    like = kwargs.pop("other", args[0] if args else None)
    if func in (torch.Tensor.cpu, torch.Tensor.cuda):
        device = HOST if func is torch.Tensor.cpu else DEVICE
    elif isinstance(like, torch.Tensor):
        device, kind = like.device, like.dtype
    else:
        device, kind, ahead, _ = torch._C._nn._parse_to(*args, **kwargs)
    device = source.device if device is None else DEVICE if device.type == "cuda" else device
    kind = kind or source.dtype
    if device == source.device and kind == source.dtype and not copy:
        return source
    result: torch.Tensor = torch.ops.aten._to_copy.default(
        source, dtype=kind, device=device, non_blocking=ahead
    )
    return result


class Seeded(torch.Generator):
    """A generator of either device, for its states: `Device` lets nothing on the device be drawn by it."""

    def __new__(cls, device: Any = "cpu") -> "Seeded":
        return super().__new__(cls)


@contextmanager
def pretended(triton: bool = False) -> Iterator[Device]:
    """Inside, there is one CUDA device; the counts begin anew; where torch knows too little of it no test.

    Triton's interpreter, which takes its time, runs the kernels of such devices only where it is asked for.
    """
    if not hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
        pytest.skip(f"torch {torch.__version__} cannot be told of a device that is not there")
    torch._C._ensureCUDADeviceGuardSet()
    THE_DEVICE.forget()
    ready, launch = triton_language.ready, triton_language.Kernel.launch

    def launched(kernel: Any, programs: Any, *arguments: Any, **constants: Any) -> None:
        THE_DEVICE.launches[kernel.function.__name__] += 1
        with _disable_current_modes():
            launch(kernel, programs, *_values(arguments), **constants)

    def at_once(work: Any, device: Any) -> float:
        work()
        return 1.0

    least, chosen = loop_choice.least_seconds, dict(loop_choice._chosen)
    loop_choice.least_seconds = at_once  # a draw, so that the first way is taken
    loop_choice._chosen.clear()
    triton_language.Kernel.launch = launched
    triton_language.ready = ready if triton else lambda: False
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    was, generator = {name: getattr(torch.cuda, name) for name in REPLACED}, torch.Generator
    deterministic = torch.are_deterministic_algorithms_enabled()
    for name, instead in REPLACED.items():
        setattr(torch.cuda, name, instead)
    cudnn = {(module, name): getattr(module, name) for module, name in CUDNN}
    for (module, name), instead in CUDNN.items():
        setattr(module, name, instead)
    torch.Generator = Seeded
    grouped = torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype
    torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype = _grouped
    # A parameter stays the object that it is when it moves, as on a real device.
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with THE_DEVICE, Calls():
            yield THE_DEVICE
    finally:
        triton_language.ready, triton_language.Kernel.launch = ready, launch
        loop_choice.least_seconds = least
        loop_choice._chosen.clear()
        loop_choice._chosen.update(chosen)
        torch.Generator = generator
        torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype = grouped
        torch.use_deterministic_algorithms(deterministic)
        torch.__future__.set_swap_module_params_on_conversion(swapping)
        for name, function in was.items():
            setattr(torch.cuda, name, function)
        for (module, name), function in cudnn.items():
            setattr(module, name, function)


def _grouped(lists: list[list[torch.Tensor]], with_indices: bool = False) -> dict[Any, Any]:
    """Tensors by device and kind, as torch puts them together where it knows the device."""
    found: dict[Any, Any] = {}
    for number, tensor in enumerate(lists[0]):
        kept, places = found.setdefault((tensor.device, tensor.dtype), ([[] for _ in lists], []))
        places.append(number)
        for own, given in zip(kept, lists, strict=True):
            own.append(given[number])
    return found


def _seed(seed: int) -> None:
    THE_DEVICE.generator = torch.Generator().manual_seed(seed ^ 0x5EED).get_state()


def _take_generator(state: torch.Tensor, device: Any = None) -> None:
    THE_DEVICE.generator = state.clone()


REPLACED: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: "a pretended device",
    "mem_get_info": lambda device=None: (math.inf, math.inf),
    "synchronize": lambda device=None: THE_DEVICE.wait("synchronize"),
    "get_rng_state": lambda device=None: THE_DEVICE.generator.clone(),
    "set_rng_state": _take_generator,
    "manual_seed_all": _seed,
}

CUDNN: dict[Any, Any] = {
    (torch, "_cudnn_rnn_flatten_weight"): _flatten,
    (torch.backends.cudnn, "is_acceptable"): lambda tensor: True,
}
