"""The one batched engine under every imagined environment: B rows of one world model.

`WorldModelEnv` is a batch of one, `WorldModelVectorEnv` a batch of many. A row's noise, start and
instruction depend on its own generator only, never on the batch or on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from safetensors import SafetensorError

from wm_gym.checkpoints import Checkpoint
from wm_gym.dynamics.rollout import Rollout
from wm_gym.envs.actions import read_actions
from wm_gym.envs.engine_snapshot import EngineState, from_bytes, model_identity, to_bytes
from wm_gym.envs.episode import Episode, Transition
from wm_gym.envs.episode_clips import EpisodeClips
from wm_gym.envs.episode_starts import EpisodeStarts
from wm_gym.envs.info import IMAGINED, make_info, verdict
from wm_gym.envs.observations import dict_observation, observation_space
from wm_gym.envs.reward_registry import make_reward
from wm_gym.envs.rewards import Scores, Seen
from wm_gym.envs.settings import Settings, check_count, load_model
from wm_gym.errors import UserError
from wm_gym.instructions import as_text
from wm_gym.judges.verdicts import Clip
from wm_gym.plain_torch import plain_torch
from wm_gym.world_model import LatentWorldModel


class ImaginationError(UserError, RuntimeError):
    """The world model produced NaN or infinite latents."""


class Engine:
    """B rows of imagined episodes.

    Args:
        rows: B.
        settings: keyword arguments of the environment.
        model: an already loaded model, instead of the checkpoint the settings name.

    Raises:
        CheckpointError: if the checkpoint is not there.
        ValueError: if a setting does not fit the card.
    """

    @plain_torch()
    def __init__(
        self, rows: int, settings: Settings, model: LatentWorldModel | None = None
    ) -> None:
        self.rows = rows
        self.settings = settings
        self.model = model if model is not None else load_model(settings)
        self.spec = self.model.spec
        self.horizon = settings.horizon or self.spec.horizon
        if settings.surprise_penalty and self.model.denoising_steps < 2:
            raise UserError(
                f"surprise_penalty={settings.surprise_penalty} with one denoising step, which "
                "knows no surprise: make the environment with denoising_steps=2 or more, or "
                "without the penalty"
            )
        self.observation_space = observation_space(self.spec, settings.obs)
        self.action_space = self.spec.action.space()
        folder = self.model.folder
        self.reward = make_reward(
            settings.reward,
            None if folder is None else Checkpoint(folder, self.spec),
            settings.device,
            self.model,
        )
        self.clips: EpisodeClips | None = None  # what a judge will see
        if (frames := self.reward.clip_frames) is not None:
            self.clips = EpisodeClips(rows, self.horizon, frames, self.model.decode)
        judged_by = self.reward.name if self.reward.needs_goal else None
        self.starts = EpisodeStarts(self.spec, folder, settings.task, judged_by, self.reward.task)
        self.episodes = [Episode() for _ in range(rows)]
        self._rollout: Rollout | None = None
        self._latents: torch.Tensor = torch.empty(0)
        self._frames: np.ndarray | None = None
        self._known: dict[int, np.ndarray] = {}  # frames that need no decoding, by row

    @property
    def begun(self) -> bool:
        """Whether all rows have been reset at least once."""
        return self._rollout is not None

    # ---- beginning ---------------------------------------------------------------------------

    @plain_torch()
    def reset(
        self,
        rows: Sequence[int],
        generators: Sequence[np.random.Generator],
        options: Sequence[dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """Begin new episodes in some rows.

        Args:
            rows: which; all of them on the first call.
            generators: one per row of `rows`; the only source of randomness.
            options: one per row of `rows`, see `WorldModelEnv.reset`.

        Returns:
            One info per row of `rows`.

        Raises:
            ValueError: if an option does not fit; the engine is as it was.
        """
        plans = [self.starts.plan(g, o) for g, o in zip(generators, options, strict=True)]
        lengths = {len(plan.frames) for plan in plans}
        if len(lengths) > 1:
            raise UserError(
                f"histories of {sorted(lengths)} frames in one reset; give all rows as many"
            )
        frames = torch.from_numpy(np.stack([plan.frames for plan in plans]))
        if frames.shape[1] == 1:
            frames = frames[:, 0]
        actions = _stack_actions([plan.actions for plan in plans])
        seeds = [plan.seed for plan in plans]
        if len(rows) == self.rows:
            self._rollout = self.model.begin(
                frames, actions, seeds=seeds, cache=self.settings.cache
            )
            self._latents, self._frames, self._known = self._rollout.latents, None, {}
        elif self._rollout is None:
            raise UserError("some rows were reset before all were; call reset() without a mask")
        else:
            self._rollout.restart(rows, frames, seeds=seeds, actions=actions)
            # the other rows keep what they show, which after an error is not their newest
            self._latents = self._latents.clone()
            self._latents[list(rows)] = self._rollout.latents[list(rows)]
        for row, plan in zip(rows, plans, strict=True):
            self.episodes[row] = Episode(plan.instruction, plan.goal, plan.start, ended=False)
            self._show(row, plan.frames[-1])
            if self.clips is not None:
                self.clips.begin(row, plan.frames[-1])
        scores = self._at_start(rows)
        infos = []
        for number, (row, plan) in enumerate(zip(rows, plans, strict=True)):
            episode = self.episodes[row]
            episode.distance_m = float(scores.distance_m[number])
            episode.success_at_reset = bool(scores.success[number])
            infos.append(
                self._info(
                    row,
                    action_clipped=bool(plan.clipped),
                    distance=episode.distance_m,
                    success_probability=float(scores.score[number]),
                )
            )
        return infos

    def set_horizon(self, horizon: int | None) -> None:
        """Let episodes, those under way included, last so many steps; None for the card's.

        Raises:
            ValueError: if it is no number of steps, or a judge looks at frames that were chosen for
                another.
        """
        check_count("horizon", horizon)
        horizon = horizon or self.spec.horizon
        if self.clips is not None and horizon != self.horizon:
            raise UserError(
                f"horizon={horizon}: the judge of reward={self.reward.name!r} looks at frames of "
                f"episodes of {self.horizon} steps; make another environment with that horizon"
            )
        self.horizon = horizon

    @plain_torch()
    def instruct(self, instructions: Sequence[str]) -> None:
        """Give every row another instruction in the middle of its episode.

        Raises:
            InstructionError: if one is not understood; nothing changed.
        """
        instructions = [as_text(instruction) for instruction in instructions]
        goals = [self.starts.goal(instruction) for instruction in instructions]
        if not self.begun:
            raise ResetNeeded("call reset() before giving another instruction: none is under way")
        for row, episode in enumerate(self.episodes):
            episode.instruction, episode.goal, episode.recent = instructions[row], goals[row], []
        for episode, distance in zip(
            self.episodes, self._at_start(range(self.rows)).distance_m, strict=True
        ):
            episode.distance_m = float(distance)

    def _at_start(self, rows: Sequence[int]) -> Scores:
        """Whether the goals of some rows hold in what they show now, before any step."""
        goals = [goal for row in rows if (goal := self.episodes[row].goal) is not None]
        return self.reward.at_start(self._seen(list(rows)), goals)

    def _seen(self, rows: list[int]) -> Seen:
        """What a reward may look at of some rows."""

        def clips() -> list[Clip]:
            assert self.clips is not None
            if self.settings.obs != "latents":
                self.frames()  # so that a judge sees what the agent sees, to the bit
            return self.clips.clips(rows)

        instructions = [self.episodes[row].instruction for row in rows]
        return Seen(self._latents[rows], lambda: self.frames()[rows], clips, instructions)

    def _info(self, row: int, **known: Any) -> dict[str, Any]:
        """The info of a row, with what is known of its episode."""
        episode = self.episodes[row]
        task = "" if episode.goal is None else episode.goal.task
        told: dict[str, Any] = {
            "instruction": episode.instruction,
            "task": task,
            "start": episode.start or "",
            "success_at_reset": episode.success_at_reset,
        }
        return make_info(IMAGINED, **told, **known)

    # ---- stepping ----------------------------------------------------------------------------

    @plain_torch()
    def step(
        self, actions: Sequence[Any], *, idle: np.ndarray | None = None, strict: bool = False
    ) -> Transition:
        """Advance all rows by one action each.

        Args:
            actions: B actions (A,), physical units.
            idle: (B,) bool, rows whose action is ignored because they are reset next.
            strict: raise instead of ending a row with `info["error"]`.

        Returns:
            The transition; idle rows have reward 0 and an empty info.

        Raises:
            ValueError: if strict and an action has a wrong shape or is not finite; nothing changed.
            ImaginationError: if strict and the model diverged; reset to go on.
        """
        idle = np.zeros(self.rows, bool) if idle is None else idle
        if self._rollout is None:
            raise ResetNeeded("call reset() before step()")
        if idle.all():
            nothing = np.zeros(self.rows, bool)
            infos: list[dict[str, Any]] = [{} for _ in range(self.rows)]
            return Transition(np.zeros(self.rows), nothing, nothing.copy(), infos)
        physical, errors = read_actions(actions, idle, self.spec.action)
        if strict and errors:
            raise UserError(next(iter(errors.values())))
        bounded = np.clip(physical, self.action_space.low, self.action_space.high)
        before = (self._latents, self._frames, self._known)
        latents = self._rollout.step(torch.from_numpy(bounded))
        surprise = self._rollout.surprise.cpu().numpy()
        finite = torch.isfinite(latents).flatten(1).all(1).cpu().numpy()
        self._latents, self._frames, self._known = latents, None, {}
        for row in np.flatnonzero(~finite & ~idle).tolist():
            message = "the world model produced NaN or infinite latents; reset to go on"
            if strict:
                self.episodes[row].ended = True
                self._freeze(row, *before)
                raise ImaginationError(message)
            errors.setdefault(row, message)
        for row in errors:
            self._freeze(row, *before)
        return self._score(idle, errors, surprise, (physical != bounded).any(1))

    def _freeze(
        self,
        row: int,
        latents: torch.Tensor,
        frames: np.ndarray | None,
        known: dict[int, np.ndarray],
    ) -> None:
        """Show of a row what it showed before the step that failed."""
        self._latents = self._latents.clone()
        self._latents[row] = latents[row]
        if row in known:
            frame = known[row]
        elif frames is not None:
            frame = frames[row]
        else:
            frame = self.model.decode(latents[row : row + 1])[0].cpu().numpy()
        self._show(row, frame)

    def _score(
        self, idle: np.ndarray, errors: dict[int, str], surprise: np.ndarray, clipped: np.ndarray
    ) -> Transition:
        rewards = np.zeros(self.rows)
        terminated, truncated = np.zeros(self.rows, bool), np.zeros(self.rows, bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.rows)]
        live = [row for row in np.flatnonzero(~idle).tolist() if row not in errors]
        for row in live:
            self.episodes[row].steps += 1
            if self.clips is not None:
                self.clips.show(row, self.episodes[row].steps, self._latents[row])
        at_horizon = {row for row in live if self.episodes[row].steps >= self.horizon}
        judged = [row for row in live if row in at_horizon or not self.reward.judged_at_horizon]
        verdicts = self._verdicts(judged, rewards)
        for row in live:
            episode = self.episodes[row]
            scored = verdicts.get(row, (np.nan, False, np.nan, "", {}))
            score, success, distance_m, rationale, facts = scored
            done_by_judge = row in at_horizon and self.reward.judged_at_horizon
            terminated[row] = (success and not self.reward.judged_at_horizon) or done_by_judge
            truncated[row] = row in at_horizon and not terminated[row]
            episode.distance_m = distance_m
            episode.ended = bool(terminated[row] or truncated[row])
            if self.settings.surprise_penalty:
                rewards[row] -= self.settings.surprise_penalty * float(surprise[row])
            known: dict[str, Any] = {}
            if episode.ended and row in verdicts and self.reward.name != "none":
                known["judge"] = verdict(score, rationale, self.reward.name, facts)
            infos[row] = self._info(
                row,
                is_success=bool(success),
                action_clipped=bool(clipped[row]),
                surprise=float(surprise[row]),  # NaN at one denoising step
                distance=float(distance_m),
                success_probability=float(score) if self.clips is None else np.nan,
                **known,
            )
        for row, message in errors.items():
            truncated[row] = self.episodes[row].ended = True
            infos[row] = self._info(row, error=message)
        return Transition(rewards, terminated, truncated, infos)

    def _verdicts(self, rows: list[int], rewards: np.ndarray) -> dict[int, tuple[Any, ...]]:
        """Judge rows and write their rewards; the columns of `Scores` by row."""
        if not rows:
            return {}
        if self.reward.judged_at_horizon:
            for row in rows:  # whatever is answered, the episode is over
                self.episodes[row].ended = True
        goals = [goal for row in rows if (goal := self.episodes[row].goal) is not None]
        recent = [self.episodes[row].recent for row in rows]
        scores = self.reward.score(self._seen(rows), goals, recent)
        for row, kept in zip(rows, scores.recent or [[] for _ in rows], strict=True):
            self.episodes[row].recent = kept
        previous = np.array([self.episodes[row].distance_m for row in rows])
        rewards[rows] = self.reward.value(scores, previous)
        return dict(zip(rows, scores.by_row(), strict=True))

    # ---- showing -----------------------------------------------------------------------------

    def _show(self, row: int, frame: np.ndarray) -> None:
        self._known[row] = frame
        if self._frames is not None:
            self._frames[row] = frame

    @plain_torch()
    def frames(self) -> np.ndarray:
        """Newest frames (B, H, W, 3) uint8, decoded once, when first asked for. Do not modify."""
        if self._rollout is None:
            raise UserError("there is no frame yet; call reset() first")
        frames = self._frames
        if frames is None:
            if len(self._known) == self.rows:
                frames = np.stack([self._known[row] for row in range(self.rows)])
            else:
                frames = self._rollout.frames().cpu().numpy().copy()
                for row, frame in self._known.items():
                    frames[row] = frame
                if self.clips is not None:
                    for row in set(range(self.rows)) - set(self._known):
                        self.clips.show(row, self.episodes[row].steps, frames[row])
            self._frames = frames
        return frames

    def latents(self) -> np.ndarray:
        """Newest normalised latents (B, h, w, D) float32, a copy."""
        return self._latents.float().cpu().numpy().copy()

    def observation(self, row: int) -> Any:
        """What one row observes, a copy."""
        if self.settings.obs == "latents":
            return self._latents[row].float().cpu().numpy().copy()
        pixels = self.frames()[row].copy()
        if self.settings.obs == "pixels":
            return pixels
        episode = self.episodes[row]
        time_left = 1 - episode.steps / self.horizon
        return dict_observation(pixels, episode.goal, time_left, self.spec)

    # ---- saving ------------------------------------------------------------------------------

    def snapshot(self, generators: Sequence[np.random.Generator]) -> bytes:
        """Everything the future depends on, the rows' generators included."""
        if self._rollout is None:
            raise UserError("nothing to save yet; call reset() first")
        return to_bytes(
            EngineState(
                model_identity(self.model),
                self._rollout.snapshot(),
                [episode.to_dict() for episode in self.episodes],
                [dict(generator.bit_generator.state) for generator in generators],
                self._latents.cpu().numpy(),
                self._frames,
                self._known,
                None if self.clips is None else self.clips.shown,
            )
        )

    @plain_torch()
    def restore(self, content: bytes, generators: Sequence[np.random.Generator]) -> None:
        """Resume from `snapshot`: the continuation is the same bit for bit.

        Args:
            content: result of `snapshot` of an engine with as many rows and the same model.
            generators: the rows' generators, whose states are set.

        Raises:
            ValueError: if the content is of something else; the engine is as it was.
        """
        state = from_bytes(content, model_identity(self.model), self.rows)
        try:  # everything that can fail comes before anything changes
            episodes = [
                Episode(**episode, goal=self.starts.goal(episode["instruction"]))
                for episode in state.episodes
            ]
            rollout = Rollout.restore(self.model, state.rollout)
            self._check_shown(state, tuple(rollout.latents.shape))
            for generator, saved in zip(generators, state.generators, strict=True):
                type(generator.bit_generator)().state = saved
        except (ArithmeticError, AttributeError, LookupError, SafetensorError, TypeError) as error:
            raise UserError(
                f"the snapshot is damaged ({type(error).__name__}: {error}); take another"
            ) from error
        latents = torch.from_numpy(state.latents).to(self.model.device)
        if self.clips is not None:
            self.clips.restore(state.clips, [episode.steps for episode in episodes])
        self._rollout, self._latents, self.episodes = rollout, latents, episodes
        self._frames, self._known = state.frames, state.known
        for generator, saved in zip(generators, state.generators, strict=True):
            generator.bit_generator.state = saved

    def _check_shown(self, state: EngineState, latents: tuple[int, ...]) -> None:
        """Refuse a snapshot whose arrays do not belong together."""
        pixels = (self.spec.frame.height, self.spec.frame.width, 3)
        if latents[0] != self.rows or state.latents.shape != latents:
            raise UserError(
                f"the snapshot is damaged: latents of shape {state.latents.shape} beside a rollout "
                f"of {latents}, expected {self.rows} rows of the same; take another"
            )
        shown = [] if state.frames is None else [(self.rows, state.frames)]
        for rows, frames in [*shown, *((None, frame) for frame in state.known.values())]:
            expected = pixels if rows is None else (rows, *pixels)
            if frames.shape != expected or frames.dtype != np.uint8:
                raise UserError(
                    f"the snapshot is damaged: frames of shape {frames.shape} and {frames.dtype}, "
                    f"expected {expected} and uint8; take another"
                )
        if wrong := [row for row in state.known if not 0 <= row < self.rows]:
            raise UserError(f"the snapshot is damaged: frames of rows {wrong}; take another")


def _stack_actions(actions: Sequence[np.ndarray | None]) -> torch.Tensor | None:
    given = [a for a in actions if a is not None]
    if not given:
        return None
    if len(given) != len(actions):
        raise UserError("some rows have 'actions' and some have not; give them to all or none")
    return torch.from_numpy(np.stack(given))
