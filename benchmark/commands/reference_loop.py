"""The field's usual training loop, built to be compared with: eager float32, per-image PIL augmentation, live teacher.

What the code bases of the field do in a step: crop, flip and normalise each image in Python, run the whole teacher (but
for the student alone) with all its feature maps, run the student, compute the method's loss in its published form, and
step a plain SGD. Images are loaded in the process itself, without workers, so that nothing is computed while another
loop is being timed.
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


class PlainTrainer:
    """One method in the plain loop. `method` is used in its published form where it has one."""

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
        weak = [
            transforms.RandomCrop(config.size, padding=config.padding),
            *([transforms.RandomHorizontalFlip()] if config.flip else []),
        ]
        tensor = [transforms.ToTensor(), transforms.Normalize(config.mean, config.std)]
        self.transform = transforms.Compose([*weak, *tensor])
        self.strong = transforms.Compose([*weak, transforms.RandAugment(2, 10), *tensor])
        self.batch_size = batch_size
        student_needs, teacher_needs = method.requires.needs(1)
        self.everything = _everything(network) | student_needs
        self.everything_of_teacher = _everything(teacher) | teacher_needs
        self._random, self._draws = np.random.default_rng(0), generator("method", 0, device=device)

    def batch(self) -> Batch:
        """The next batch, image by image."""
        picks = self._random.choice(len(self.labels), self.batch_size, replace=False)
        images = [self._load(picks, t) for t in (self.transform, self.strong)[: self.method.requires.views]]
        indices = torch.from_numpy(picks).to(self.device)
        labels = self.labels[torch.from_numpy(picks)].to(self.device)
        return Batch(images, labels, indices, 1, self._draws)

    def _load(self, picks: np.ndarray, transform: transforms.Compose) -> Tensor:
        return torch.stack([transform(Image.fromarray(self.images[i])) for i in picks]).to(self.device)

    def step(self) -> Tensor:
        """Load a batch and take one optimiser step on it; the loss."""
        batch = self.batch()
        self.network.train()
        student_needs, teacher_needs = self.method.requires.needs(1)
        given = self._outputs(self.network, batch, self.everything)
        known = Outputs()
        if not teacher_needs.empty:
            with torch.no_grad():
                known = self._outputs(self.teacher, batch, self.everything_of_teacher)
        terms = self.method.losses(given.select(student_needs), known.select(teacher_needs), batch)
        loss = self.method.optimizer_step(terms, self.optimizer)
        with torch.no_grad():
            self.method.on_step_end()
        return loss

    @staticmethod
    def _outputs(network: Network, batch: Batch, needs: Needs) -> Outputs:
        weak, *others = (network(images, needs) for images in batch.images)
        weak.further_views = others
        return weak


def _everything(network: Network) -> Needs:
    """What the networks of the field's code give in every call."""
    return Needs(logits=True, pooled=True, maps=range(network.stages))
