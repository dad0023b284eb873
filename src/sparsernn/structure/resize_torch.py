"""Torch's own modules told of the sizes that their parameters have got."""

from torch import nn

from sparsernn.structure.mixed_width import UnevenRNN


def settle(module: nn.Module) -> None:
    """Let one of torch's own modules know the sizes of its new parameters."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.RNNBase):
        widths = {p.shape[1] for name, p in module.named_parameters() if name.startswith("weight_hh")}
        if len(widths) > 1:
            loosen(module)
        else:
            _resize(module, widths.pop())


def _resize(module: nn.RNNBase, width: int) -> None:
    module.input_size = module.get_parameter("weight_ih_l0").shape[1]
    if not module.proj_size:
        module.hidden_size = width
    module.flatten_parameters()


def loosen(module: nn.RNNBase) -> None:
    """Turn a torch module whose weights are no longer equally wide into an `UnevenRNN`, in place.

    The object, its parameters, its hooks and whatever else was set on it stay; its class changes, as that of torch's
    own lazy modules does. So nobody who holds it has to be told.

    Example:
        >>> import torch
        >>> module = nn.LSTM(3, 5)
        >>> module.weight_hh_l0 = nn.Parameter(torch.zeros(16, 4))
        >>> module.weight_ih_l0 = nn.Parameter(torch.zeros(16, 3))
        >>> loosen(module)
        >>> module
        UnevenRNN('lstm', 3, [4])
    """
    own = vars(module)
    kind = own["mode"].lower()
    for name in [*_TORCHS_OWN, *(name for name in own if name.startswith(("_flat_weight", "_all_weights")))]:
        own.pop(name, None)
    module.__class__ = UnevenRNN  # type: ignore[assignment]
    own["kind"] = kind


_TORCHS_OWN = ("mode", "input_size", "hidden_size", "proj_size", "nonlinearity")
"""Attributes of torch's modules that are not true, or not needed, where widths differ."""
