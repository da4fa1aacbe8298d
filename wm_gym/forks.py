"""Threads after a fork: a child has none of its parent's, and must not wait for them."""

from __future__ import annotations

import os
import sys
from typing import Any


def compute_on_one_thread_after_forks() -> None:
    """Let every forked child of this process compute on one thread.

    A child that inherits torch inherits the size of OpenMP's pool without its threads, and waits
    for ever for them. Imports no torch: a parent without it has nothing to pass on.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_one_thread)


def _one_thread() -> None:
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "set_num_threads"):  # not while torch is half imported
        torch.set_num_threads(1)
