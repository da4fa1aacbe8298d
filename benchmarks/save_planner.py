"""Saves a planner that asks a semantic world model as a policy, for `wm-gym compare-real`.

    python benchmarks/save_planner.py --out runs/planner

It samples from uniform actions (MPPI) and scores them by a task's answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from wm_gym.planning.mppi import MPPIConfig
from wm_gym.policies.base import save_policy
from wm_gym.policies.planner import PlannerPolicy
from wm_gym.semantic.world_model import load_semantic_model


@dataclass(frozen=True)
class SavePlannerConfig:
    """Save a planning policy."""

    out: Path
    """Folder of the policy."""
    checkpoint: str = "embedded"
    """Semantic checkpoint: embedded, a folder, or hf://org/repo@revision."""
    horizon: int = 16
    """Actions of a plan."""
    execute: int = 4
    """Actions that are carried out before the next look."""
    mppi: MPPIConfig = field(default_factory=MPPIConfig)
    """Settings of MPPI."""


def main(config: SavePlannerConfig) -> Path:
    """Load the model, save the policy, print where."""
    model = load_semantic_model(config.checkpoint, embedded="langtable-swm", env_id="--checkpoint")
    policy = PlannerPolicy(model, config.mppi, horizon=config.horizon, execute=config.execute)
    folder = save_policy(policy, config.out)
    print(f"policy: {folder}")
    return folder


if __name__ == "__main__":
    main(tyro.cli(SavePlannerConfig))
