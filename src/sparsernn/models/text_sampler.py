"""Sample text from a language model, one token at a time."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor

from sparsernn.core.checks import checked
from sparsernn.core.devices import device_of
from sparsernn.core.limits import Entries, NonNegative
from sparsernn.models.language_model import LanguageModel
from sparsernn.nn.drive.single_step import no_repacking


@torch.no_grad()
@checked
def sample(
    model: LanguageModel,
    prompt: Annotated[Sequence[int], Entries(1)],
    generator: torch.Generator,
    temperature: NonNegative = 1.0,
    avoid: int | None = None,
) -> Iterator[int]:
    """Token numbers drawn from softmax(logits / temperature), without end.

    Args:
        model: in any mode; dropouts are off while sampling.
        prompt: at least one token number to start from.
        generator: of the draws; the same seed gives the same text.
        temperature: above 0; below 1 is more cautious. 0 takes the most probable token.
        avoid: a token that is never drawn, such as the unknown word.

    Raises:
        InputError: an empty prompt or a negative temperature.
    """
    model.eval()
    device = device_of(model)
    words, state = torch.tensor(prompt, device=device).unsqueeze(1), model.initial_state(1)
    while True:
        with no_repacking():
            features = model(words, state)
            log_prob = model.head.log_prob(features.raw[-1, 0]).cpu()  # the seed's draws are the CPU's
        state = features.state
        number = _draw(log_prob, generator, temperature, avoid)
        yield number
        words = torch.tensor([[number]], device=device)


def _draw(log_prob: Tensor, generator: torch.Generator, temperature: float, avoid: int | None) -> int:
    if avoid is not None:
        log_prob[avoid] = -torch.inf
    if temperature == 0:
        return int(log_prob.argmax())
    return int(torch.multinomial((log_prob / temperature).softmax(0), 1, generator=generator))
