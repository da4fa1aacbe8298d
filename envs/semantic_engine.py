"""The engine under semantic environments: an open-loop planning problem, scored by answers.

No frame is generated. An episode has one picture, its start; actions are collected, and after each
of them the model says how likely the task's desired answers are by now.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from wm_gym.checkpoints import absolute_checkpoint
from wm_gym.devices import check_device
from wm_gym.envs.actions import read_actions
from wm_gym.envs.engine_snapshot import UNREADABLE_SNAPSHOT
from wm_gym.envs.episode import Transition
from wm_gym.envs.episode_starts import EpisodeStarts
from wm_gym.envs.info import SEMANTIC, make_info, verdict
from wm_gym.envs.registration import MODEL_IDS, SEMANTIC_MODELS
from wm_gym.envs.settings import announce
from wm_gym.errors import UserError
from wm_gym.instructions import Goal
from wm_gym.plain_torch import plain_torch
from wm_gym.semantic.tasks import Subgoal, semantic_task
from wm_gym.semantic.value import ValueConfig, value_of
from wm_gym.semantic.world_model import SemanticWorldModel, View, load_semantic_model

JUDGE = "semantic"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class SemanticSettings:
    """Keyword arguments of the semantic environments; plain strings and numbers.

    Attributes:
        env_id: registered id.
        checkpoint: "embedded", a folder, or "hf://org/repo[@revision][/folder]".
        task: task of the card that random starts are drawn from, or "any".
        horizon: actions per episode; the card's by default, and at most that.
        threshold: probability that every answer that ends a task must exceed; the card's by
            default.
        device: torch device.
        dtype: "float32" or "bfloat16".
    """

    env_id: str = "WM-LangTable-SWM-v0"
    checkpoint: str = "embedded"
    task: str = "any"
    horizon: int | None = None
    threshold: float | None = None
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Check what can be checked without a card."""
        choices: tuple[tuple[str, Iterable[str]], ...] = (
            ("env_id", SEMANTIC_MODELS), ("dtype", _DTYPES),
        )  # fmt: skip
        for name, known in choices:
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is unknown; expected one of "
                    f"{', '.join(map(repr, known))}"
                )
        if self.horizon is not None and (type(self.horizon) is not int or self.horizon < 1):
            raise UserError(f"horizon={self.horizon!r}; expected a whole number of at least 1")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UserError(f"threshold={self.threshold!r} must be between 0 and 1")
        check_device(self.device)
        object.__setattr__(self, "checkpoint", absolute_checkpoint(self.checkpoint))


@dataclass
class SemanticEpisode:
    """What the engine remembers of one row."""

    frame: np.ndarray
    actions: np.ndarray
    instruction: str = ""
    goal: Goal | None = None
    start: str | None = None
    steps: int = 0
    ended: bool = True
    value: float = 0.0
    success_at_reset: bool = False
    subgoal: Subgoal | None = field(default=None, repr=False)


class SemanticEngine:
    """B rows of open-loop episodes of one semantic world model; the interface is `Engine`'s.

    Args:
        rows: B.
        settings: keyword arguments of the environment.
        model: an already loaded model, instead of the checkpoint the settings name.

    Raises:
        CheckpointError: if the checkpoint is not there.
        ValueError: if a setting does not fit the card.
    """

    def __init__(
        self, rows: int, settings: SemanticSettings, model: SemanticWorldModel | None = None
    ) -> None:
        self.rows, self.settings = rows, settings
        self.model = model or load_semantic_model(
            settings.checkpoint,
            embedded=SEMANTIC_MODELS[settings.env_id],
            env_id=settings.env_id,
            device=settings.device,
            dtype=_DTYPES[settings.dtype],
        )
        self.spec = self.model.spec
        twin = MODEL_IDS[settings.env_id].twin
        if model is None and self.spec.twin not in (twin, None):
            raise UserError(
                f"{settings.env_id} is of {twin}, and {self.spec.name} is a model of "
                f"{self.spec.twin}; make the environment of that simulator"
            )
        if self.spec.blind != "none":
            raise UserError(
                f"{self.spec.name} was trained without {self.spec.blind}, as a control to compare "
                "with; use a model that was not"
            )
        if model is None and settings.checkpoint == "embedded":
            announce(settings.env_id, self.spec)
        self.horizon = settings.horizon or self.spec.horizon
        if self.horizon > self.spec.horizon:
            raise UserError(
                f"horizon={self.horizon}: {self.spec.name} was trained with at most "
                f"{self.spec.horizon} actions"
            )
        self.threshold = settings.threshold or self.spec.answer_threshold
        self.action_space = self.spec.action.space()
        low, high = (np.tile(b, (self.horizon, 1)) for b in _bounds(self.action_space))
        size = (self.spec.frame.height, self.spec.frame.width, 3)
        self.observation_space = spaces.Dict(
            {
                "frame": spaces.Box(0, 255, size, np.uint8),
                "actions": spaces.Box(np.minimum(low, 0), np.maximum(high, 0), dtype=np.float32),
                "step": spaces.Discrete(self.horizon + 1),
            }
        )
        self.starts = EpisodeStarts(self.spec, self.model.folder, settings.task, JUDGE)
        nothing = np.zeros((self.horizon, self.spec.action.size), np.float32)
        self.episodes = [
            SemanticEpisode(np.zeros(size, np.uint8), nothing.copy()) for _ in range(rows)
        ]
        self.begun = False
        self._view: View | None = None

    @plain_torch()
    def reset(
        self,
        rows: Sequence[int],
        generators: Sequence[np.random.Generator],
        options: Sequence[dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """Begin new episodes in some rows, see `Engine.reset`.

        Raises:
            ValueError: if an option does not fit; the engine is as it was.
        """
        if not self.begun and len(rows) < self.rows:
            raise UserError("some rows were reset before all were; call reset() without a mask")
        plans = [self.starts.plan(g, o) for g, o in zip(generators, options, strict=True)]
        if any(len(plan.frames) > 1 for plan in plans):
            raise UserError(
                "options['frames'] is a history; a semantic world model begins from one picture "
                "(H, W, 3)"
            )
        subgoals = [self._subgoal(plan.goal) for plan in plans]
        for row, plan, subgoal in zip(rows, plans, subgoals, strict=True):
            self.episodes[row] = SemanticEpisode(
                frame=plan.frames[0],
                actions=np.zeros((self.horizon, self.spec.action.size), np.float32),
                instruction=plan.instruction,
                goal=plan.goal,
                start=plan.start,
                ended=False,
                subgoal=subgoal,
            )
        self.begun, self._view = True, None
        infos = []
        for row, (value, held, answers) in zip(rows, self._judge(list(rows)), strict=True):
            episode = self.episodes[row]
            episode.value = value
            episode.success_at_reset = held
            infos.append(self._info(row, value=value, answers=_told(answers)))
        return infos

    def _info(self, row: int, **known: Any) -> dict[str, Any]:
        """The info of a row, with what is known of its episode."""
        episode = self.episodes[row]
        told: dict[str, Any] = {
            "instruction": episode.instruction,
            "task": "" if episode.goal is None else episode.goal.task,
            "start": episode.start or "",
            "success_at_reset": episode.success_at_reset,
        }
        return make_info(SEMANTIC, **told, **known)

    def _subgoal(self, goal: Goal | None) -> Subgoal:
        assert goal is not None  # a judged environment always has an instruction
        return semantic_task(self.spec.twin, goal.task, goal.objects).subgoals[-1]

    @plain_torch()
    def instruct(self, instructions: Sequence[str]) -> None:
        """Give every row another instruction in the middle of its episode.

        Raises:
            InstructionError: if one is not understood; nothing changed.
        """
        goals = [self.starts.goal(instruction) for instruction in instructions]
        if not self.begun:
            raise ResetNeeded("call reset() before giving another instruction: none is under way")
        subgoals = [self._subgoal(goal) for goal in goals]
        for row, episode in enumerate(self.episodes):
            episode.instruction, episode.goal = instructions[row], goals[row]
            episode.subgoal = subgoals[row]
        for episode, (value, _, _) in zip(
            self.episodes, self._judge(list(range(self.rows))), strict=True
        ):
            episode.value = value

    @plain_torch()
    def step(
        self, actions: Sequence[Any], *, idle: np.ndarray | None = None, strict: bool = False
    ) -> Transition:
        """Add one action to every row, see `Engine.step`."""
        idle = np.zeros(self.rows, bool) if idle is None else idle
        if not self.begun:
            raise ResetNeeded("call reset() before step()")
        physical, errors = read_actions(actions, idle, self.spec.action)
        if strict and errors:
            raise UserError(next(iter(errors.values())))
        low, high = _bounds(self.action_space)
        bounded = np.clip(physical, low, high)
        rewards = np.zeros(self.rows)
        terminated, truncated = np.zeros(self.rows, bool), np.zeros(self.rows, bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.rows)]
        live = [row for row in np.flatnonzero(~idle).tolist() if row not in errors]
        for row in live:
            episode = self.episodes[row]
            episode.actions[episode.steps] = bounded[row]
            episode.steps += 1
        for row, (value, success, answers) in zip(live, self._judge(live), strict=True):
            episode = self.episodes[row]
            rewards[row], episode.value = value - episode.value, value
            terminated[row] = episode.ended = success or episode.steps >= self.horizon
            known: dict[str, Any] = {}
            if episode.ended:
                said = "; ".join(f"{question} {p:.2f}" for question, p in answers.items())
                known["judge"] = verdict(value, said, JUDGE, {})
            infos[row] = self._info(
                row,
                is_success=success,
                action_clipped=bool((physical[row] != bounded[row]).any()),
                value=value,
                answers=_told(answers),
                **known,
            )
        for row, message in errors.items():
            truncated[row] = self.episodes[row].ended = True
            infos[row] = self._info(row, error=message)
        return Transition(rewards, terminated, truncated, infos)

    def _judge(self, rows: list[int]) -> list[tuple[float, bool, dict[str, float]]]:
        """Value (Eq. 1), whether the task is done, and p of each desired answer, by row."""
        if not rows:
            return []
        if self._view is None:
            frames = np.stack([episode.frame for episode in self.episodes])
            self._view = self.model.look(torch.from_numpy(frames))
        episodes = [self.episodes[row] for row in rows]
        steps = [(e, e.subgoal) for e in episodes if e.subgoal is not None]
        asked = self.model.ask(
            *[[(a.question, e.steps) for a in (*s.answers, *s.done)] for e, s in steps]
        )
        actions = torch.from_numpy(np.stack([episode.actions for episode in episodes]))
        with torch.no_grad():
            found = self._view.probabilities(actions, asked, torch.tensor(rows)).cpu()
        judged = []
        for (_, subgoal), p in zip(steps, found, strict=True):
            wanted = (*subgoal.answers, *subgoal.done)
            chosen = [float(p[k, int(a.answer == "no")]) for k, a in enumerate(wanted)]
            count = len(subgoal.answers)
            grid = p[:count, None]
            value = float(value_of(grid, subgoal.answers, 1, ValueConfig(0)))
            answers = {f"{a.question} {a.answer}": c for a, c in zip(wanted, chosen, strict=True)}
            judged.append((value, min(chosen[count:]) > self.threshold, answers))
        return judged

    def frames(self) -> np.ndarray:
        """The start pictures (B, H, W, 3) uint8; no other is ever made."""
        if not self.begun:
            raise UserError("there is no frame yet; call reset() first")
        return np.stack([episode.frame for episode in self.episodes])

    def observation(self, row: int) -> dict[str, Any]:
        """What one row observes, a copy."""
        episode = self.episodes[row]
        return {
            "frame": episode.frame.copy(),
            "actions": episode.actions.copy(),
            "step": np.int64(episode.steps),
        }

    def snapshot(self, generators: Sequence[np.random.Generator]) -> bytes:
        """Everything the future depends on, the rows' generators included."""
        if not self.begun:
            raise UserError("nothing to save yet; call reset() first")
        header = {
            "model": self._identity(),
            "episodes": [{name: getattr(e, name) for name in _PLAIN} for e in self.episodes],
            "generators": [dict(generator.bit_generator.state) for generator in generators],
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            frames=self.frames(),
            actions=np.stack([episode.actions for episode in self.episodes]),
        )
        return buffer.getvalue()

    @plain_torch()
    def restore(self, content: bytes, generators: Sequence[np.random.Generator]) -> None:
        """Resume from `snapshot`: the continuation is the same bit for bit.

        Raises:
            ValueError: if the content is of something else; the engine is as it was.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                header = json.loads(stored["header"].tobytes())
                frames, actions = stored["frames"], stored["actions"]
            found = (header["model"], len(frames), actions.shape[1])
        except UNREADABLE_SNAPSHOT as error:
            raise UserError(
                f"the content is no snapshot of a semantic environment ({error})"
            ) from error
        if found != (self._identity(), self.rows, self.horizon):
            raise UserError(
                f"the snapshot is of another model, number of rows or horizon: {found[1]} rows and "
                f"horizon {found[2]}; here are {self.rows} rows and horizon {self.horizon}"
            )
        try:
            episodes = [
                self._restored(frame, taken, plain)
                for frame, taken, plain in zip(frames, actions, header["episodes"], strict=True)
            ]
            pairs = list(zip(generators, header["generators"], strict=True))
            for generator, saved in pairs:
                type(generator.bit_generator)().state = saved  # fits, before anything changes
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"the snapshot is damaged ({error}); take another") from error
        for generator, saved in pairs:
            generator.bit_generator.state = saved
        self.episodes, self.begun, self._view = episodes, True, None

    def _restored(
        self, frame: np.ndarray, actions: np.ndarray, plain: dict[str, Any]
    ) -> SemanticEpisode:
        """An episode of a snapshot, checked."""
        now = self.episodes[0]
        if (frame.shape, frame.dtype) != (now.frame.shape, now.frame.dtype):
            raise UserError(f"frames of shape {frame.shape} and dtype {frame.dtype}")
        if (actions.shape, actions.dtype) != (now.actions.shape, now.actions.dtype):
            raise UserError(f"actions of shape {actions.shape} and dtype {actions.dtype}")
        if not np.isfinite(actions).all() or not math.isfinite(plain["value"]):
            raise UserError("actions or a value that are not finite")
        if type(plain["steps"]) is not int or not 0 <= plain["steps"] <= self.horizon:
            raise UserError(f"steps={plain['steps']!r} of an episode of {self.horizon}")
        goal = self.starts.goal(plain["instruction"])
        return SemanticEpisode(frame, actions, goal=goal, subgoal=self._subgoal(goal), **plain)

    def _identity(self) -> dict[str, Any]:
        return {"name": self.spec.name, "weights_sha256": dict(self.spec.weights_sha256)}


_PLAIN = ("instruction", "start", "steps", "ended", "value", "success_at_reset")


def _told(answers: dict[str, float]) -> str:
    """Probabilities of the desired answers as JSON text, whose keys may differ from row to row."""
    return json.dumps(answers, ensure_ascii=False)


def _bounds(box: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    return box.low, box.high
