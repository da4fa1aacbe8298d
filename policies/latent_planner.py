"""A planner that imagines frames: plan in a latent world model, execute a part, plan again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch

from wm_gym.checkpoints import Checkpoint
from wm_gym.dynamics.rollout import Rollout
from wm_gym.errors import UserError
from wm_gym.instructions import Goal, InstructionSet
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.plain_torch import plain_torch
from wm_gym.planning.cem import CEMConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.planning.plan import ActionBox
from wm_gym.planning.planner import PLANNERS, plan
from wm_gym.planning.rollout_value import RolloutValue, reward_score
from wm_gym.policies.base import Observation, Policy, PolicyError
from wm_gym.policies.proposals import Proposals, plan_seed, planner_identity, saved_bases
from wm_gym.world_model import LatentWorldModel, load_world_model

if TYPE_CHECKING:
    from wm_gym.policies.chunks import Chunks
    from wm_gym.spec import ActionSpec, FrameSpec

Score = Literal["distance", "success"]
Reduce = Literal["last", "mean"]


class LatentPlannerPolicy(Policy):
    """Receding horizon: imagines K action sequences, executes m of the best n, looks again.

    Every plan starts from the newest frame alone, as its own history. The candidates of a row meet
    the same noise. Everything random is a function of the row's seed and step, so a row's actions
    do not depend on its neighbours.

    Args:
        model: latent world model to plan with; its card has a reward model.
        planner: MPPI or CEM, and its settings.
        horizon: actions n of a plan.
        execute: actions m that are carried out before the next one.
        score: what makes an imagined frame good: minus the distance in metres, which leads from
            afar, or the probability of success.
        reduce: whether the last imagined frame counts, or the mean of all of them.
        micro_batch: most candidates passed through the network at once; None for all.
        bases: policies whose chunks are the proposals that planning starts from.

    Raises:
        IncompatiblePolicyError: if one of the bases speaks another action language.
        PolicyError: if the model is in no folder or has no reward model.
        ValueError: if a number or name is not among those above.
    """

    kind: ClassVar[str] = "latent-planner"

    def __init__(
        self,
        model: LatentWorldModel,
        planner: MPPIConfig | CEMConfig,
        *,
        horizon: int = 8,
        execute: int = 4,
        score: Score = "distance",
        reduce: Reduce = "mean",
        micro_batch: int | None = None,
        bases: Sequence[Policy] = (),
    ) -> None:
        super().__init__(model.spec.action, model.spec.frame)
        if not isinstance(planner, MPPIConfig | CEMConfig):
            raise UserError(
                f"{type(planner).__name__} needs gradients through the world model, and a rollout "
                "has none; expected MPPIConfig or CEMConfig"
            )
        if not 1 <= execute <= horizon or score not in get_args(Score):
            raise UserError(
                f"execute={execute} must be 1 to horizon={horizon}, and score={score!r} one of "
                f"{list(get_args(Score))}"
            )
        if reduce not in get_args(Reduce):
            raise UserError(f"reduce={reduce!r} must be one of {list(get_args(Reduce))}")
        if model.folder is None or model.spec.reward is None:
            raise PolicyError(
                f"{model.spec.name} has no reward model in a folder of its own, so nothing says "
                "what a good frame is; plan with a checkpoint that has one (`wm-gym train reward`)"
            )
        self.model, self.planner = model, planner
        self.horizon, self.execute = horizon, execute
        self.score: Score = score
        self.reduce: Reduce = reduce
        self.micro_batch = micro_batch
        opened = Checkpoint.open(model.folder)
        self.reward = RewardModel.from_checkpoint(opened, str(model.device))
        self.proposals = Proposals(bases, self.action_spec, self.frame_spec)
        self.frame_history = self.proposals.frame_history
        self._goals: dict[int, Goal] = {}
        self._seeds: dict[int, int] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes; see `Policy.reset`.

        Raises:
            InstructionError: if an instruction is none of the card's tasks.
        """
        known = InstructionSet(self.model.spec.tasks, self.model.spec.objects)
        goals = [known.parse(instruction) for instruction in instructions]
        for row, seed, goal in zip(rows, seeds, goals, strict=True):
            self._goals[int(row)], self._seeds[int(row)] = goal, int(seed)
        self.proposals.reset(rows, seeds, instructions)

    @plain_torch()
    def act(self, observation: Observation) -> Chunks:
        """The first m actions (B, m, A) of each row's new plan."""
        drawn = self.proposals.draw(observation, self.horizon)
        rows = [int(row) for row in observation.rows]
        steps = zip(rows, observation.steps.tolist(), strict=True)
        seeds = [plan_seed(self._seeds[row], step) for row, step in steps]
        frames = torch.from_numpy(np.ascontiguousarray(observation.frames))
        dream = Rollout(self.model, frames, seeds=seeds, micro_batch=self.micro_batch)  # pyright: ignore[reportArgumentType]
        goals = [self._goals[row] for row in rows]
        found = plan(
            RolloutValue(dream, reward_score(self.reward, goals, self.score), self.reduce),
            ActionBox.of(self.action_spec),
            self.horizon,
            seeds,
            self.planner,
            drawn.sequences,
        )
        return drawn.carried_out(found.actions[:, : self.execute])

    def config(self) -> dict[str, Any]:
        """Where the model is, and all settings."""
        return {
            "checkpoint": str(self.model.folder),
            "denoising_steps": self.model.denoising_steps,
            **self._settings(),
            "bases": self.proposals.config(),
        }

    def _settings(self) -> dict[str, Any]:
        """All settings but model and bases."""
        kind = next(name for name, cls in PLANNERS.items() if type(self.planner) is cls)
        return {
            "planner": {"kind": kind, **asdict(self.planner)},
            "horizon": self.horizon,
            "execute": self.execute,
            "score": self.score,
            "reduce": self.reduce,
            "micro_batch": self.micro_batch,
        }

    def identity(self) -> dict[str, Any]:
        """See `Policy.identity`; the model counts by its weights, wherever it is."""
        return planner_identity(self, self.model, self.proposals, self._settings())

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the policies that propose; the world model stays where it is."""
        return self.proposals.weights()

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> LatentPlannerPolicy:
        """Loads the world model, then builds the policy."""
        del action_spec, frame_spec  # the world model's card says both
        settings = dict(config["planner"])
        planner = PLANNERS[settings.pop("kind")](**settings)
        model = load_world_model(config["checkpoint"], denoising_steps=config["denoising_steps"])
        return cls(
            model,
            planner,  # pyright: ignore[reportArgumentType]
            bases=saved_bases(config["bases"], weights),
            **{
                name: config[name]
                for name in ("horizon", "execute", "score", "reduce", "micro_batch")
            },
        )
