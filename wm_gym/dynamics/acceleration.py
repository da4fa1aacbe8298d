"""How a network computes: in what arithmetic, and compiled or not. What it computes stays the same.

On a CPU, bfloat16 pays off in the linear layers only (attention over short sequences is slower in
it), on a GPU in attention as well; compiling pays off where launching small kernels is what takes
the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

from wm_gym.dynamics.attention import Linear
from wm_gym.dynamics.dit import DiT
from wm_gym.errors import UserError

Arithmetic = Literal["float32", "bfloat16", "autocast"]
"""`bfloat16` is for the linear layers alone, attention stays in float32; `autocast` is
torch.autocast to bfloat16, attention included."""
ARITHMETIC: tuple[str, ...] = get_args(Arithmetic)
BLOCK_PASSES = ("_causal", "_against_context")
"""The network's passes through its blocks, where nearly all the time goes."""


def accelerate(network: DiT, arithmetic: str, *, compiled: bool = False) -> DiT:
    """Choose a network's arithmetic, and whether torch.compile translates it.

    Args:
        network: on the device where it will run; changed in place. State dict and the types of
            inputs and outputs stay as they are.
        arithmetic: see `Arithmetic`.
        compiled: compile the passes through the blocks: seconds to minutes at the first steps, and
            again where a context of another length needs its own code.

    Raises:
        ValueError: if the arithmetic is unknown; nothing has changed then.
    """
    if arithmetic not in ARITHMETIC:
        raise UserError(
            f"arithmetic {arithmetic!r} is unknown; expected one of "
            f"{', '.join(map(repr, ARITHMETIC))}"
        )
    network.set_linear_dtype(torch.bfloat16 if arithmetic == "bfloat16" else None)
    for name in BLOCK_PASSES:
        vars(network)[name] = _BlockPass(network, name, arithmetic, compiled)
    return network


def arithmetic_of(network: DiT) -> str:
    """The arithmetic a network computes in, as `accelerate` takes it."""
    for name in BLOCK_PASSES:
        chosen = vars(network).get(name)
        if isinstance(chosen, _BlockPass) and chosen.arithmetic != "float32":
            return chosen.arithmetic
    linear = (module for module in network.modules() if isinstance(module, Linear))
    return "bfloat16" if any(m.compute_dtype is torch.bfloat16 for m in linear) else "float32"


class _BlockPass:
    """A network's pass through its blocks in the arithmetic it was given.

    It knows its network by reference and translates at the first call, so that a deep copy or an
    unpickled network runs its own weights as the original does.
    """

    def __init__(self, network: DiT, name: str, arithmetic: str, compiled: bool) -> None:
        self.network = network
        self.name = name
        self.arithmetic = arithmetic
        self.compiled = compiled
        self._run: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self._run
        if run is None:
            run = getattr(type(self.network), self.name)
            if self.arithmetic == "autocast":
                run = torch.autocast(self.network.device.type, torch.bfloat16)(run)
            run = self._run = torch.compile(run) if self.compiled else run
        return run(self.network, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_run": None}  # compiled code cannot be pickled
