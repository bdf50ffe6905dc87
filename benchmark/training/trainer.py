"""The training loop, one for teachers, students alone and every method. It knows no method by name."""

import copy
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch._dynamo.config as dynamo_config
import torch._functorch.config as functorch_config
from torch import Tensor, nn
from torch.backends import cudnn

from benchmark.data import randaugment
from benchmark.data.loader import Loader
from benchmark.networks import Network
from benchmark.teacher.cache import Header, TeacherCache
from benchmark.training.capture import Known, Recorder, Replayed
from benchmark.training.evaluation import Diverged, autocast, evaluation_batch
from benchmark.training.stopwatch import Stopwatch
from methods.contract import Batch, Method, Needs, Outputs, Term, check_terms


@dataclass(frozen=True)
class Schedule:
    """SGD with a stepwise falling learning rate."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    milestones: Sequence[float]
    gamma: float

    @staticmethod
    def of(recipe: Mapping[str, Any]) -> "Schedule":
        """The schedule in a resolved recipe."""
        return Schedule(**{f.name: recipe[f.name] for f in dataclasses.fields(Schedule)})

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1: it falls when the epoch is greater than a milestone."""
        return self.lr * self.gamma ** sum(epoch > m for m in self.milestones)


def lowered(network: Network, precision: str) -> Network:
    """A frozen network as it is run in mixed precision: a copy with the weights of its products in that type, to which
    autocast would cast them in every pass. Its outputs are the same."""
    if precision != "bf16":
        return network
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(torch.bfloat16)
    return network


class Parts(NamedTuple):
    """What a training step runs: the network's pass, the method's losses, and the live teacher's pass."""

    network: Callable[..., Outputs]
    losses: Callable[..., dict[str, Term]]
    teacher: Callable[..., Outputs] | None


def compile_parts(parts: Parts, graphs: bool) -> Parts:
    """The parts as torch compiles them, for batches of one size; with `graphs` the passes are CUDA graphs.

    Of the losses, what torch cannot compile is run as it is.
    """
    # all networks share the code that is compiled, of which torch would keep 8 forms and run others as they are, unsaid
    dynamo_config.recompile_limit = dynamo_config.accumulated_recompile_limit = 1024
    dynamo_config.fail_on_recompile_limit_hit = True
    functorch_config.donated_buffer = False  # a method may go through the backward pass more than once
    of = functools.partial(torch.compile, dynamic=False, mode="reduce-overhead" if graphs else "default")
    teacher = None if parts.teacher is None else of(parts.teacher)
    return Parts(of(parts.network), torch.compile(parts.losses), teacher)


class Trainer:
    """A network in training by one method.

    network: the student (or a teacher in the making); method: its loss; teacher: frozen, or None where the method
    needs nothing of one. Parameters of network and method are trained by one SGD. compiled: whether the network's
    training pass, the losses and the live teacher go through torch.compile, which gives the same to rounding. record:
    by which steps are recorded and replayed, see `benchmark.training.capture`; None where none are.
    """

    def __init__(
        self, network: Network, method: Method, teacher: Network | None, loader: Loader, schedule: Schedule, *,
        device: str, precision: str, compiled: bool = False, record: Recorder | None = None,
    ) -> None:  # fmt: skip
        if teacher is None and not method.teacher_needs.nothing:
            raise ValueError(f"{type(method).__name__} needs a teacher")
        self.network, self.method, self.teacher = network, method, teacher
        self.loader, self.schedule = loader, schedule
        self.device, self.precision = device, precision
        self._frozen = None if teacher is None else lowered(teacher, precision)
        self._compiled: Parts | None = None
        if compiled:
            parts = Parts(network, method.losses, self._frozen)
            self._compiled = compile_parts(parts, graphs=device == "cuda" and record is None)
        self._replayed = Replayed(self._step, loader.batch_size, record) if record is not None else None
        parameters = [*network.parameters(), *method.parameters()]
        self.optimiser = torch.optim.SGD(
            parameters, schedule.lr, schedule.momentum,
            weight_decay=schedule.weight_decay, nesterov=schedule.nesterov,
            fused=device == "cuda" or None,  # decay, momentum and step in one pass; None: as torch chooses
        )  # fmt: skip
        self._zero_momenta()
        self.watch = Stopwatch(device)
        # of how many batches the rows that the caches lack are computed at once, and whether they may lack any
        self.together = max(1, evaluation_batch(device, loader.side) // loader.batch_size)
        self._filling = True
        # in place of the teacher's network, where they are set: for the first view, and for the second
        self.cache: TeacherCache | None = None
        self.second_cache: TeacherCache | None = None

    def step(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step. Returns the detached record {name: scalar} of all terms, and the logits [N, C]; they may
        be written anew by the next step."""
        run = self._step if self._replayed is None else self._replayed
        return run(batch, self._cached(batch))

    def _step(self, batch: Batch, cached: Known) -> tuple[dict[str, Tensor], Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # counts, and does nothing where no graph is replayed
        known, needs = self._completed(cached, batch), self.method.student_needs | Needs(logits=True)
        parts = self._parts(len(batch.labels))
        with autocast(self.device, self.precision):
            given = parts.network(batch.images, needs)
            if batch.second is not None:
                given.second = parts.network(batch.second, needs)
        terms = parts.losses(given.only(self.method.student_needs), known.only(self.method.teacher_needs), batch)
        check_terms(terms, type(self.method).__name__)
        record = {"loss": self.method.descend(terms, self.optimiser)}
        with torch.no_grad():
            self.method.after_step()
        for name, term in terms.items():
            record[f"loss/{name}"] = term.value.detach()
            record[f"weighted/{name}"] = term.weight * term.value.detach()
        return record, given.logits.detach()

    def _parts(self, size: int) -> Parts:
        """What is run for a batch of that size. What torch compiles of the losses for a second size would serve, and
        slow down, the first as well, so that smaller last batches are not compiled for."""
        if self._compiled is not None and size == self.loader.batch_size:
            return self._compiled
        return Parts(self.network, self.method.losses, self._frozen)

    def _zero_momenta(self) -> None:
        """Set the momentum of all parameters to zero. Left to itself the optimiser makes it as gradients come, and a
        fused step refuses parameters of which some have none yet."""
        for params in self.optimiser.param_groups:
            for p in params["params"]:
                self.optimiser.state[p] = {"momentum_buffer": torch.zeros_like(p)}

    def known(self, batch: Batch) -> Outputs:
        """What the method needs of the teacher for a batch, from the caches or the network."""
        return self._completed(self._cached(batch), batch)

    def _cached(self, batch: Batch) -> Known:
        """What the caches have of it, for which they are asked on the CPU."""
        if self.method.teacher_needs.nothing:
            return Known()
        first = second = None
        if self.cache is not None:
            first = self.cache(batch.samples, batch.views, batch.images)
        if batch.second is not None and self.second_cache is not None and batch.epoch > 0:
            second = self.second_cache(batch.samples, batch.epoch - 1, batch.second)
        return Known(first, second)

    def _completed(self, cached: Known, batch: Batch) -> Outputs:
        """The same, and what the network gives of the rest."""
        needs = self.method.teacher_needs
        if needs.nothing:
            return Outputs()
        known = cached.first or self.taught_live(batch.images, needs)
        if batch.second is not None:
            known = dataclasses.replace(known, second=cached.second or self.taught_live(batch.second, needs))
        return known

    @property
    def teacher_passes(self) -> int:
        """How often the teacher's network is run in a step, with the caches that there are, once they are filled."""
        if self.method.teacher_needs.nothing:
            return 0
        return (self.cache is None) + (self.method.second_view and self.second_cache is None)

    @torch.no_grad()
    def taught(self, images: Tensor, needs: Needs) -> Outputs:
        """What the teacher's network gives for images [B, 3, H, W], as a cache is filled by it: never compiled, so that
        rows are the same whoever fills it, and without cuDNN's trial of kernels, as there are batches of any size."""
        tried, cudnn.benchmark = cudnn.benchmark, False
        try:
            with autocast(self.device, self.precision):
                return self._frozen(images, needs)
        finally:
            cudnn.benchmark = tried

    def seconds_a_row(self, needs: Needs, batch: int) -> float:
        """Seconds that the filling of a cache takes for an image, in passes of `batch`: the faster of two after one to
        warm up."""
        indices = torch.arange(min(batch, self.loader.size), device=self.device)
        images = self.loader.view(indices, indices % self.loader.views)
        wait, times = torch.cuda.synchronize if self.device == "cuda" else lambda: None, []
        for _ in range(3):
            wait()
            began = time.perf_counter()
            self.taught(images, needs)
            wait()
            times.append(time.perf_counter() - began)
        return min(times[1:]) / len(indices)

    @torch.no_grad()
    def taught_live(self, images: Tensor, needs: Needs) -> Outputs:
        """The same in a step that has it of no cache."""
        with autocast(self.device, self.precision):
            return self._parts(len(images)).teacher(images, needs)

    def cache_header(self, teacher: str, data: str) -> Header:
        """What cached outputs of the teacher of this content hash, on the data of this fingerprint, depend on."""
        context, loader = self.method.context, self.loader
        return Header(
            teacher, data, self.device, self.precision, loader.told, "", loader.size, loader.views,
            context.classes, context.teacher.pooled,
        )  # fmt: skip

    def second_cache_header(self, teacher: str, data: str) -> Header:
        """The same for its outputs on the second views: a column for each epoch but those of a first stage."""
        return dataclasses.replace(
            self.cache_header(teacher, data), views=self.loader.second_told, drawn_by=randaugment.DRAWN_BY,
            columns=self.method.context.epochs,
        )  # fmt: skip

    def epoch(self, epoch: int, tick: Callable[[int, int], None]) -> dict[str, float]:
        """Train for one epoch, counted from 1 (a first stage ends with 0); `tick(step, steps)` is called after a step.

        Returns lr, the mean over samples of the loss and of each term, and train_top1 (on the augmented images, in
        training mode). Raises Diverged with the first bad step and term. The device is read once, at the end.
        """
        rate = self.schedule.rate(epoch)
        for params in self.optimiser.param_groups:
            params["lr"] = rate
        self.network.train()
        self.method.train()
        rows, sizes, hits = [], [], []
        self.method.begin(epoch)
        if epoch == 1 and self.method.pre_epochs:
            self._zero_momenta()  # the momentum of the first stage is no momentum of this one
            if self._replayed is not None:
                self._replayed.begin_stage()
        for step, batch in enumerate(self._batches(epoch), start=1):
            with self.watch("step"):
                record, logits = self.step(batch)
                rows.append(torch.stack([v.float() for v in record.values()]))
                hits.append((logits.argmax(1) == batch.labels).sum())
            sizes.append(len(batch.labels))
            tick(step, len(self.loader))
        table = torch.stack(rows).cpu()  # [steps, terms]
        names = list(record)
        self._check_finite(table, names, epoch)
        weights = torch.tensor(sizes, dtype=table.dtype)[:, None] / sum(sizes)
        means = dict(zip(names, (table * weights).sum(0).tolist(), strict=True))
        return {"lr": rate, **means, "train_top1": 100.0 * torch.stack(hits).sum().item() / sum(sizes)}

    def _batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch. While the caches lack rows, those of several batches are computed at once: a GPU
        would wait for the launches of a pass for a few images."""
        batches = self.loader.epoch(epoch, self.method.second_view)
        caches = [c for c in (self.cache, self.second_cache) if c is not None]
        while True:
            with self.watch("data"):
                group = list(itertools.islice(batches, self.together if self._filling else 1))
            if not group:
                return
            before = sum(c.computed for c in caches)
            if self._filling and caches:
                with self.watch("fill"):
                    self._cached(_joined(group))
            yield from group
            self._filling = sum(c.computed for c in caches) > before

    def _check_finite(self, table: Tensor, names: list[str], epoch: int) -> None:
        bad = ~table.isfinite()
        if bad.any():
            step = int(bad.any(1).nonzero()[0])
            # the sum is bad whenever a term is: name the term
            column = [i for i, n in enumerate(names) if n.startswith("loss/") and bad[step, i]] or [0]
            total = (epoch - 1 + self.method.pre_epochs) * len(self.loader) + step + 1
            name = names[column[0]].removeprefix("loss/")
            raise Diverged(f"term {name} is {table[step, column[0]].item()} at step {total} (epoch {epoch})")

    @property
    def deployed(self) -> nn.Module:
        """What is evaluated: the network, with what the method keeps at inference."""
        return self.method.deployed(self.network, self.teacher)

    def state(self) -> dict[str, Any]:
        """All that training goes on from at the end of an epoch; random streams are derived from seed and epoch."""
        return {
            "network": self.network.state_dict(),
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.method.load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])


def _joined(group: Sequence[Batch]) -> Batch:
    """What the caches are asked with, of several batches as of one."""
    names = ("images", "views", "samples", *(("second",) if group[0].second is not None else ()))
    return dataclasses.replace(group[0], **{n: torch.cat([getattr(b, n) for b in group]) for n in names})
