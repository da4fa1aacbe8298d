"""The policies of a comparison, opened and checked before anything runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wm_gym.checkpoints import assets_folder
from wm_gym.evaluation.compare_real.controls import NULL
from wm_gym.policies.base import POLICY_FILE, Policy, PolicyError
from wm_gym.policies.compatibility import check_compatible
from wm_gym.policies.named import distinct_names, open_policy, policy_file
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.null_policy import NullPolicy

if TYPE_CHECKING:
    from wm_gym.spec import ActionSpec, FrameSpec, WorldModelSpec

EMBEDDED_POLICIES = {
    "WM-LangTable-VAE-v0": "langtable-bc",
    "WM-Bridge-VAE-v0": "bridge-bc",
    "WM-Bridge-VJEPA-v0": "bridge-bc",
    "WM-Bridge-VJEPA96-v0": "bridge-bc",
}
"""Folder under assets/ of the policies that ship for an id."""
EMBEDDED_TASKS = {"langtable-bc": ("reach", "push")}
"""What they were trained for, where that is not all of the card."""
FEW_STARTS, FEW_POLICIES = 10, 5


class FewEpisodesWarning(UserWarning):
    """A comparison of so few policies or starts that its figures mean little."""


@dataclass(frozen=True)
class NamedPolicy:
    """A policy with the name it has in the report.

    Attributes:
        name: short name, with folders above where two share it, and noise level.
        source: its folder or `module:Class`.
        file: what its records depend on, `policy.json` or the module's source.
        noise: noise level.
        policy: the policy, noise included.
    """

    name: str
    source: str
    file: Path
    noise: float
    policy: Policy


def open_policies(
    chosen: Sequence[tuple[Sequence[str], Sequence[float]]],
    env_id: str,
    action_spec: ActionSpec,
    frame_spec: FrameSpec,
) -> list[NamedPolicy]:
    """Load every policy once for each of its noise levels.

    Args:
        chosen: folders, `module:Class`, or `embedded`, and the noise levels of all of these.
        env_id: of the world model; says what `embedded` means.
        action_spec: the world model's action language.
        frame_spec: its frames.

    Raises:
        PolicyError: if a policy is not there or is none.
        IncompatiblePolicyError: if one does not fit the specs.
    """
    named = []
    sources = [(one, noise) for names, noise in chosen for one in _sources(names, env_id)]
    called = distinct_names([source for source, _ in sources])
    for (source, levels), short in zip(sources, called, strict=True):
        for level in levels:
            policy = open_policy(source, action_spec, frame_spec)
            check_compatible(policy, action_spec, frame_spec)
            name = short + (f" noise {level:g}" if level else "")
            if level:
                policy = NoisyPolicy(policy, level)
            named.append(NamedPolicy(name, source, policy_file(source), level, policy))
    called = [policy.name for policy in named]
    if len(set(called)) < len(called) or len(called) < 2:
        raise PolicyError(f"policies are {called}; expected at least two, none of them twice")
    return named


def null_control(spec: WorldModelSpec) -> NamedPolicy:
    """The policy that does nothing, as a control beside the others."""
    policy = NullPolicy(spec.action, spec.frame)
    source = "wm_gym.policies.null_policy:NullPolicy"
    return NamedPolicy(NULL, source, policy_file(source), 0.0, policy)


def _sources(names: Sequence[str], env_id: str) -> list[str]:
    """Folders and `module:Class`, those that `embedded` stands for included."""
    sources: list[str] = []
    for name in names:
        if name != "embedded":
            sources.append(str(Path(name).expanduser()))
            continue
        home = assets_folder() / EMBEDDED_POLICIES.get(env_id, "no-policies")
        found = sorted(path.parent for path in home.glob(f"*/{POLICY_FILE}"))
        if not found:
            raise PolicyError(
                f"no policies ship for {env_id}; name folders of saved "
                "policies, --policies runs/bc/stage_1 runs/bc/stage_2, or classes of your own, "
                "--policies my_policies:MyPolicy"
            )
        sources += map(str, found)
    return sources


def warn_of_few(policies: int, starts: int) -> None:
    """Warns if there are so few starts or policies that the figures say next to nothing."""
    if starts < FEW_STARTS or policies < FEW_POLICIES:
        warnings.warn(
            f"{policies} policies (noise levels counted) and {starts} starts per task: with "
            f"fewer than {FEW_POLICIES} policies or {FEW_STARTS} starts the correlations and their "
            "intervals mean little",
            FewEpisodesWarning,
            stacklevel=3,
        )
