"""Several processes (``accelerate launch``) as one: they share the sampling and the passes through the model,
hold the same batch, and sum their gradients. That is what one process would do, without a wrapper around the
model. With one process each method gives back what it gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce


class Processes:
    """All processes of a run, as one of them sees them.

    Attributes:
        rank: this one's number.
        count: how many there are.
        main: whether this one writes.
    """

    def __init__(self, device: torch.device):
        self.state = PartialState(cpu=device.type == "cpu")  # one process, unless Accelerate launched more
        self.rank, self.count = self.state.process_index, self.state.num_processes
        self.main = self.state.is_main_process

    def part(self, rows: list) -> list:
        """This process's stretch of a list; :meth:`gather` keeps the order."""
        with self.state.split_between_processes(rows) as mine:
            return mine

    def gather(self, batch: Any) -> list:
        """What each process has, in order; it has a method ``to`` as tensors have."""
        return [batch] if self.count == 1 else gather_object([batch.to("cpu")])

    def deal(self, rows: torch.Tensor) -> torch.Tensor:
        """This process's share of rows in order of length: every n-th."""
        return rows[self.rank :: self.count]

    def once(self, function: Callable[[], Any]) -> Any:
        """What the function gives to the main process, for all: it may be slow, or not the same twice."""
        return broadcast_object_list([function() if self.main else None])[0]

    def sum(self, values: Any) -> Any:
        """A tensor, or a dictionary of tensors, summed over the processes."""
        return reduce(values, "sum")

    def max(self, values: torch.Tensor) -> torch.Tensor:
        """The largest over the processes, number by number."""
        return reduce(values, "max")
