"""Data-parallel training: several processes take the steps of one run, each with its share of every batch.

The result is that of one process, up to rounding. A process runs the networks on its rows of a batch. The outputs of
all processes are gathered, and each computes the losses of the whole batch from them, which batch norm in the student,
the relations of RKD or the memory of CRD need. In the backward pass a process keeps the gradient of its own rows, so

    student's parameters    have the gradient of its rows in each process: the gradient is their sum
    method's parameters     have the whole gradient in each process: their mean is taken, which differs from each only
                            where a GPU adds in another order, and keeps the processes equal bit for bit
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Variable

from benchmark.training.batch_norm import WholeBatchStatistics
from methods.contract import Batch, Outputs

# a process waits for others that load, evaluate or fill a cache; after this time one of them must be stuck
TIMEOUT = timedelta(minutes=30)
T = TypeVar("T")


class PeerLost(RuntimeError):
    """Raised where an exchange with the other processes of a run fails: one of them has ended, or is stuck."""


class Parallel:
    """One process, which trains alone: it has all rows, and nothing is exchanged."""

    rank, size = 0, 1

    def rows(self, count: int) -> slice:
        """Return which of `count` rows are this process's share; shares differ by one row at most."""
        return self._rows_of(self.rank, count)

    def _rows_of(self, rank: int, count: int) -> slice:
        smaller, larger = divmod(count, self.size)
        start = rank * smaller + min(rank, larger)
        return slice(start, start + smaller + (rank < larger))

    def share(self, batch: Batch) -> Batch:
        """Return this process's rows of a batch."""
        return batch

    def gather(self, outputs: Outputs, count: int) -> Outputs:
        """Return the outputs for all `count` images of a batch. Only this process's rows have a gradient."""
        return outputs

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """Join the rows [n, …] of all processes: [count, …]. Only this process's rows have a gradient."""
        return rows

    def join(self, rows: Tensor, count: int) -> Tensor:
        """Join the rows [n, …] of all processes, in their order and in the memory format of `rows`, without a gradient:
        [count, …]."""
        return rows

    def student_pass(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the student's forward pass in training."""
        return contextlib.nullcontext()

    def reduce_gradients(self, student: nn.Module, method: nn.Module) -> None:
        """Make every backward pass end with the gradients of the whole batch in the parameters of both."""

    def equalize(self, networks: Sequence[nn.Module], method: nn.Module) -> None:
        """Make parameters and buffers the same in all processes, at the end of an epoch. networks: the student, and
        where its weights are averaged, their average."""

    def from_first(self, value: T) -> T:
        """Return the value that the first process has. Other values are ignored."""
        return value

    def agree(self, value: bool) -> bool:
        """Return whether the value is true in all processes."""
        return value

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """Return every `size`-th of the items, which all processes have: this one's part of a work."""
        return items[self.rank :: self.size]

    def wait(self) -> None:
        """Wait until all processes are here."""


ALONE = Parallel()


class ProcessGroup(Parallel):
    """One of the processes of torch's default process group.

    whole_batch_statistics: batch norm in the student has the statistics of the whole batch; False: those of each
    process's share, while the running statistics are the processes' mean.
    """

    def __init__(self, whole_batch_statistics: bool = True) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._whole_batch_statistics = whole_batch_statistics

    def share(self, batch: Batch) -> Batch:
        """Return this process's rows of a batch."""
        rows = self.rows(len(batch.labels))
        return dataclasses.replace(
            batch,
            images=[images[rows] for images in batch.images],
            labels=batch.labels[rows],
            indices=batch.indices[rows],
            indices_cpu=None if batch.indices_cpu is None else batch.indices_cpu[rows],
            augmentation_ids=[None if ids is None else ids[rows] for ids in batch.augmentation_ids],
            targets=None if batch.targets is None else batch.targets[rows],
        )

    def gather(self, outputs: Outputs, count: int) -> Outputs:
        """Return the outputs for all `count` images of a batch. Only this process's rows have a gradient."""
        gathered: dict[str, Any] = {}
        for field in dataclasses.fields(Outputs):
            value = getattr(outputs, field.name)
            if isinstance(value, Tensor):
                gathered[field.name] = self.gather_rows(value, count)
            elif isinstance(value, dict):
                gathered[field.name] = {key: self.gather_rows(value[key], count) for key in sorted(value)}
        return Outputs(**gathered, further_views=[self.gather(view, count) for view in outputs.further_views])

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """Join the rows [n, …] of all processes: [count, …]. Only this process's rows have a gradient."""
        return _Gather.apply(rows, count, self)

    def join(self, rows: Tensor, count: int) -> Tensor:
        """Join the rows of all processes without a gradient.

        Parts that are sent have one size: those of fewer rows end in zeros, which are dropped.
        """
        if rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last):
            return self.join(rows.permute(0, 2, 3, 1), count).permute(0, 3, 1, 2)
        part = rows.new_zeros((-(-count // self.size), *rows.shape[1:]))
        part[: len(rows)] = rows
        sizes = [self._rows_of(rank, count) for rank in range(self.size)]
        return torch.cat([p[: s.stop - s.start] for p, s in zip(self._exchange(part), sizes, strict=True)])

    def student_pass(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the student's forward pass in training."""
        return WholeBatchStatistics(self._exchange) if self._whole_batch_statistics else contextlib.nullcontext()

    def _exchange(self, part: Tensor) -> Tensor:
        """Return the tensors [P, …] of all P processes, which are of one shape."""
        parts = [torch.empty_like(part) for _ in range(self.size)]
        with _lost_peers():
            distributed.all_gather(parts, part.contiguous())
        return torch.stack(parts)

    # ------------------------------------------------------------ gradients and states

    def reduce_gradients(self, student: nn.Module, method: nn.Module) -> None:
        """Make every backward pass end with the gradients of the whole batch in the parameters of both."""
        shares = dict.fromkeys(student.parameters(), 1.0) | dict.fromkeys(method.parameters(), 1 / self.size)
        _GradientReduction(shares, self._add_up)

    @torch.no_grad()
    def equalize(self, networks: Sequence[nn.Module], method: nn.Module) -> None:
        """Make parameters and buffers the same in all processes, at the end of an epoch. networks: the student, and
        where its weights are averaged, their average."""
        if not self._whole_batch_statistics:
            statistics = [buffer for network in networks for buffer in network.buffers() if buffer.is_floating_point()]
            for part in _by_type(statistics):
                _replace(part, self._add_up(_flat(part)) / self.size)
        for part in _by_type([t for module in (*networks, method) for t in (*module.parameters(), *module.buffers())]):
            values = _flat(part)
            with _lost_peers():
                distributed.broadcast(values, src=0)
            _replace(part, values)

    def _add_up(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, in place."""
        with _lost_peers():
            distributed.all_reduce(values)
        return values

    # ------------------------------------------------------------ order

    def from_first(self, value: T) -> T:
        """Return the value that the first process has. Other values are ignored."""
        values = [value]
        with _lost_peers():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def agree(self, value: bool) -> bool:
        """Return whether the value is true in all processes."""
        values = [value] * self.size
        with _lost_peers():
            distributed.all_gather_object(values, value)
        return all(values)

    def wait(self) -> None:
        """Wait until all processes are here."""
        with _lost_peers():
            distributed.barrier()


class _Gather(torch.autograd.Function):
    """Rows of all processes, [n, …] -> [count, …]; the backward pass returns the gradient of this process's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int, group: ProcessGroup) -> Tensor:
        ctx.rows = group.rows(count)
        return group.join(rows, count)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient[ctx.rows], None, None


class _GradientReduction:
    """Adds up the gradients of parameters over the processes at the end of every backward pass, in one exchange.

    A method may run several backward passes in a step and read the gradients in between, as DOT does. Gradients of
    earlier passes, to which torch would add, are not added up again. shares: by parameter, the factor of each process's
    gradient in the sum. add_up: returns the sum of a tensor over the processes.
    """

    def __init__(self, shares: dict[nn.Parameter, float], add_up: Callable[[Tensor], Tensor]) -> None:
        self._shares, self._add_up = shares, add_up
        self._reached: dict[nn.Parameter, Tensor | None] = {}  # in this pass, with the gradient of earlier ones
        for parameter in shares:
            parameter.register_hook(functools.partial(self._on_gradient, parameter))

    def _on_gradient(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        if not self._reached:
            Variable._execution_engine.queue_callback(self._reduce)  # pyright: ignore[reportAttributeAccessIssue]
        self._reached[parameter], parameter.grad = parameter.grad, None

    @torch.no_grad()
    def _reduce(self) -> None:
        earlier, self._reached = self._reached, {}
        # in the order of the parameters, which is the same in all processes; that of the backward pass need not be
        gradients = {p: p.grad for p in self._shares if p in earlier and p.grad is not None}
        for parameter, gradient in gradients.items():
            gradient.mul_(self._shares[parameter])
        for part in _by_type(list(gradients.values())):
            _replace(part, self._add_up(_flat(part)))
        for parameter, gradient in earlier.items():
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group tensors by their type, in their order."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _replace(tensors: Sequence[Tensor], values: Tensor) -> None:
    """Write values that `_flat` joined back into the tensors."""
    for tensor, part in zip(tensors, values.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


@contextlib.contextmanager
def _lost_peers() -> Iterator[None]:
    """Raise PeerLost where an exchange fails."""
    try:
        yield
    except RuntimeError as e:
        raise PeerLost(f"the other processes of the run cannot be reached: {str(e).partition(chr(10))[0]}") from e
