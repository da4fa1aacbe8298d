"""OpenVLA as a policy: asks a server, since its code needs another transformers than ours.

What its seven tokens mean is written down here as functions; the server does the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wm_gym.errors import UserError
from wm_gym.policies.act_client import ActClient
from wm_gym.policies.act_server import check_images_matter
from wm_gym.policies.base import Observation, Policy, PolicyError, policy_identity
from wm_gym.policies.chunks import Chunks, join_chunks
from wm_gym.spec import ActionSpec, FrameSpec

if TYPE_CHECKING:
    import torch

EMPTY_TOKEN = 29871
"""The token that must end the prompt; OpenVLA was trained with it and its tokeniser may drop it."""
BINS = 256
VOCABULARY = 32000


@dataclass(frozen=True)
class ActionStatistics:
    """Quantiles by which a dataset's actions were scaled to ±1.

    Attributes:
        low: 1 % quantile of each component.
        high: 99 % quantile.
        scaled: which components were scaled; the others are as they were recorded.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    scaled: tuple[bool, ...]


BRIDGE_ORIG = ActionStatistics(
    (-0.02872725, -0.04170350, -0.02609386, -0.08092105, -0.09288700, -0.20718276, 0.0),
    (0.02830968, 0.04085525, 0.04016159, 0.08192048, 0.07792851, 0.20382575, 1.0),
    (True,) * 6 + (False,),
)
"""Of `bridge_orig`, from a third party's copy: a server's own statistics are what it uses."""

BRIDGE_ACTION = ActionSpec(
    names=("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
    units=("m", "m", "m", "rad", "rad", "rad", "open fraction"),
    low=BRIDGE_ORIG.low,
    high=BRIDGE_ORIG.high,
    gain=(35.0,) * 3 + (5.6,) * 3 + (-2.0,),
    bias=(0.0,) * 6 + (1.0,),
    width=10,
    control_hz=5.0,
    kinds=("delta",) * 6 + ("absolute",),
)
"""What OpenVLA speaks under `bridge_orig`: deltas within the quantiles, the gripper's opening."""


def with_empty_token(prompt: np.ndarray) -> np.ndarray:
    """Prompt tokens (n,) that end with `EMPTY_TOKEN`."""
    prompt = np.asarray(prompt)
    return prompt if prompt[-1] == EMPTY_TOKEN else np.append(prompt, EMPTY_TOKEN)


def detokenise(tokens: np.ndarray) -> np.ndarray:
    """Action tokens (..., A) to numbers in ±1: the centres of 255 intervals.

    The last tokens of the vocabulary stand for the intervals, in reverse order; an id that stands
    for none is taken for the nearest.
    """
    edges = np.linspace(-1, 1, BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    intervals = VOCABULARY - np.asarray(tokens, np.int64) - 1
    return centres[np.clip(intervals, 0, len(centres) - 1)]


def unnormalise(actions: np.ndarray, statistics: ActionStatistics) -> np.ndarray:
    """Numbers in ±1, (..., A), to the units of a dataset."""
    low, high = np.asarray(statistics.low), np.asarray(statistics.high)
    physical = 0.5 * (np.asarray(actions) + 1) * (high - low) + low
    return np.where(statistics.scaled, physical, actions)


class OpenVLAPolicy(Policy):
    """Asks an OpenVLA server; one action at a time, greedy, the same for every seed.

    Args:
        action_spec: what its actions are; `BRIDGE_ACTION` by default.
        frame_spec: frames it expects; any by default, the server resizes them.
        client: the server's address and how long to wait for it.
        check_images: whether to ask about a black and a white picture first.

    Example:
        >>> policy = OpenVLAPolicy(client=ActClient("http://127.0.0.1:8000"))
        >>> save_policy(policy, "runs/openvla")  # doctest: +SKIP
    """

    kind: ClassVar[str] = "openvla"

    def __init__(
        self,
        action_spec: ActionSpec | None = None,
        frame_spec: FrameSpec | None = None,
        *,
        client: ActClient,
        check_images: bool = True,
    ) -> None:
        super().__init__(action_spec or BRIDGE_ACTION, frame_spec)
        self.client, self.check_images = client, check_images
        self._checked = not check_images
        self._understood = False  # whether the server has ever given what the action_spec says

    def act(self, observation: Observation) -> Chunks:
        """One action of every row, (B, 1, A); one of another shape is that row's fault.

        Raises:
            PolicyError: if the model ignores its pictures, or its first actions all have another
                length.
            PolicyServerError: if the server gives none.
        """
        if not self._checked:
            try:
                check_images_matter(self.client.act)
            except RuntimeError as error:
                if isinstance(error, PolicyError):
                    raise
                raise PolicyError(f"{self.client.url}: {error}") from error
            self._checked = True
        actions = self.client.act_all(observation.frames, observation.instructions)
        sound = [action.shape == (self.action_spec.size,) for action in actions]
        if not self._understood and not any(sound):
            raise PolicyError(
                f"{self.client.url} gives actions of shape {actions[0].shape}, the action_spec has "
                f"{self.action_spec.size} components: {self.action_spec.names}; choose another "
                f"unnorm_key than {self.client.unnorm_key!r}, or state the right action_spec"
            )
        self._understood = True
        openings = np.array([unit == "open fraction" for unit in self.action_spec.units])
        # not scaled by the server, so that it is the centre of an interval of ±1
        opened = [
            np.where(openings, action.clip(0, 1), action) if fits else action
            for action, fits in zip(actions, sound, strict=True)
        ]
        return join_chunks([action[None].astype(np.float32) for action in opened])

    def config(self) -> dict[str, Any]:
        """The client's settings and whether pictures are checked."""
        return {"client": asdict(self.client), "check_images": self.check_images}

    def identity(self) -> dict[str, Any]:
        """See `Policy.identity`; how patiently the server is asked does not count."""
        asked = {"url": self.client.url, "unnorm_key": self.client.unnorm_key}
        return policy_identity(self, asked | {"check_images": self.check_images})

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> OpenVLAPolicy:
        """Builds the policy; nothing is asked yet."""
        del weights
        client = ActClient(**config["client"])
        return cls(action_spec, frame_spec, client=client, check_images=config["check_images"])


@dataclass(frozen=True)
class Protocol:
    """How often a policy is tried, and for how long.

    Attributes:
        episodes: starts.
        trials: episodes from each start, with different noise.
        max_steps: longest episode.
        out_of_distribution: how many starts are tried again with distractors or other instructions.
    """

    episodes: int = 20
    trials: int = 8
    max_steps: int = 50
    out_of_distribution: int = 10

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.episodes, self.trials, self.max_steps) < 1 or self.out_of_distribution < 0:
            raise UserError(f"{self}; expected at least 1 each, and 0 out of distribution or more")

    def plan(
        self, starts: tuple[str, ...], *, changed: bool = False
    ) -> tuple[list[str], list[int]]:
        """Starts and seeds for `run_policy`, the trials of a start one after the other.

        Args:
            starts: names, at least as many as needed; the first ones are taken.
            changed: plan the starts that are tried out of distribution.

        Raises:
            ValueError: if there are too few.
        """
        count = self.out_of_distribution if changed else self.episodes
        if len(starts) < count:
            raise UserError(f"{len(starts)} starts; expected at least {count}")
        chosen = [start for start in starts[:count] for _ in range(self.trials)]
        return chosen, list(range(len(chosen)))


PAPER_PROTOCOL = Protocol()
"""arXiv:2605.06388: OpenVLA in nine world models."""
