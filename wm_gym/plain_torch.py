"""Run code of ours under torch's defaults, whatever a caller has changed globally.

Programs that drive an environment set torch's default dtype or device, run inside autocast, or rely
on the state of its generators. What a model imagines depends on none of them, and loading a model
changes none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def plain_torch(*, fork_generators: bool = False) -> Iterator[None]:
    """Compute in float32 on the CPU unless told otherwise, outside autocast; also a decorator.

    Args:
        fork_generators: restore torch's global generators afterwards; for code that initialises
            weights, and slow where there are many GPUs.

    Example:
        >>> torch.set_default_dtype(torch.float64)
        >>> with plain_torch():
        ...     print(torch.zeros(1).dtype)
        torch.float32
        >>> torch.zeros(1).dtype
        torch.float64
        >>> torch.set_default_dtype(torch.float32)
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if fork_generators:
            stack.enter_context(torch.random.fork_rng())
        yield
