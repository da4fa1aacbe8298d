r"""OpenVLA, or any policy behind its REST protocol, acts inside a world model and is judged there.

The published evaluation in imagination: 20 starts, 8 trials each, 50 steps, and ten of the starts
again under other instructions, and with things on the table that the world model has never seen
(arXiv:2605.06388). The simulator only paints the first pictures of these last ones; a simulator or
robot with the same starts may be measured beside the dream (`wm-gym compare-real`).

Start OpenVLA in an environment of its own, then point this at it:

    wm-gym serve-openvla --revision <commit of openvla/openvla-7b>
    python examples/openvla_in_the_loop.py --url http://127.0.0.1:8000

    python examples/openvla_in_the_loop.py --url http://127.0.0.1:8000 --judge paper

Without --url a small server is started here, with the same protocol and NO OpenVLA behind it but a
stand-in that follows the brightest spot of the picture: it shows that every part runs, and how
often something that knows nothing of the task is called successful. A policy of your own can stand
behind it with --behind FOLDER (or module:Class).

Small, to see that every part runs:

    python examples/openvla_in_the_loop.py --out outputs/openvla_small --episodes 2 --trials 1 \
        --out-of-distribution 1 --max-steps 3 --rows 2 --shown 1
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from torch.utils.tensorboard import SummaryWriter

from wm_gym.data.frames import resize
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.envs.start_states import make_start_states
from wm_gym.evaluation.compare_real.judge_episodes import judge_episodes
from wm_gym.evaluation.report import write_json
from wm_gym.evaluation.run_folder import PolicySource, claim_folder
from wm_gym.evaluation.strips import write_pictures
from wm_gym.judges.registry import JudgeContext, make_judge
from wm_gym.metrics.statistics import wilson_interval
from wm_gym.policies.act_client import ActClient
from wm_gym.policies.act_server import Act, ActServer
from wm_gym.policies.base import Observation
from wm_gym.policies.chunks import read_chunk
from wm_gym.policies.named import open_policy
from wm_gym.policies.openvla import BRIDGE_ACTION, OpenVLAPolicy, Protocol
from wm_gym.policies.recordings import read_recording
from wm_gym.policies.runner import EpisodeRecord, run_policy
from wm_gym.spec import WorldModelSpec


@dataclass(frozen=True)
class Args:
    """Evaluate a policy server inside a world model."""

    url: str | None = None
    """Address of the policy server; one is started here if not given."""
    behind: str | None = None
    """Policy behind the server that is started here: a folder, or module:Class."""
    unnorm_key: str = "bridge_orig"
    """Statistics that OpenVLA scales its actions by."""
    id: str = "WM-Bridge-VJEPA-v0"
    """World model."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    judge: str = "classifier"
    """Who says that it worked (docs/judges.md): classifier, paper, semantic, api?…"""
    episodes: int = Protocol.episodes
    """Starts."""
    trials: int = Protocol.trials
    """Episodes from each start, with different noise."""
    out_of_distribution: int = Protocol.out_of_distribution
    """Starts that are tried again with another task's instruction, and again with distractors."""
    distractors: str = "all"
    """Unseen things beside those of the task: all, some of the simulator's, or none to leave these
    episodes out; only BridgeSim-v0 has them."""
    max_steps: int = Protocol.max_steps
    """Longest episode, in steps."""
    rows: int = 8
    """Episodes imagined at once."""
    denoising_steps: int | None = None
    """Denoising steps per imagined frame; the card's by default."""
    shown: int = 3
    """Episodes in the video."""
    out: Path = Path("outputs/openvla_in_the_loop")
    """Folder for records, recordings, video and picture; a second call with these settings goes on
    there. What is behind --url is not known: give every policy a folder of its own."""


def brightest_spot(image: np.ndarray, instruction: str, unnorm_key: str | None) -> np.ndarray:
    """Stands in for OpenVLA: an action (7,) towards the brightest spot of the picture."""
    del instruction, unnorm_key
    brightness = image.sum(-1, dtype=np.int64)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    ahead = 1 - 2 * row / brightness.shape[0]  # up in the picture is away from the robot
    left = 1 - 2 * column / brightness.shape[1]
    return np.array([0.02 * ahead, 0.02 * left, -0.005, 0, 0, 0, float(brightness.max() < 700)])


def policy_behind(name: str, card: WorldModelSpec) -> Act:
    """A policy of wm_gym as what a policy server asks; one picture at a time, without a memory."""
    policy, lock = open_policy(name, card.action, card.frame), threading.Lock()

    def act(image: np.ndarray, instruction: str, unnorm_key: str | None) -> np.ndarray:
        del unnorm_key
        none = np.zeros(1, np.int64)
        frames = np.array(resize(image[None], card.frame.height, card.frame.width))
        with lock:
            policy.reset([0], [0], [instruction])
            chunks = policy.act(Observation(frames, (instruction,), none, none))
            return read_chunk(chunks, 0, 1, policy.action_spec.size)[0]

    return act


@contextmanager
def server(args: Args, card: WorldModelSpec) -> Iterator[str]:
    """Address of the policy server, which is stopped in the end if it was started here."""
    if args.url is not None:
        yield args.url
        return
    act = brightest_spot if args.behind is None else policy_behind(args.behind, card)
    info = {"model": args.behind or "stand-in: follows the brightest spot; not OpenVLA"}
    started = ActServer(act, info)
    threading.Thread(target=started.serve_forever, daemon=True).start()
    print(f"serving {info['model']} at {started.url}")
    try:
        yield started.url
    finally:
        started.shutdown()
        started.server_close()


def other_instruction(card: WorldModelSpec, dream: WorldModelVectorEnv, start: str) -> str:
    """What is to be done in another of the card's tasks, for a start that was made for this one."""
    stored = dream.engine.starts.stored
    assert stored is not None  # `starts_of` found this start in it
    own = dream.engine.starts.instructions.parse(stored.instructions[stored.index(start)]).task
    others = [
        text
        for text in stored.instructions
        if dream.engine.starts.instructions.parse(text).task != own
    ]
    if not others:
        raise SystemExit(f"{card.name} knows one task only; give --out-of-distribution 0")
    return others[stored.index(start) % len(others)]


def starts_of(args: Args, dream: WorldModelVectorEnv) -> tuple[str, ...]:
    """Stored starts, one task after the other, so that a few of them are of all tasks."""
    stored = dream.engine.starts.stored
    if stored is None:
        raise SystemExit(
            f"{args.checkpoint} stores no starts; make some with `wm-gym make-start-states`"
        )
    return tuple(sorted(stored.names, key=lambda name: (int(name.rsplit("-", 1)[1]), name)))


def with_distractors(args: Args, card: WorldModelSpec, start: str) -> dict[str, Any]:
    """The first picture and the instruction of a stored start's seed, unseen things beside them."""
    task, _, seed = start.rpartition("-")
    made = make_start_states(
        [int(seed)],
        (task,),
        simulator=card.twin or "",
        frame_size=(card.frame.height, card.frame.width),
        distractors=args.distractors,
    )
    return {"frames": made.frames[0], "instruction": made.instructions[0]}


def beginnings(
    args: Args, dream: WorldModelVectorEnv, protocol: Protocol
) -> dict[str, tuple[list[dict[str, Any]], list[int]]]:
    """Options of `reset` and seeds of all episodes, in and out of distribution."""
    names, card = starts_of(args, dream), dream.card
    chosen, seeds = protocol.plan(names)
    found = {"in distribution": ([{"start": name} for name in chosen], seeds)}
    chosen, seeds = protocol.plan(names, changed=True)
    if not chosen:
        return found
    if dream.engine.starts.own_things:
        print(f"no episodes with other instructions: in {card.twin} a task brings its own things")
    else:
        told = {name: other_instruction(card, dream, name) for name in dict.fromkeys(chosen)}
        options = [{"start": name, "instruction": told[name]} for name in chosen]
        found["other instructions"] = (options, seeds)
    if args.distractors != "none" and card.twin == "BridgeSim-v0":
        seen = {name: with_distractors(args, card, name) for name in dict.fromkeys(chosen)}
        found["distractors"] = ([seen[name] for name in chosen], seeds)
    elif args.distractors != "none":
        print(f"no episodes with distractors: {card.twin} has none")
    return found


def claim(args: Args, card: WorldModelSpec) -> None:
    """Refuse a folder with episodes of other settings; another judge may be asked about them."""
    free = ("out", "shown", "judge", "url")
    settings: dict[str, Any] = {k: str(v) for k, v in asdict(args).items() if k not in free}
    settings |= {"own_server": args.url is None, "weights": card.weights_sha256}
    behind = [] if args.behind is None else [PolicySource.of(args.behind)]
    claim_folder(args.out, settings, behind)


def main(args: Args) -> dict:
    """Run the example.

    Returns:
        Success rate and interval, in and out of distribution.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    dream = WorldModelVectorEnv(
        args.rows,
        args.id,
        autoreset_mode="Disabled",
        checkpoint=args.checkpoint,
        denoising_steps=args.denoising_steps,
        horizon=args.max_steps,
        reward="none",  # episodes run to their end and are judged afterwards
    )
    card = dream.card
    judge = make_judge(args.judge, JudgeContext(lambda: dream.engine.model))
    protocol = Protocol(args.episodes, args.trials, args.max_steps, args.out_of_distribution)
    planned = beginnings(args, dream, protocol)
    claim(args, card)
    report: dict = {"args": {k: str(v) for k, v in asdict(args).items()}}
    scenes = []
    with server(args, card) as url, SummaryWriter(str(args.out)) as writer:
        policy = OpenVLAPolicy(BRIDGE_ACTION, client=ActClient(url, args.unnorm_key))
        for label, (options, seeds) in planned.items():
            place = args.out / label.replace(" ", "_")
            records: list[EpisodeRecord] = run_policy(
                dream, policy, options, seeds, args.max_steps,
                results=place.with_suffix(".jsonl"), recordings=place, description=label,
            )  # fmt: skip
            verdicts = place.with_suffix(".verdicts.json")
            judged = judge_episodes(records, place, judge, verdicts)
            found = wilson_interval(sum(r.success for r in judged), len(judged))
            report[label] = {"rate": found.estimate, "interval": [found.low, found.high]}
            report[label]["errors"] = [r.error for r in judged if r.error]
            writer.add_scalar(f"success_rate/{label}", found.estimate, len(judged))
            print(f"{label}: {found.estimate:.0%} [{found.low:.0%}, {found.high:.0%}]")
            scenes += [
                {f"{label}, {r.instruction}: {r.success}": read_recording(place, r.index)}
                for r in judged[: args.shown]
                if r.error is None
            ]
    if scenes:
        write_pictures(args.out, "openvla_in_the_loop", scenes, card.action.control_hz)
    write_json(args.out / "openvla_in_the_loop.json", report)
    return report


if __name__ == "__main__":
    main(tyro.cli(Args))
