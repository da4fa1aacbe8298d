"""The training protocol: processes, accumulation, histories, views, epochs, kills, fine-tuning."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_recipes import latents, recipe  # noqa: F401
from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.domains import LANGTABLE
from wm_gym.training.dynamics_loss import DynamicsLoss, TeacherForced
from wm_gym.training.latent_dynamics import (
    LatentBatches,
    LatentDynamicsConfig,
    initial_network,
    shares,
    train_latent_dynamics,
)
from wm_gym.training.loop import LoopConfig, generator


def train_in_group(rank: int, processes: int, port: int, config: LatentDynamicsConfig) -> None:
    """One process of `accelerate launch --cpu --num_processes 2`."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    train_latent_dynamics(config)


def losses(folder: Path) -> list[float]:
    lines = [
        json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [line["loss"] for line in lines if "loss" in line]


def assert_equal_weights(one: Path, two: Path, **tolerance: float) -> None:
    first, second = (load_file(folder / "dynamics.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["clean", "noisy"])
def test_two_processes_equal_one(latents: Path, tmp_path: Path, context: str):  # noqa: F811
    alone = recipe(latents, tmp_path / "alone", context=context, history_max=3)
    train_latent_dynamics(alone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = replace(alone, out=tmp_path / "pair")
    torch.multiprocessing.spawn(train_in_group, (2, port, pair), nprocs=2)
    assert losses(pair.out) == pytest.approx(losses(alone.out), rel=1e-5)
    assert len(losses(pair.out)) == 6
    assert_equal_weights(alone.out, pair.out, atol=2e-5, rtol=1e-4)


def stop_in_group(rank: int, port: int, config: LatentDynamicsConfig) -> None:
    """As `train_in_group`, with a clock that runs out in the second process only."""
    minutes = 1e-9 if rank else 1000.0
    train_in_group(rank, 2, port, replace(config, loop=replace(config.loop, max_minutes=minutes)))


@pytest.mark.slow
def test_processes_whose_time_is_over_stop_together(latents: Path, tmp_path: Path):  # noqa: F811
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = recipe(latents, tmp_path / "pair")
    torch.multiprocessing.spawn(stop_in_group, (port, config), nprocs=2)
    assert torch.load(config.out / "state.pt", weights_only=True)["step"] == 1


def test_accumulated_parts_equal_the_whole_batch(latents: Path, tmp_path: Path):  # noqa: F811
    whole = recipe(latents, tmp_path / "whole")
    train_latent_dynamics(whole)
    parts = replace(whole, out=tmp_path / "parts", accumulation=4)
    train_latent_dynamics(parts)
    assert losses(parts.out) == pytest.approx(losses(whole.out), rel=1e-5)
    assert_equal_weights(whole.out, parts.out, atol=2e-5, rtol=1e-4)


def test_shares_cover_the_batch_once():
    config = LatentDynamicsConfig(Path(), Path(), batch=24, accumulation=3)
    rows = [row for p in range(4) for part in shares(config, p, 4) for row in range(24)[part]]
    assert rows == list(range(24))
    with pytest.raises(ValueError, match=r"batch 24 does not divide over 5 .* multiple of 15"):
        shares(config, 0, 5)


# ---- variable history ------------------------------------------------------------------------


def test_histories_are_drawn_per_clip_and_hold_what_is_repeated(latents: Path):  # noqa: F811
    config = recipe(latents, Path("unused"), history_max=4, batch=64)
    batches = LatentBatches(config, LANGTABLE.action)
    batch = batches.train(0)
    drawn = DynamicsLoss(config, 1.0, 0.01).draw(batch, generator(0, 0))
    given = 1 + drawn.given.sum(1)
    assert set(given.tolist()) == {1, 2, 3, 4}
    assert batch.repeated.max() == 3
    assert (given > batch.repeated).all()
    # given frames come first, and no weight lies on them
    assert (drawn.given.int().diff(dim=1) <= 0).all()
    assert (drawn.weight.sum((1, 3, 4, 5))[drawn.given] == 0).all()
    assert drawn.weight.mean() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("context", ["clean", "noisy"])
def test_given_frames_carry_no_loss(latents: Path, context: str):  # noqa: F811
    """What stands in the noise of a given frame changes nothing; that of another frame does."""
    config = recipe(latents, Path("unused"), history_max=4, context=context)
    batches = LatentBatches(config, LANGTABLE.action)
    network, shift = initial_network(config, batches)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    if context == "clean":
        network.forward = network.teacher_forced_forward
    function = DynamicsLoss(config, shift, 0.01)
    drawn = function.draw(batches.train(0), generator(0, 0))
    rows = slice(0, config.batch)
    loss = function(network, drawn, rows)[0]
    for where, same in ((drawn.given, True), (~drawn.given, False)):
        noise = torch.where(where[:, None, :, None, None, None], 9.0, drawn.noisy)
        other = function(network, replace(drawn, noisy=noise), rows)[0]
        assert torch.allclose(loss, other) is same


# ---- the network's own frames as context -----------------------------------------------------


def test_own_frames_are_what_one_step_from_noise_gives(latents: Path):  # noqa: F811
    config = recipe(latents, Path("unused"), own_context=1.0)
    batches = LatentBatches(config, LANGTABLE.action)
    network, shift = initial_network(config, batches)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    function = DynamicsLoss(config, shift, 0.01)
    drawn = function.draw(batches.train(0), generator(0, 0))
    assert len(drawn.blind) == 1
    labels = torch.full(drawn.context.shape[:2], 10.0)
    seen = (drawn.context, labels, drawn.actions)
    own = function.own_frames(TeacherForced(network), drawn.blind[0], drawn.given, seen)
    assert torch.equal(own[:, : config.history], drawn.context[:, : config.history])
    # the last frame, alone, as an inference step computes it
    last = config.clip_length - 1
    past = network.encode_context(
        drawn.context[:, :last], labels[:, :last], drawn.actions[:, :last]
    )
    inside = torch.arange(last) > last - config.band
    mask = torch.zeros(1, 1, 1, last).masked_fill(~inside, -torch.inf)
    noise, full = drawn.blind[0][:, 0, -1], torch.full((config.batch,), 1000.0)
    velocity = network.predict_frame(
        noise, full, drawn.actions[:, last], [(past, mask)], position=last
    )
    torch.testing.assert_close(own[:, last], noise - velocity, atol=1e-4, rtol=1e-4)


def test_the_edges_of_a_crop_stay_the_recorded_ones(latents: Path):  # noqa: F811
    options = {"neighbourhood": 1, "crop": 3, "crop_margin": 1, "own_context": 1.0}
    config = recipe(latents, Path("unused"), **options)
    batches = LatentBatches(config, LANGTABLE.action)
    network, shift = initial_network(config, batches)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    function = DynamicsLoss(config, shift, 0.01)
    drawn = function.draw(batches.train(0), generator(0, 0))
    assert drawn.counted is not None and drawn.context.shape[2:4] == (3, 3)
    edges = ~drawn.counted[:, None, :, :, None].expand_as(drawn.context)
    assert edges.any() and not edges.all()
    labels = torch.full(drawn.context.shape[:2], 10.0)
    own = function.own_frames(
        TeacherForced(network), drawn.blind[0], drawn.given,
        (drawn.context, labels, drawn.actions), drawn.counted,
    )  # fmt: skip
    assert own[edges].equal(drawn.context[edges])
    predicted = ~edges[:, config.history :]
    changed = own[:, config.history :] != drawn.context[:, config.history :]
    assert changed[predicted].float().mean() > 0.9


def test_own_frames_change_the_context_in_their_share_of_steps(latents: Path):  # noqa: F811
    config = recipe(latents, Path("unused"), own_context=0.5)
    batches = LatentBatches(config, LANGTABLE.action)
    network, shift = initial_network(config, batches)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    function = DynamicsLoss(config, shift, 0.01)
    draws = [function.draw(batches.train(0), generator(0, step)) for step in range(40)]
    chosen = [drawn for drawn in draws if drawn.blind]
    assert 10 < len(chosen) < 30
    rows, forced = slice(0, config.batch), TeacherForced(network)
    own = function(forced, chosen[0], rows)[0]
    recorded = function(forced, replace(chosen[0], blind=()), rows)[0]
    assert not torch.allclose(own, recorded)
    with pytest.raises(ValueError, match=r"own_context 0.5 needs context='clean'.*'noisy'"):
        replace(config, context="noisy")


def test_own_frames_of_several_passes_are_a_rollout(latents: Path):  # noqa: F811
    """Pass n sees the frames of pass n - 1: after two passes the second frame is the second step
    of a rollout that never saw a recorded frame after the history."""
    config = recipe(latents, Path("unused"), own_context=1.0, own_context_passes=4)
    batches = LatentBatches(config, LANGTABLE.action)
    network, shift = initial_network(config, batches)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    function = DynamicsLoss(config, shift, 0.01)
    draws = [function.draw(batches.train(0), generator(0, step)) for step in range(60)]
    assert {len(drawn.blind) for drawn in draws} == {1, 2, 3, 4}
    drawn = next(d for d in draws if len(d.blind) == 2)
    labels = torch.full(drawn.context.shape[:2], 10.0)
    forced = TeacherForced(network)
    own = drawn.context
    for blind in drawn.blind:
        own = function.own_frames(forced, blind, drawn.given, (own, labels, drawn.actions))
    # one frame after the other, with the noise that each pass had for it
    clip, first = drawn.context[:, : config.history], config.history
    full = torch.full((config.batch,), 1000.0)
    for index in range(2):
        at = first + index
        past = network.encode_context(clip, labels[:, :at], drawn.actions[:, :at])
        noise = drawn.blind[index][:, 0, index]
        velocity = network.predict_frame(
            noise, full, drawn.actions[:, at], [(past, torch.zeros(1, 1, 1, at))], position=at
        )
        clip = torch.cat([clip, (noise - velocity)[:, None]], dim=1)
    torch.testing.assert_close(own[:, first + 1], clip[:, first + 1], atol=1e-4, rtol=1e-4)
    rows = slice(0, config.batch)
    once = replace(drawn, blind=drawn.blind[:1])
    assert not torch.allclose(function(forced, drawn, rows)[0], function(forced, once, rows)[0])


def test_clips_in_which_more_changes_are_drawn_more_often(latents: Path, tmp_path: Path):  # noqa: F811
    folder = tmp_path / "half"
    shutil.copytree(latents, folder)
    frames = np.load(folder / "latents.npy")
    bounds = np.load(folder / "bounds.npy")
    for episode in range(0, len(bounds) - 1, 2):  # nothing moves in every other episode
        frames[bounds[episode] : bounds[episode + 1]] = frames[bounds[episode]]
    np.save(folder / "latents.npy", frames)

    def moving(power: float) -> float:
        config = recipe(folder, Path("unused"), change_sampling=power)
        batches = LatentBatches(config, LANGTABLE.action)
        clips = torch.cat([batches.train(step).latents for step in range(60)])
        return float((clips[:, -1] != clips[:, 0]).flatten(1).any(1).float().mean())

    assert 0.4 < moving(0.0) < 0.6
    assert moving(1.0) > 0.8
    with pytest.raises(ValueError, match=r"own_context_passes 0 .* change_sampling -1"):
        recipe(latents, Path("unused"), own_context_passes=0, change_sampling=-1)


def test_a_fixed_history_is_the_same_as_ever(latents: Path):  # noqa: F811
    config = recipe(latents, Path("unused"), history=3)
    batches = LatentBatches(config, LANGTABLE.action)
    drawn = DynamicsLoss(config, 1.0, 0.01).draw(batches.train(0), generator(0, 0))
    assert drawn.noisy.shape[2] == config.clip_length - 3
    assert not drawn.given.any()


def test_a_history_that_leaves_nothing_to_predict_is_refused():
    with pytest.raises(ValueError, match=r"history_max 10 must be .* less than clip_length 10"):
        LatentDynamicsConfig(Path(), Path(), history_max=10)


# ---- length ----------------------------------------------------------------------------------


def test_steps_come_from_epochs_unless_they_are_given():
    config = LatentDynamicsConfig(Path(), Path(), batch=8)
    planned = config.planned_loop(clips=1001)
    assert (planned.steps, planned.warmup_steps) == (100 * 126, 126)
    assert (planned.learning_rate, planned.final_learning_rate_fraction) == (1e-4, 0.7)
    assert (planned.ema, planned.weight_decay, planned.clip) == (0.9995, 2e-3, 1.0)
    assert replace(config, epochs=3).planned_loop(80).steps == 30
    tuned = replace(config, num_views=3, init=Path("single.safetensors"))
    assert tuned.planned_loop(80).steps == 20 * 10
    given = replace(config, loop=LoopConfig(steps=7, warmup_steps=2))
    assert given.planned_loop(80) == given.loop


def test_settings_that_older_runs_did_not_know_do_not_stop_them():
    config = LatentDynamicsConfig(Path("l"), Path("o"))
    known = config.fingerprint().keys()
    assert {"history_max", "num_views", "epochs", "accumulation", "in_memory"}.isdisjoint(known)
    assert {"dim", "batch", "seed", "history", "compile"} <= known
    assert replace(config, accumulation=4).fingerprint() == config.fingerprint()
    assert replace(config, history_max=4).fingerprint() != config.fingerprint()


# ---- several cameras -------------------------------------------------------------------------


@pytest.fixture
def two_views(latents: Path, tmp_path: Path) -> Path:  # noqa: F811
    """Latents of two cameras side by side, the second a mirror image of the first."""
    folder = tmp_path / "views"
    folder.mkdir()
    for file in latents.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    single = np.load(latents / "latents.npy")
    np.save(folder / "latents.npy", np.concatenate([single, single[:, :, ::-1]], axis=2))
    (folder / "source.json").write_text(
        json.dumps({"cameras": ["left", "right"]}), encoding="utf-8"
    )
    return folder


def test_a_multi_view_model_starts_from_single_view_weights(
    latents: Path,  # noqa: F811
    two_views: Path,
    tmp_path: Path,
):
    single = recipe(latents, tmp_path / "single", shift=0.0)
    weights = train_latent_dynamics(single)
    config = recipe(two_views, tmp_path / "two", shift=0.0, num_views=2, init=weights)
    network, shift = initial_network(config, LatentBatches(config, LANGTABLE.action))
    assert network.config.num_views == 2
    record = json.loads((single.out / "dynamics.json").read_text(encoding="utf-8"))
    assert shift == record["shift"]  # one view's tokens decide
    for key, value in load_file(weights).items():
        torch.testing.assert_close(network.state_dict()[key], value)
    train_latent_dynamics(config)
    trained = json.loads((config.out / "dynamics.json").read_text(encoding="utf-8"))
    assert trained["network"]["num_views"] == 2


def test_views_that_the_latents_do_not_hold_are_named(latents: Path, two_views: Path):  # noqa: F811
    for folder, views, held in ((two_views, 1, 2), (latents, 3, 3)):
        config = recipe(folder, Path("unused"), num_views=views)
        with pytest.raises(ValueError, match=rf"holds {held} view\(s\).*expected {views}"):
            initial_network(config, LatentBatches(config, LANGTABLE.action))


# ---- kill -9 ---------------------------------------------------------------------------------

RUN = """
import sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.training.test_recipes import recipe
from wm_gym.training.latent_dynamics import train_latent_dynamics
from wm_gym.training.loop import LoopConfig, TrainingLoop
save = TrainingLoop.save
def slow(self):
    time.sleep(float(sys.argv[3]))
    save(self)
TrainingLoop.save = slow
loop = LoopConfig(steps=9, warmup_steps=2, log_every=1, save_every=2, ema=0.9)
train_latent_dynamics(recipe(Path(sys.argv[1]), Path(sys.argv[2]), loop=loop))
"""


def start(folder: Path, out: Path, pause: float) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", RUN, str(folder), str(out), str(pause)]
    return subprocess.Popen(words, cwd=root, env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_kill_9_loses_only_the_steps_since_the_last_state(
    latents: Path,  # noqa: F811
    tmp_path: Path,
):
    out, log = tmp_path / "killed", tmp_path / "killed" / "log.jsonl"
    killed = start(latents, out, 0.5)
    deadline = time.monotonic() + 300
    while not (
        log.exists() and '"step": 5' in log.read_text(encoding="utf-8")
    ):  # one step after a state
        assert time.monotonic() < deadline
        assert killed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    state = torch.load(out / "state.pt", weights_only=True)
    assert state["step"] >= 4
    assert start(latents, out, 0.0).wait() == 0
    assert start(latents, tmp_path / "whole", 0.0).wait() == 0
    assert losses(out) == losses(tmp_path / "whole")
    assert_equal_weights(out, tmp_path / "whole", atol=0, rtol=0)


def test_log_lines_of_lost_steps_are_dropped(latents: Path, tmp_path: Path):  # noqa: F811
    config = recipe(latents, tmp_path, loop=LoopConfig(steps=4, log_every=1, save_every=2))
    train_latent_dynamics(config)
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    train_latent_dynamics(replace(config, loop=replace(config.loop, steps=5)))
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


# ---- fine-tuning a checkpoint ----------------------------------------------------------------


def test_init_takes_sizes_and_schedule_from_a_checkpoint(
    latents: Path,  # noqa: F811
    tiny_checkpoint: str,
    tmp_path: Path,
):
    spec = Checkpoint.open(Path(tiny_checkpoint)).spec
    folder = tmp_path / "latents"
    folder.mkdir()
    for file in latents.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = recipe(folder, tmp_path / "out", init=Path(tiny_checkpoint), dim=8, shift=0.0)
    with pytest.raises(CheckpointError, match="not of the latent space and normalisation"):
        train_latent_dynamics(config)
    scale = {"mean": spec.latent.mean, "std": spec.latent.std}
    (folder / "normalisation.json").write_text(json.dumps(scale), encoding="utf-8")
    network, shift = initial_network(config, LatentBatches(config, LANGTABLE.action))
    assert (network.config.dim, network.config.band) == (32, 4)
    assert shift == spec.dynamics.shift
    stored = Checkpoint.open(Path(tiny_checkpoint)).load("dynamics.safetensors")
    assert all(torch.equal(v, stored[k]) for k, v in network.state_dict().items())
