"""Agents of Stable-Baselines3 learn for a number of imagined steps, and go on after a kill."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from tqdm import tqdm

from wm_gym.checkpoints import write_atomically
from wm_gym.envs.info import UNKNOWN
from wm_gym.policies.sb3.agent_zip import description_file, save_agent
from wm_gym.run_lock import one_writer
from wm_gym.run_settings import check_run_settings, plain_settings

PROGRESS = "progress.json"
REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        settings: what makes it this training; another one is not continued.
        steps: imagined steps made.
        updates: SB3's count of updates.
        history: by save, `steps`, `success`, `length` and `surprise` of the last 100 episodes.
    """

    settings: dict[str, Any]
    steps: int = 0
    updates: int = 0
    history: list[dict[str, float | None]] = field(default_factory=list)


def learn(
    agent: BaseAlgorithm,
    folder: Path,
    steps: int,
    settings: dict[str, Any],
    *,
    save_every: int = 5000,
    description: str = "learning",
) -> Progress:
    """Let an agent learn until it has made so many steps, first going on where a kill stopped it.

    Weights, optimiser states and an off-policy agent's replay buffer are saved; its last episodes
    are begun anew, so an interrupted training is as good as another but not the same.

    Args:
        agent: freshly made; its environment should be in a `VecMonitor`.
        folder: where to save; the newest save is what `progress.json` names.
        steps: imagined steps in all.
        settings: what makes it this training, JSON.
        save_every: steps between saves.
        description: of the progress bar.

    Returns:
        The progress at the end.

    Raises:
        RunSettingsError: if the folder holds a training with other settings.
        InUseError: if another process trains in it.
    """
    settings = plain_settings(settings)
    with one_writer(folder):
        return _learn(agent, folder, steps, settings, save_every, description)


def _learn(
    agent: BaseAlgorithm,
    folder: Path,
    steps: int,
    settings: dict[str, Any],
    save_every: int,
    description: str,
) -> Progress:
    progress = _resume(agent, folder, settings) or Progress(settings)
    remaining = steps - progress.steps
    if remaining > 0:
        with tqdm(total=steps, initial=progress.steps, desc=description, unit="step") as bar:
            saver = _Saver(folder, progress, save_every, bar)
            agent.learn(remaining, saver, reset_num_timesteps=False, log_interval=1)
            saver.save()
    return progress


def agent_file(folder: Path, steps: int) -> Path:
    """The .zip that was saved after so many steps."""
    return folder / f"agent_{steps}.zip"


class _Saver(BaseCallback):
    """Moves the bar, and saves every so many steps."""

    def __init__(self, folder: Path, progress: Progress, save_every: int, bar: tqdm) -> None:
        super().__init__()
        self.folder, self.progress, self.save_every, self.bar = folder, progress, save_every, bar
        self.surprises: list[float] = []

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        known = [info.get("surprise", UNKNOWN) for info in infos]
        self.surprises += [float(value) for value in known if value != UNKNOWN]
        self.bar.update(self.num_timesteps - self.bar.n)
        if self.num_timesteps - self.progress.steps >= self.save_every:
            self.save()
        return True

    def save(self) -> None:
        """Save agent, replay buffer and progress; the progress last, as it names the others."""
        agent, progress, before = self.model, self.progress, self.progress.steps
        steps = agent.num_timesteps
        if steps == before:
            return
        episodes = list(agent.ep_info_buffer or [])
        row: dict[str, float | None] = {
            "steps": steps,
            "success": _mean(list(agent.ep_success_buffer or [])),
            "length": _mean([episode["l"] for episode in episodes]),
            "surprise": _mean(self.surprises),
        }
        if row["surprise"] is not None:
            self.logger.record("rollout/surprise", row["surprise"])
        self.bar.set_postfix_str(f"imagined success {row['success'] or 0:.2f}")
        self.surprises = []
        save_agent(agent, agent_file(self.folder, steps))
        buffer = _replay_buffer(agent)
        if buffer is not None:
            _write_replay(buffer, _replay_file(self.folder, steps))
        progress.steps, progress.updates = steps, agent._n_updates
        progress.history.append(row)
        content = json.dumps(asdict(progress), indent=1) + "\n"
        write_atomically(self.folder / PROGRESS, content.encode())
        if before:
            old = agent_file(self.folder, before)
            for path in (old, description_file(old), _replay_file(self.folder, before)):
                path.unlink(missing_ok=True)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _resume(agent: BaseAlgorithm, folder: Path, settings: dict[str, Any]) -> Progress | None:
    path = folder / PROGRESS
    if not path.exists():
        return None
    progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
    check_run_settings(folder, progress.settings, settings)
    # load_data=False: tensors alone are read, by torch's weights_only; nothing is unpickled
    saved = agent_file(folder, progress.steps)
    _, parameters, variables = load_from_zip_file(saved, device=agent.device, load_data=False)
    agent.set_parameters(parameters, device=agent.device)
    for name, value in (variables or {}).items():  # SAC's entropy coefficient
        with torch.no_grad():
            getattr(agent, name).copy_(value)
    buffer = _replay_buffer(agent)
    if buffer is not None:
        _read_replay(buffer, _replay_file(folder, progress.steps))
    agent.num_timesteps, agent._n_updates = progress.steps, progress.updates
    assert agent.env is not None
    agent.env.seed((agent.seed or 0) + progress.steps)  # other episodes than those seen already
    return progress


def _replay_buffer(agent: BaseAlgorithm) -> ReplayBuffer | None:
    return agent.replay_buffer if isinstance(agent, OffPolicyAlgorithm) else None


def _replay_file(folder: Path, steps: int) -> Path:
    return folder / f"replay_{steps}.npz"


def _write_replay(buffer: ReplayBuffer, path: Path) -> None:
    import io

    used = buffer.buffer_size if buffer.full else buffer.pos
    stored = io.BytesIO()
    arrays = {name: getattr(buffer, name)[:used] for name in REPLAY}
    np.savez(stored, pos=buffer.pos, full=buffer.full, **arrays)
    write_atomically(path, stored.getvalue())


def _read_replay(buffer: ReplayBuffer, path: Path) -> None:
    with np.load(path, allow_pickle=False) as stored:
        for name in REPLAY:
            getattr(buffer, name)[: len(stored[name])] = stored[name]
        buffer.pos, buffer.full = int(stored["pos"]), bool(stored["full"])
