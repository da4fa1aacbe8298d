"""What a simulated domain tells its world models: actions, frames, tasks and twin.

The same facts end up in the card of every model trained on the domain.
"""

from __future__ import annotations

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
        training_data: one sentence for the card.
    """

    twin: str
    action: ActionSpec
    frame: FrameSpec
    tasks: dict[str, str]
    objects: tuple[str, ...]
    horizon: int
    training_data: str


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
    training_data=(
        "Episodes of wm_gym's LangTable simulator: scripted expert, noisy expert, random play and "
        "near misses over reach, separate and push; no real robot, no published data."
    ),
)

DOMAINS: dict[str, Domain] = {"langtable": LANGTABLE}
