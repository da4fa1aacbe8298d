"""A planner as a policy: plan with a semantic world model, execute a part, plan again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from wm_gym.checkpoints import CheckpointError
from wm_gym.domains import LANGTABLE
from wm_gym.errors import UserError
from wm_gym.instructions import InstructionSet
from wm_gym.plain_torch import plain_torch
from wm_gym.planning.planner import PLANNERS, PlannerConfig
from wm_gym.planning.subgoals import SubgoalPlanner
from wm_gym.policies.base import Observation, Policy
from wm_gym.policies.proposals import Proposals, plan_seed, planner_identity, saved_bases
from wm_gym.semantic.directed_tasks import DIRECTED_MULTI_STEP, directed_task
from wm_gym.semantic.question_sets import QUESTION_SETS
from wm_gym.semantic.rephrase import rephrased
from wm_gym.semantic.tasks import LANGTABLE_MULTI_STEP, SemanticTask, semantic_task
from wm_gym.semantic.value import ValueConfig
from wm_gym.semantic.world_model import SemanticWorldModel, load_semantic_model

if TYPE_CHECKING:
    from wm_gym.policies.chunks import Chunks
    from wm_gym.spec import ActionSpec, FrameSpec


class PlannerPolicy(Policy):
    """Receding horizon: plans n actions, executes m of them, looks again.

    An instruction is one of the card's tasks in words, or `MS1` to `MS4`. Everything random is a
    function of the row's seed and step.

    Args:
        model: semantic world model to plan with.
        planner: which planner, and its settings.
        value: how answers become a value.
        horizon: actions n of a plan.
        execute: actions m that are carried out before the next one.
        order: which subgoal comes next, see `SubgoalPlanner`.
        bases: policies whose chunks are the proposals that planning starts from; longer chunks are
            cut, shorter ones go on with their last action.
        phrasing: which wording every question of the task is asked in, 0 to 9 (8 and 9 were never
            trained on); None leaves the task's own.
        done_threshold: probability above which an answer about the present counts as given; None
            is the card's.
        stays_done: whether a subgoal that held once is done for good.
        directed: ask for a move in a direction, too, in tasks of LangTable that have two blocks
            (`directed_task`).

    Raises:
        IncompatiblePolicyError: if one of them speaks another action language.
        ValueError: if a number is out of its range, or `directed` is asked of another simulator's
            model.
    """

    kind: ClassVar[str] = "planner"

    def __init__(
        self,
        model: SemanticWorldModel,
        planner: PlannerConfig,
        value: ValueConfig | None = None,
        *,
        horizon: int = 16,
        execute: int = 4,
        order: Literal["given", "by_value"] = "given",
        bases: Sequence[Policy] = (),
        phrasing: int | None = None,
        done_threshold: float | None = None,
        stays_done: bool = True,
        directed: bool = False,
    ) -> None:
        frames = next((base.frame_spec for base in bases if base.frame_spec is not None), None)
        super().__init__(model.spec.action, frames)
        if not 1 <= execute <= horizon <= model.spec.horizon:
            raise UserError(
                f"execute={execute} must be 1 to horizon={horizon}, and that at most the "
                f"{model.spec.horizon} actions that {model.spec.name} was trained with"
            )
        if directed and model.spec.twin != LANGTABLE.twin:
            raise UserError(
                f"directed=True: {model.spec.name} is of {model.spec.twin}, and only tasks of "
                f"{LANGTABLE.twin} are stated with directions; leave it out"
            )
        value = value or ValueConfig()
        self.planner = SubgoalPlanner(
            model, planner, value, horizon, done_threshold, order, stays_done
        )
        self.execute = execute
        self.phrasing = phrasing
        self.directed = directed
        self.proposals = Proposals(bases, self.action_spec, self.frame_spec)
        self.frame_history = self.proposals.frame_history
        self._tasks: dict[int, SemanticTask] = {}
        self._seeds: dict[int, int] = {}
        self._done: dict[int, list[bool]] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes; see `Policy.reset`.

        Raises:
            InstructionError: if an instruction is none of the card's tasks.
            QuestionError: if its questions have no such phrasing.
        """
        tasks = [self._task(instruction) for instruction in instructions]  # before anything changes
        for row, seed, task in zip(rows, seeds, tasks, strict=True):
            self._tasks[int(row)], self._seeds[int(row)] = task, int(seed)
            self._done[int(row)] = self.planner.begin([task])[0]
        self.proposals.reset(rows, seeds, instructions)

    def _task(self, instruction: str) -> SemanticTask:
        spec = self.planner.model.spec
        several = DIRECTED_MULTI_STEP if self.directed else LANGTABLE_MULTI_STEP
        if spec.twin == LANGTABLE.twin and instruction in several:
            task = several[instruction]
        else:
            goal = InstructionSet(spec.tasks, spec.objects).parse(instruction)
            stated = directed_task if self.directed else partial(semantic_task, spec.twin)
            task = stated(goal.task, goal.objects)
        if self.phrasing is None:
            return task
        assert spec.twin is not None  # or there would be no task
        return rephrased(task, QUESTION_SETS[spec.twin], self.phrasing)

    @plain_torch()
    def act(self, observation: Observation) -> Chunks:
        """The first m actions (B, m, A) of each row's new plan.

        Raises:
            ValueError: if what is observed are no pictures.
        """
        if observation.frames.dtype != np.uint8:
            raise UserError(
                f"a planner looks at pictures (B, H, W, 3) uint8 and was given observations of "
                f"dtype {observation.frames.dtype}; run it in a simulator or a latent world model, "
                "whose pictures change. In a semantic environment plan with wm_gym.planning"
            )
        drawn = self.proposals.draw(observation, self.planner.horizon)
        rows = [int(row) for row in observation.rows]
        steps = zip(rows, observation.steps.tolist(), strict=True)
        found = self.planner.next(
            torch.from_numpy(np.ascontiguousarray(observation.frames)),
            [self._tasks[row] for row in rows],
            [self._done[row] for row in rows],
            [plan_seed(self._seeds[row], step) for row, step in steps],
            drawn.sequences,
        )
        for row, done in zip(rows, found.done, strict=True):
            self._done[row] = done
        return drawn.carried_out(found.plan.actions[:, : self.execute])

    def config(self) -> dict[str, Any]:
        """Where the model is, and all settings.

        Raises:
            ValueError: if the model has no folder to load it from.
        """
        model = self.planner.model
        if model.folder is None:
            raise UserError(
                f"{model.spec.name} is in no folder, so a saved policy could not find it; save it "
                "with save_semantic_model and load it from there"
            )
        return {
            "checkpoint": str(model.folder.resolve()),
            "weights_sha256": dict(model.spec.weights_sha256),
            **self._settings(),
            "bases": self.proposals.config(),
        }

    def _settings(self) -> dict[str, Any]:
        """All settings but model and bases."""
        kind = next(n for n, cls in PLANNERS.items() if type(self.planner.planner) is cls)
        return {
            "planner": {"kind": kind, **asdict(self.planner.planner)},
            "value": asdict(self.planner.value),
            "horizon": self.planner.horizon,
            "execute": self.execute,
            "order": self.planner.order,
            "phrasing": self.phrasing,
            "done_threshold": self.planner.threshold,
            "stays_done": self.planner.stays_done,
            "directed": self.directed,
        }

    def identity(self) -> dict[str, Any]:
        """See `Policy.identity`; the model counts by its weights, wherever it is."""
        return planner_identity(self, self.planner.model, self.proposals, self._settings())

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
    ) -> PlannerPolicy:
        """Loads the world model, then builds the policy.

        Raises:
            CheckpointError: if it is not there, or not the one that the policy was saved with.
        """
        del action_spec, frame_spec  # the world model's card says both
        settings = dict(config["planner"])
        model = load_semantic_model(config["checkpoint"])
        saved = config.get("weights_sha256", model.spec.weights_sha256)  # older ones do not say
        if saved != model.spec.weights_sha256:
            raise CheckpointError(
                f"{config['checkpoint']} holds other weights than when this policy was saved; put "
                "the model back, or save the policy again"
            )
        return cls(
            model,
            PLANNERS[settings.pop("kind")](**settings),
            ValueConfig(**config["value"]),
            horizon=config["horizon"],
            execute=config["execute"],
            order=config["order"],
            bases=saved_bases(config["bases"], weights),
            # policies saved before there were these
            phrasing=config.get("phrasing"),
            done_threshold=config.get("done_threshold"),
            stays_done=config.get("stays_done", True),
            directed=config.get("directed", False),
        )
