"""The training loop, one for teachers, students alone and every method. It knows no method by name."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmark.networks import Network
from benchmark.networks.base import LOGITS
from benchmark.teacher.outputs import CachedOutputs, TeacherOutputs
from benchmark.training.capture import GraphedStep, StepResult
from benchmark.training.evaluation import Diverged, autocast
from benchmark.training.graphs import Capture, SharedPasses
from benchmark.training.optimizers import Schedule as Schedule  # part of this module, too
from benchmark.training.optimizers import WeightAverage, make_optimizer, reset_state
from benchmark.training.stopwatch import Stopwatch
from methods.contract import Batch, Method, Needs, Outputs, Term, check_terms


class StepFunctions(NamedTuple):
    """The functions that a training step calls: the student's forward pass, the method's losses, the live teacher."""

    student: Callable[..., Outputs]
    losses: Callable[..., dict[str, Term]]
    teacher: Callable[..., Outputs] | None


def compile_functions(functions: StepFunctions, graphs: bool) -> StepFunctions:
    """Compile step functions with torch.compile for batches of one size; with `graphs` the passes are CUDA graphs.

    Parts of the losses that torch cannot compile run eagerly.
    """
    import torch._dynamo.config as dynamo_config  # a second, which only a process that compiles should take
    import torch._functorch.config as functorch_config

    # torch keeps 8 specializations by default and silently runs further ones in eager mode; all networks share code
    dynamo_config.recompile_limit = dynamo_config.accumulated_recompile_limit = 1024
    dynamo_config.fail_on_recompile_limit_hit = True
    functorch_config.donated_buffer = False  # a method may run the backward pass more than once
    compile_pass = functools.partial(torch.compile, dynamic=False, mode="reduce-overhead" if graphs else "default")
    teacher = None if functions.teacher is None else compile_pass(functions.teacher)
    return StepFunctions(compile_pass(functions.student), torch.compile(functions.losses), teacher)


class Trainer:
    """Trains a network with a method.

    network: the student, or a teacher to be. teacher_outputs: the teacher's outputs for its batches, and the processes
    that share each batch (`benchmark.training.parallel`). Parameters of network and method are trained by one
    optimizer. compiled: use torch.compile, with equal results up to rounding. capture: captures training steps for
    replay (see `benchmark.training.capture`); None runs every step eagerly, as several processes must.
    """

    def __init__(
        self, network: Network, method: Method, teacher_outputs: TeacherOutputs, schedule: Schedule, *,
        compiled: bool = False, capture: Capture | None = None,
    ) -> None:  # fmt: skip
        self.network, self.method, self.teacher_outputs = network, method, teacher_outputs
        self.loader, self.schedule = teacher_outputs.loader, schedule
        self.device, self.precision = teacher_outputs.device, teacher_outputs.precision
        self.parallel = teacher_outputs.parallel
        self._eager = StepFunctions(network, method.losses, teacher_outputs.network)
        self._compiled: StepFunctions | None = None
        if compiled:
            self._compiled = compile_functions(self._eager, graphs=self.device == "cuda" and capture is None)
        self._graphed = None
        if capture is not None:
            self._graphed = GraphedStep(self._step, self.loader.batch_size, capture, teacher_outputs.shared_reads)
        self.optimizer = make_optimizer(schedule, network, method, self.device)
        self._average = None
        if schedule.ema_decay is not None:
            self._average = WeightAverage(network, schedule.ema_decay, self.optimizer)
        self.parallel.reduce_gradients(network, method)
        self.watch = Stopwatch(self.device)

    @torch.no_grad()
    def prepare_method(self, images: int | None = None) -> None:
        """Give the method what it reads before training; the first epoch does so, and a resumed run has it in its
        checkpoint.

        images: number of training images whose features it receives, all by default.
        """
        if self.method.requires.teacher_features:
            self.method.on_teacher_features(*self.teacher_outputs.training_features(images))

    def step(self, batch: Batch, cached: CachedOutputs | None = None) -> StepResult:
        """Take one optimizer step. The next step may overwrite the tensors of its result.

        cached: what the teacher's caches hold for the batch; None: it is read here.
        """
        run = self._step if self._graphed is None else self._graphed
        return run(batch, self.teacher_outputs.lookup(batch) if cached is None else cached)

    def _step(self, batch: Batch, cached: CachedOutputs, passes: SharedPasses | None = None) -> StepResult:
        if self._compiled is not None:
            torch.compiler.cudagraph_mark_step_begin()  # imports all of the compiler, which takes a second
            passes = None  # what other runs read would be compiled anew, which a capture does not allow
        functions = self._step_functions(len(batch.labels))
        student_needs, teacher_needs = self.method.requires.needs(batch.epoch)

        student = self._student_outputs(batch, functions.student, student_needs)
        teacher = self.teacher_outputs.complete(batch, cached, functions.teacher, passes)
        terms = functions.losses(student.select(student_needs), teacher.select(teacher_needs), batch)
        check_terms(terms, type(self.method).__name__)
        loss = self.method.optimizer_step(terms, self.optimizer)
        with torch.no_grad():
            self.method.on_step_end()
        assert student.logits is not None
        return _step_result(loss, terms, student.logits.detach(), batch.labels)

    def _student_outputs(self, batch: Batch, student: Callable[..., Outputs], needs: Needs) -> Outputs:
        with autocast(self.device, self.precision), self.parallel.student_pass():
            weak, *others = (student(images, needs | LOGITS) for images in self.parallel.share(batch).images)
        weak.further_views = others
        return self.parallel.gather(weak, len(batch.labels))

    def _step_functions(self, batch_size: int) -> StepFunctions:
        """Return the functions for a batch of that size. A specialization for the smaller last batch would also serve,
        and slow down, the full ones, so smaller batches run eagerly."""
        if self._compiled is not None and batch_size == self.loader.batch_size:
            return self._compiled
        return self._eager

    @property
    def live_teacher(self) -> Callable[..., Outputs] | None:
        """The teacher's forward function in a full batch: compiled where training is."""
        return self._step_functions(self.loader.batch_size).teacher

    def epoch(self, epoch: int, on_step: Callable[[int, int], None]) -> dict[str, float]:
        """Train one epoch, counted from 1 (an initialization stage ends with 0); `on_step(step, steps)` follows a step.

        Returns lr, the mean over samples of the loss and of each term, and train_top1 (on the augmented images, in
        training mode). Raises Diverged with the first bad step and term. The device is read once, at the end.
        """
        learning_rate = self.schedule.learning_rate(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.network.train()
        self.method.train()
        if epoch == 1 and self.method.requires.init_epochs:
            reset_state(self.optimizer)
            if self._graphed is not None:
                self._graphed.on_stage_change()
        if epoch == 1 - self.method.requires.init_epochs:
            self.prepare_method()
        with torch.no_grad():
            self.method.on_epoch_start(epoch)
        rows, sizes, names = [], [], []
        batches = self.loader.epoch(epoch, self.method.requires.views)
        for step, (batch, cached) in enumerate(self.teacher_outputs.prefetch(batches, self.watch), start=1):
            with self.watch("step"):
                result = self.step(batch, cached)
                rows.append(result.row.clone())
                names = list(result.terms)
            sizes.append(len(batch.labels))
            on_step(step, len(self.loader))
        averages = [] if self._average is None else [self._average.network]
        self.parallel.equalize([self.network, *averages], self.method)
        table = torch.stack(rows).cpu()  # [steps, terms + 1]
        table, hits = table[:, :-1], table[:, -1]
        self._check_finite(table, names, epoch)
        weights = torch.tensor(sizes, dtype=table.dtype)[:, None] / sum(sizes)
        means = dict(zip(names, (table * weights).sum(0).tolist(), strict=True))
        return {"lr": learning_rate, **means, "train_top1": 100.0 * hits.double().sum().item() / sum(sizes)}

    def _check_finite(self, table: Tensor, names: list[str], epoch: int) -> None:
        bad = ~table.isfinite()
        if bad.any():
            step = int(bad.any(1).nonzero()[0])
            # the sum is bad whenever a term is: name the term
            column = [i for i, n in enumerate(names) if n.startswith("loss/") and bad[step, i]] or [0]
            total = (epoch - 1 + self.method.requires.init_epochs) * len(self.loader) + step + 1
            name = names[column[0]].removeprefix("loss/")
            raise Diverged(f"term {name} is {table[step, column[0]].item()} at step {total} (epoch {epoch})")

    @property
    def trained_network(self) -> Network:
        """The network whose weights are evaluated and kept: the average of its weights where the recipe takes one."""
        return self.network if self._average is None else self._average.network

    @property
    def inference_model(self) -> nn.Module:
        """The model that is evaluated: the network, with the layers that the method keeps at inference."""
        return self.method.inference_model(self.trained_network, self.teacher_outputs.teacher)

    def state(self) -> dict[str, Any]:
        """Return everything that training resumes from at the end of an epoch; random streams follow from seed and
        epoch. The keys are those of checkpoints on disk."""
        average = {} if self._average is None else {"average": self._average.network.state_dict()}
        return {
            "network": self.network.state_dict(),
            "method": self.method.state_dict(),
            "optimiser": self.optimizer.state_dict(),
            **average,
        }

    def fits(self, state: Any) -> bool:
        """Return whether `load_state` can restore it: the tensors have this trainer's names, shapes and types."""
        try:
            return _have_same_form(_without_options(state), _without_options(self.state()))
        except (KeyError, TypeError, AttributeError):  # of a mapping or a list that is something else there
            return False

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimiser"])
        if self._average is not None:
            self._average.network.load_state_dict(state["average"])


def _step_result(loss: Tensor, terms: Mapping[str, Term], logits: Tensor, labels: Tensor) -> StepResult:
    """Return a step's result: the loss, and every term raw and weighted, by the names under which metrics.jsonl keeps
    them; the logits and how many of them are right."""
    record = {"loss": loss}
    for name, term in terms.items():
        record[f"loss/{name}"] = term.value.detach()
        record[f"weighted/{name}"] = term.weight * term.value.detach()
    hits = (logits.argmax(1) == labels).sum()
    return StepResult(record, logits, torch.stack([v.float() for v in (*record.values(), hits)]))


def _without_options(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trainer's state without the optimizer's options, of which torch's versions have different ones."""
    optimizer = state["optimiser"]
    groups = {str(i): dict.fromkeys(group["params"]) for i, group in enumerate(optimizer["param_groups"])}
    return {**state, "optimiser": {"state": optimizer["state"], "param_groups": groups}}


def _have_same_form(a: Any, b: Any) -> bool:
    """Return whether two nested mappings hold tensors of the same shapes and types under the same keys."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_have_same_form(a[key], b[key]) for key in a)
    return type(a) is type(b)
