import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import minari
import numpy as np
import pytest

from tests.data.counter_env import CounterFactory
from wm_gym.data.episodes import EpisodeDataset, EpisodeError
from wm_gym.domains import DOMAINS
from wm_gym.envs.collect import CollectConfig, behaviour_of, collect
from wm_gym.envs.sims.bridge import objects as bridge_objects
from wm_gym.envs.sims.cube import env as cube
from wm_gym.envs.sims.langtable.shapes import OOD_OBJECTS
from wm_gym.envs.simulator_factory import SimulatorFactory

ROOT = Path(__file__).parents[2]


def config(out, **changes):
    base = CollectConfig(
        out=Path(out),
        env_id="counter",
        episodes=12,
        behaviours={"expert": 0.5, "random": 0.5},
        tasks=("count", "sum"),
        steps=10,
        tail_steps=2,
        shard_episodes=5,
        workers=1,
    )
    return dataclasses.replace(base, **changes)


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for field in ("frames", "actions", "privileged", "success"):
            np.testing.assert_array_equal(getattr(x, field), getattr(y, field))
        assert (x.instruction, x.goal, x.seed, x.behaviour) == (
            y.instruction,
            y.goal,
            y.seed,
            y.behaviour,
        )
        np.testing.assert_equal(x.start_state, y.start_state)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return collect(config(tmp_path_factory.mktemp("a") / "data"), CounterFactory(), progress=False)


def test_the_number_of_workers_changes_nothing(reference, tmp_path):
    other = collect(config(tmp_path / "data", workers=2), CounterFactory(), progress=False)
    assert_same(reference, other)
    for shard in sorted((reference.folder / "shards").iterdir()):
        assert shard.read_bytes() == (other.folder / "shards" / shard.name).read_bytes()


def test_an_interrupted_collection_is_finished_without_loss(reference, tmp_path):
    whole = collect(config(tmp_path / "data"), CounterFactory(), progress=False)
    kept = whole.folder / "shards" / "000000.hdf5"
    before = kept.stat().st_mtime_ns
    (whole.folder / "shards" / "000001.hdf5").unlink()
    (whole.folder / "metadata.json").unlink()
    assert_same(reference, collect(config(tmp_path / "data"), CounterFactory(), progress=False))
    assert kept.stat().st_mtime_ns == before


def test_a_collection_can_grow_but_not_change(reference, tmp_path):
    collect(config(tmp_path / "data", episodes=7), CounterFactory(), progress=False)
    with pytest.raises(ValueError, match="steps: 10 there, 9 now"):
        collect(config(tmp_path / "data", steps=9), CounterFactory(), progress=False)
    with pytest.raises(ValueError, match="already holds more than 3"):
        collect(config(tmp_path / "data", episodes=3), CounterFactory(), progress=False)
    assert_same(reference, collect(config(tmp_path / "data"), CounterFactory(), progress=False))


def test_a_damaged_shard_is_named_and_made_again(reference, tmp_path):
    whole = collect(config(tmp_path / "data"), CounterFactory(), progress=False)
    shard = whole.folder / "shards" / "000001.hdf5"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(EpisodeError, match=r"000001\.hdf5 has \d+ bytes, expected"):
        EpisodeDataset(whole.folder)
    assert_same(reference, collect(config(tmp_path / "data"), CounterFactory(), progress=False))
    assert shard.read_bytes() == content


def test_a_dataset_that_is_not_finished_says_how_to_finish_it(tmp_path):
    with pytest.raises(EpisodeError, match="wm-gym collect --out"):
        EpisodeDataset(tmp_path)


def test_a_dataset_can_be_pickled_after_it_was_read(reference):
    reference[3]
    assert_same(reference, pickle.loads(pickle.dumps(reference)))


def test_kill_9_loses_and_doubles_no_episode(reference, tmp_path):
    out = tmp_path / "data"
    program = (
        "import dataclasses, sys, time\n"
        "from pathlib import Path\n"
        "import wm_gym.envs.collect as c\n"
        "from tests.envs.test_collect import config\n"
        "from tests.data.counter_env import CounterFactory\n"
        "write = c.write_shard\n"
        "c.write_shard = lambda *a: (write(*a), time.sleep(0.5))\n"
        f"c.collect(config({str(out)!r}), CounterFactory(), progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not list(out.glob("shards/0*.hdf5")) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert 1 <= len(list(out.glob("shards/0*.hdf5"))) < 3
    assert_same(reference, collect(config(out), CounterFactory(), progress=False))


def test_minari_reads_the_dataset(reference, tmp_path, monkeypatch):
    dataset = minari.MinariDataset(reference.folder)
    assert len(dataset) == 12 and dataset.total_steps == reference.lengths.sum()
    for mine, theirs in zip(reference, dataset, strict=True):
        np.testing.assert_array_equal(mine.frames, theirs.observations)
        np.testing.assert_array_equal(mine.actions, theirs.actions)
        np.testing.assert_array_equal(mine.privileged, theirs.infos["privileged"])
        assert theirs.truncations[-1] and theirs.truncations.sum() == 1
    metadata = next(iter(dataset.storage.get_episode_metadata([3])))
    assert metadata["seed"] == 3 and metadata["instruction"] == "count the block"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    (tmp_path / "wm_gym" / "data-v0").mkdir(parents=True)
    (tmp_path / "wm_gym" / "data-v0" / "data").symlink_to(reference.folder)
    assert len(minari.load_dataset("wm_gym/data-v0")) == 12


def test_jpeg_is_read_by_us_and_by_minari_alike(tmp_path):
    dataset = collect(config(tmp_path / "d", image_format="jpeg"), CounterFactory(), progress=False)
    for mine, theirs in zip(dataset, minari.MinariDataset(dataset.folder), strict=True):
        np.testing.assert_array_equal(mine.frames, theirs.observations)
        shown = mine.frames[:, 0, 0].astype(int)
        assert np.abs(shown - mine.privileged % 256).max() <= 8


def test_experts_stop_after_their_success_and_play_goes_on(reference):
    for episode in reference:
        assert episode.success.argmax() == 5
        assert len(episode) == (7 if episode.behaviour == "expert" else 10)


def test_shares_follow_the_weights():
    settings = config("unused", behaviours={"a": 0.2, "b": 0.35, "c": 0.35, "d": 0.1})
    for first in (0, 6000):
        names = [behaviour_of(settings, seed) for seed in range(first, first + 200)]
        shares = [names.count(n) / 200 for n in "abcd"]
        np.testing.assert_allclose(shares, [0.2, 0.35, 0.35, 0.1], atol=0.02)


def test_held_out_seeds_are_kept_from_training(tmp_path):
    for seed, episodes in ((5999, 2), (7999, 1), (0, 8001)):
        with pytest.raises(ValueError, match="kept for evaluation"):
            config(tmp_path, seed=seed, episodes=episodes)
    config(tmp_path, seed=5988)
    config(tmp_path, seed=8000)
    config(tmp_path, seed=6000, held_out=True)
    for seed, episodes in ((5999, 2), (7999, 2), (20000, 1)):
        with pytest.raises(ValueError, match="not all among 6000 to 7999"):
            config(tmp_path, seed=seed, episodes=episodes, held_out=True)


def test_unknown_behaviours_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"\['wizard'\] are unknown"):
        collect(config(tmp_path / "d", behaviours={"wizard": 1.0}), CounterFactory())
    assert not (tmp_path / "d").exists()


def test_the_noise_of_a_noisy_expert_can_be_chosen(tmp_path):
    def drawn(noise, seed):
        env, behaviours = SimulatorFactory("LangTable-v0", "32x32", 5, noise=noise)()
        env.close()
        return behaviours["noisy_expert"](np.random.default_rng(seed))._noise_m

    assert [drawn((0.012, 0.012), seed) for seed in range(2)] == [0.012] * 2
    assert drawn(None, 0) == np.random.default_rng(0).uniform(0.003, 0.02)
    with pytest.raises(ValueError, match=r"noise=\(0\.02, 0\.01\), expected a least and a largest"):
        config(tmp_path, noise=(0.02, 0.01))


def test_a_collection_knows_its_noise_and_old_ones_go_on(tmp_path):
    out = tmp_path / "data"
    assert "noise" not in config(out).identity()
    collect(config(out, episodes=5), CounterFactory(), progress=False)
    collect(config(out, episodes=6), CounterFactory(), progress=False)
    noisy = config(tmp_path / "noisy", episodes=5, noise=(0.1, 0.2))
    collect(noisy, CounterFactory(), progress=False)
    for other in (None, (0.1, 0.3)):
        with pytest.raises(ValueError, match=r"noise: .* there, .* now"):
            collect(dataclasses.replace(noisy, noise=other), CounterFactory(), progress=False)


def test_what_lies_on_the_table_can_be_chosen(tmp_path):
    env, _ = SimulatorFactory("LangTable-v0", "24x24", 5, None, "ood")()
    assert env.unwrapped.objects == OOD_OBJECTS
    chosen = CollectConfig(out=tmp_path, objects="mixed")
    assert chosen.identity()["objects"] == "mixed"
    assert "objects" not in CollectConfig(out=tmp_path).identity()  # older collections go on
    with pytest.raises(ValueError, match="the task decides what is there"):
        CollectConfig(out=tmp_path, env_id="BridgeSim-v0", objects="standard")


def test_a_background_can_be_chosen_where_there_is_a_choice(tmp_path):
    for env_id, domain in {d.twin: d for d in DOMAINS.values()}.items():
        with pytest.raises(ValueError, match="background='mars'"):
            CollectConfig(out=tmp_path, env_id=env_id, background="mars")
        for background in domain.backgrounds:
            chosen = CollectConfig(out=tmp_path, env_id=env_id, background=background)
            assert chosen.identity()["background"] == background
    assert "background" not in CollectConfig(out=tmp_path).identity()  # older collections go on
    assert DOMAINS["bridge"].backgrounds == tuple(bridge_objects.BACKGROUNDS)
    assert DOMAINS["cube"].backgrounds == cube.BACKGROUNDS
    env, _ = SimulatorFactory("BridgeSim-v0", "24x24", 5, background="navy")()
    usual, _ = SimulatorFactory("BridgeSim-v0", "24x24", 5)()
    frames = [e.reset(seed=0)[0] for e in (env, usual)]
    assert (frames[0] != frames[1]).any()
    env.close()
    usual.close()


def test_switches_reach_the_simulator_and_others_are_refused(tmp_path):
    def frames(**switches):
        settings = config(
            tmp_path / "-".join(["d", *switches.values()]), env_id="BridgeSim-v0", seed=1,
            tasks=("carrot_on_plate",), frame_size="32x32", steps=2, episodes=1, workers=1,
            behaviours={"random": 1.0}, switches=switches,
        )  # fmt: skip
        return collect(settings, progress=False)[0].frames

    plain, slate, two = frames(), frames(table="slate"), frames(cameras="shoulder,side")
    assert plain.shape == slate.shape == (3, 32, 32, 3) and two.shape == (3, 32, 64, 3)
    np.testing.assert_array_equal(two[:, :, :32], plain)
    assert np.abs(slate.astype(int) - plain).max() > 40
    with pytest.raises(ValueError, match=r"switches=\{'wind': 'strong'\} do not all belong to"):
        frames(wind="strong")
    with pytest.raises(ValueError, match=r"switches \['horizon'\] have settings of their own"):
        frames(horizon="3")
