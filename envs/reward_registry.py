"""Rewards by name: what `reward=` of an imagined environment may say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wm_gym.envs.rewards import ClassifierReward, DistanceReward, JudgeReward, NoReward, Reward
from wm_gym.envs.semantic_reward import SEMANTIC_PREFIX, SemanticReward, read_semantic_reward
from wm_gym.errors import UserError
from wm_gym.judges.registry import JudgeContext, make_judge, read_judge_name
from wm_gym.judges.success_classifier import RewardModel

if TYPE_CHECKING:
    from wm_gym.checkpoints import Checkpoint
    from wm_gym.world_model import LatentWorldModel

JUDGE_PREFIX = "judge:"
REWARDS = ("classifier", "distance", "none")


def check_reward_name(name: str) -> None:
    """Refuse a reward that does not exist, before a model is loaded for it.

    Raises:
        ValueError: naming those that exist, or what a judge's name should be.
    """
    if name.startswith(JUDGE_PREFIX):
        read_judge_name(name.removeprefix(JUDGE_PREFIX))
    elif name.startswith(SEMANTIC_PREFIX):
        read_semantic_reward(name)
    elif name not in REWARDS:
        raise UserError(
            f"reward={name!r} does not exist; expected one of {', '.join(map(repr, REWARDS))}, "
            "'judge:' and the name of a judge, or 'semantic:<task>?checkpoint=FOLDER'"
        )


def make_reward(
    name: str,
    checkpoint: Checkpoint | None,
    device: str = "cpu",
    model: LatentWorldModel | None = None,
) -> Reward:
    """The reward of a name.

    Args:
        name: one of `REWARDS`, "judge:" and the name of a judge, or as `read_semantic_reward` says.
        checkpoint: the opened checkpoint, which holds the classifier; None if there is no folder.
        device: torch device of the latents to judge.
        model: the world model in use, for judges that need it.

    Raises:
        ValueError: if the name is unknown, the checkpoint has no classifier, or a semantic model
            does not fit the world model.
        JudgeError: if the judge needs something that is not there.
    """
    check_reward_name(name)
    if name == "none":
        return NoReward()
    if name.startswith(JUDGE_PREFIX):
        context = JudgeContext(None if model is None else lambda: model, device=device)
        return JudgeReward(make_judge(name.removeprefix(JUDGE_PREFIX), context), name)
    if name.startswith(SEMANTIC_PREFIX):
        if model is None:
            raise UserError(f"reward={name!r} needs the world model whose frames are scored")
        return SemanticReward(name, model.spec, device)
    if checkpoint is None or checkpoint.spec.reward is None:
        where = "this model" if checkpoint is None else str(checkpoint.folder)
        raise UserError(
            f"reward={name!r} needs a reward model, and {where} has none beside its card; make "
            "the environment with reward='none', or train one with `wm-gym train reward`"
        )
    classifier = RewardModel.from_checkpoint(checkpoint, device)
    return ClassifierReward(classifier) if name == "classifier" else DistanceReward(classifier)
