"""Pictures read pixel by pixel: which digit was it?"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.contracts import Tick
from sparsernn.core.checks import checked
from sparsernn.core.devices import device_of, moved
from sparsernn.core.forms import check_known
from sparsernn.core.limits import Kind, Size, Spec
from sparsernn.core.plain import Json
from sparsernn.core.registry import make
from sparsernn.core.streams import stream
from sparsernn.data import stand_ins
from sparsernn.data.digit_images import CLASSES, IMAGES, Images, pixel_order
from sparsernn.data.vocabulary import Vocabulary
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.tasks.batch_parts import check_shares
from sparsernn.tasks.generated_task import Sequences, manifold_error, sequences_of
from sparsernn.tasks.gradient_record import LOOKED_AT, lag_record
from sparsernn.tasks.segments import dropouts_off
from sparsernn.tasks.task import Task


class Pixels(Task):
    """Classify a picture after its last pixel; each pixel, in [0, 1], is a step of one input.

    The best checkpoint is the one with the highest validation accuracy.

    Args:
        images: spec of the pictures: "digits" (8x8, 64 steps), "mnist" (28x28, 784 steps) or "mnist-10k" (the
            official test images split in three), with `path` as a setting; or the pictures themselves.
        permuted: read the pixels in the published random order, the same for all pictures.
        batch_size: pictures per step, at least 1; what is left at an epoch's end is a smaller batch.
        eval_batch_size: pictures evaluated at once.
        shuffle: a new order in every epoch; false: always the same.
        data_dir: where the files lie.

    Raises:
        InputError: data that cannot be had, or a number out of range.

    Source: Q. V. Le, N. Jaitly, G. E. Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified Linear
    Units", 2015, arXiv:1504.00941; the permutation of G. Kerg et al., 2019, arXiv:1905.12080.
    Differs from the original: training pictures are shuffled unless asked otherwise; validation and test losses are
    those of all pictures.
    """

    metric, counts = "accuracy", "images"
    eval_batch_size: int

    @checked
    def __init__(
        self,
        *,
        images: Annotated[Spec, Kind("images")] | Images = "digits",
        permuted: bool = False,
        batch_size: Size = 100,
        eval_batch_size: Size = 250,
        shuffle: bool = True,
        data_dir: Path | None = None,
    ) -> None:
        self.images: Images = (
            images if isinstance(images, Images) else make("images", IMAGES, images, data_dir=data_dir)
        )
        steps = self.images.pixels["train"].shape[1]
        self.order = pixel_order(steps) if permuted else torch.arange(steps)
        self.batch_size, self.eval_batch_size, self.shuffle = batch_size, eval_batch_size, shuffle
        self.info = {**self.images.info, "permuted": permuted}
        self.sizes = {"input_size": 1, "output_size": CLASSES}
        self.examples = {split: len(labels) for split, labels in self.images.labels.items()}

    @classmethod
    def stand_in(cls, info: Mapping[str, Json], vocabularies: Mapping[str, Vocabulary]) -> dict[str, Json]:
        """Random pictures."""
        return {"images": stand_ins.pictures(info)}

    def steps_per_epoch(self, seed: int = 0) -> int:
        """Batches of all training pictures."""
        return -(-self.examples["train"] // self.batch_size)

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Sequences]:
        """The batches of an epoch from number `start` on."""
        count = self.examples["train"]
        order = torch.arange(count)
        if self.shuffle:
            order = torch.randperm(count, generator=stream("pixels", seed, epoch))
        for chosen in torch.split(order, self.batch_size)[start:]:
            yield self._read("train", chosen)

    def check_parts(self, parts: int) -> None:
        """See `Task`: the pictures are divided, those of the last and smaller batch, too."""
        check_shares(self.batch_size, self.examples["train"], parts)

    def part(self, batch: Sequences, number: int, parts: int) -> Sequences:
        """See `Task`."""
        return sequences_of(batch, number, parts)

    def _read(self, split: str, chosen: Tensor) -> Sequences:
        """Pictures by number: (P, B, 1) and their classes (B,)."""
        pixels = self.images.pixels[split][chosen][:, self.order].t().unsqueeze(-1)
        return Sequences(pixels.float() / self.images.brightest, self.images.labels[split][chosen])

    def output(self, model: SequenceModel, inputs: Tensor) -> Tensor:
        """Logits after the last pixel, (B, 10)."""
        logits: Tensor = model.read_out(model(inputs).raw[-1])
        return logits

    def loss(self, model: SequenceModel, batch: Sequences, state: object) -> tuple[Tensor, Tensor, None]:
        """Cross entropy; every picture begins from the initial state."""
        nats = functional.cross_entropy(self.output(model, batch.inputs), batch.targets)
        return nats.detach(), nats, None

    @torch.no_grad()
    def evaluate(
        self,
        model: SequenceModel,
        split: str,
        batch_size: int | None = None,
        tick: Tick = lambda fraction: None,
    ) -> dict[str, float]:
        """Scores of all pictures of a split, dropouts off.

        Returns:
            `loss` in nats, `accuracy`, and `manifold_error`, the worst of the model's recurrent maps, where it has
            such.
        """
        check_known("the split", split, self.examples)
        nats, right, count = 0.0, 0.0, self.examples[split]
        with dropouts_off(model):
            for chosen in torch.split(torch.arange(count), batch_size or self.eval_batch_size):
                inputs, labels, _ = moved(self._read(split, chosen), device_of(model))
                logits = self.output(model, inputs)
                nats += functional.cross_entropy(logits, labels, reduction="sum").item()
                right += (logits.argmax(-1) == labels).sum().item()
                tick((int(chosen[-1]) + 1) / count)
        return {"loss": nats / count, "accuracy": right / count, **manifold_error(model)}

    def look(self, model: SequenceModel, closely: bool = False) -> list[dict[str, Json]]:
        """Also the gradient of the loss against the time lag, of some validation pictures."""
        found = super().look(model, closely)
        if closely and hasattr(model, "layers"):
            chosen = torch.arange(min(LOOKED_AT, self.examples["valid"]))
            inputs, labels, _ = moved(self._read("valid", chosen), device_of(model))
            found.append(
                lag_record(model, inputs, lambda h: functional.cross_entropy(model.read_out(h), labels))
            )
        return found

    def criterion(self, scores: Mapping[str, float]) -> float:
        """The share of wrong answers."""
        return 1 - scores["accuracy"]
