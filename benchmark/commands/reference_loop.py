"""The usual training loop of the field's code, as a reference: eager float32, per-image PIL augmentation, live teacher.

In each step that code crops, flips and normalizes each image in Python, runs the whole teacher (except for the student
alone) with all its feature maps, runs the student, computes the method's reference implementation, and steps a plain
SGD. Images are loaded in the process itself, without workers, so that nothing is computed while another loop is
being timed.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from benchmark.commands.reference_crd import GatheringCRD
from benchmark.config.schema import DatasetConfig
from benchmark.data.datasets import Split
from benchmark.networks import Network
from benchmark.training.seeding import generator
from benchmark.training.trainer import Schedule
from methods.contract import Batch, Method, Needs, Outputs
from methods.crd import CRD

# methods that the field's code computes in another, slower form
REFERENCE_IMPLEMENTATIONS: dict[type, type[Method]] = {CRD: GatheringCRD}


class ReferenceLoop:
    """One method in the usual loop. `method` becomes its reference implementation where there is one."""

    def __init__(
        self, network: Network, method: Method, teacher: Network, split: Split, config: DatasetConfig,
        batch_size: int, schedule: Schedule, device: str,
    ) -> None:  # fmt: skip
        self.network, self.teacher, self.device = network, teacher, device
        for part in method.modules():
            if reference := REFERENCE_IMPLEMENTATIONS.get(type(part)):
                part.__class__ = reference
        self.method = method
        self.optimizer = torch.optim.SGD(
            [*network.parameters(), *method.parameters()], schedule.lr, schedule.momentum,
            weight_decay=schedule.weight_decay,
        )  # fmt: skip
        self.images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels
        crop = transforms.RandomCrop(config.size, padding=config.padding)
        weak = [crop, *([transforms.RandomHorizontalFlip()] if config.flip else [])]
        to_tensor = [transforms.ToTensor(), transforms.Normalize(config.mean, config.std)]
        self.transforms = [
            transforms.Compose([*weak, *to_tensor]),
            transforms.Compose([*weak, transforms.RandAugment(2, 10), *to_tensor]),
        ]
        self.batch_size = batch_size
        student_needs, teacher_needs = method.requires.needs(1)
        self.student_outputs = _all_outputs(network) | student_needs
        self.teacher_outputs = _all_outputs(teacher) | teacher_needs
        self._order, self._draws = np.random.default_rng(0), generator("method", 0, device=device)

    def batch(self) -> Batch:
        """Return the next batch, loaded image by image."""
        picks = self._order.choice(len(self.labels), self.batch_size, replace=False)
        images = [self._load(picks, transform) for transform in self.transforms[: self.method.requires.views]]
        indices = torch.from_numpy(picks)
        return Batch(images, self.labels[indices].to(self.device), indices.to(self.device), 1, self._draws)

    def step(self) -> Tensor:
        """Load a batch and take one optimizer step on it; return the loss, a scalar."""
        batch = self.batch()
        self.network.train()
        student_needs, teacher_needs = self.method.requires.needs(1)
        student_outputs = _forward(self.network, batch, self.student_outputs)
        teacher_outputs = Outputs()
        if not teacher_needs.empty:
            with torch.no_grad():
                teacher_outputs = _forward(self.teacher, batch, self.teacher_outputs)
        terms = self.method.losses(student_outputs.select(student_needs), teacher_outputs.select(teacher_needs), batch)
        loss = self.method.optimizer_step(terms, self.optimizer)
        with torch.no_grad():
            self.method.on_step_end()
        return loss

    def _load(self, picks: np.ndarray, transform: transforms.Compose) -> Tensor:
        images: list[Tensor] = [transform(Image.fromarray(self.images[i])) for i in picks]  # pyright: ignore[reportAssignmentType]
        return torch.stack(images).to(self.device)


def _forward(network: Network, batch: Batch, needs: Needs) -> Outputs:
    weak, *others = (network(images, needs) for images in batch.images)
    weak.further_views = others
    return weak


def _all_outputs(network: Network) -> Needs:
    """Return what the networks of the field's code compute in every call."""
    return Needs(logits=True, pooled=True, maps=range(network.stages))
