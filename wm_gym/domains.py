"""What a simulated domain tells its world models: actions, frames, tasks and twin.

The same facts end up in the card of every model trained on the domain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wm_gym.spec import ActionSpec, FrameSpec


@dataclass(frozen=True)
class Domain:
    """A simulated domain.

    Attributes:
        twin: id of the simulator.
        action: action language of its world models.
        frame: frames of its world models.
        tasks: instruction template by task.
        objects: words that fill the templates' slots.
        horizon: steps of an episode.
        episode_steps: actions of an episode that is collected for training, at most.
        training_data: one sentence for the card.
        objects_keyword: argument of the simulator that names what lies on the table; "" if the
            task decides it.
        view_m: what a frame shows of the table, roughly, in metres: x at its left and right edge,
            y at its top and bottom edge; None where the picture is turned against the table.
        coloured_blocks: whether the objects are blocks that can be counted in a frame by their
            colours.
        backgrounds: values of the simulator's argument `background`, the usual one first; () where
            there is no choice.
    """

    twin: str
    action: ActionSpec
    frame: FrameSpec
    tasks: dict[str, str]
    objects: tuple[str, ...]
    horizon: int
    episode_steps: int
    training_data: str
    objects_keyword: str = ""
    view_m: tuple[float, float, float, float] | None = None
    coloured_blocks: bool = False
    backgrounds: tuple[str, ...] = ()


LANGTABLE = Domain(
    twin="LangTable-v0",
    action=ActionSpec(
        names=("dx", "dy"),
        units=("m", "m"),
        low=(-0.03, -0.03),
        high=(0.03, 0.03),
        # the largest delta becomes 2, so that typical deltas have a spread of about 1
        gain=(200 / 3, 200 / 3),
        bias=(0.0, 0.0),
        width=3,
        control_hz=10.0,
        kinds=("delta", "delta"),
    ),
    frame=FrameSpec(height=96, width=96, camera="near-top-down"),
    tasks={
        "reach": "reach the {first}",
        "separate": "separate the {first} from the {second}",
        "push": "push the {first} to the {second}",
    },
    objects=(
        "green cube",
        "blue cube",
        "red moon",
        "blue moon",
        "green star",
        "yellow star",
        "red pentagon",
        "yellow pentagon",
    ),
    horizon=120,
    episode_steps=60,
    training_data=(
        "Episodes of wm_gym's LangTable simulator: scripted expert, noisy expert, random play and "
        "near misses over reach, separate and push; no real robot, no published data."
    ),
    objects_keyword="blocks",
    view_m=(-0.26, 0.26, 0.26, -0.26),
    coloured_blocks=True,
)

BRIDGE = Domain(
    twin="BridgeSim-v0",
    action=ActionSpec(
        names=("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
        units=("m", "m", "m", "rad", "rad", "rad", "open fraction"),
        low=(-0.05,) * 3 + (-0.25,) * 3 + (0.0,),
        high=(0.05,) * 3 + (0.25,) * 3 + (1.0,),
        # as the published models: the largest way becomes 1.75, the largest turn 1.4, an open
        # gripper -1 and a closed one +1
        gain=(35.0,) * 3 + (5.6,) * 3 + (-2.0,),
        bias=(0.0,) * 6 + (1.0,),
        width=10,
        control_hz=5.0,
        kinds=("delta",) * 6 + ("absolute",),
    ),
    frame=FrameSpec(height=64, width=64, camera="over-the-shoulder"),
    tasks={
        "carrot_on_plate": "put the {first=carrot} on the {second=plate}",
        "spoon_on_towel": "put the {first=spoon} on the {second=towel}",
        "green_block_on_yellow_block": (
            "stack the {first=green block} on the {second=yellow block}"
        ),
        "eggplant_in_basket": "put the {first=eggplant} in the {second=basket}",
    },
    objects=(
        "carrot",
        "plate",
        "spoon",
        "towel",
        "green block",
        "yellow block",
        "eggplant",
        "basket",
    ),
    horizon=50,
    episode_steps=50,
    training_data=(
        "Episodes of wm_gym's BridgeSim simulator: scripted expert, noisy expert, random play and "
        "near misses over four tasks; no real robot, no published data."
    ),
    backgrounds=("grey", "brick", "navy"),
)

CUBE = Domain(
    twin="Cube-v0",
    action=ActionSpec(
        names=("dx", "dy", "dz", "dyaw", "dclosed"),
        units=("m", "m", "m", "rad", "closed fraction"),
        low=(-0.05,) * 3 + (-0.3, -1.0),
        high=(0.05,) * 3 + (0.3, 1.0),
        # the actions of OGBench and of the published models: the largest becomes 1
        gain=(20.0,) * 3 + (1 / 0.3, 1.0),
        bias=(0.0,) * 5,
        width=6,
        control_hz=10.0,
        kinds=("delta",) * 5,
    ),
    frame=FrameSpec(height=96, width=96, camera="front"),
    tasks={
        "reach": "reach the {first}",
        "stack": "stack the {first} on the {second}",
    },
    objects=("red cube", "blue cube", "green cube", "yellow cube"),
    horizon=200,
    episode_steps=80,
    training_data=(
        "Episodes of OGBench's cube environment as wm_gym's Cube: OGBench's oracles, noisy ones, "
        "random play and near misses over reach and stack; no real robot, no published data."
    ),
    objects_keyword="cubes",
    backgrounds=("grid", "sand", "teal", "plum"),
)

DOMAINS: dict[str, Domain] = {"langtable": LANGTABLE, "bridge": BRIDGE, "cube": CUBE}


def domain_of_tasks(tasks: Iterable[str]) -> Domain | None:
    """The domain that has all of these tasks, or None."""
    wanted = set(tasks)
    return next((domain for domain in DOMAINS.values() if wanted <= set(domain.tasks)), None)


def domain_of(simulator: str | None) -> Domain | None:
    """The domain of a simulator id, or None if it belongs to none."""
    return next((domain for domain in DOMAINS.values() if domain.twin == simulator), None)
