import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.counter_env import CounterFactory
from wm_gym.data.clips import ClipDataset, ClipStarts, align
from wm_gym.data.latent_clips import LatentClips, changed_cells, precompute_latents
from wm_gym.envs.collect import CollectConfig, collect


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Episodes of 4 to 9 actions whose frames spell out the step and the sum of actions so far."""
    return collect(
        CollectConfig(
            out=tmp_path_factory.mktemp("clips") / "d",
            env_id="counter",
            episodes=8,
            behaviours={"expert": 0.5, "random": 0.5},
            tasks=("count",),
            steps=9,
            tail_steps=1,
            workers=1,
        ),
        CounterFactory(),
        progress=False,
    )


@pytest.fixture(scope="module")
def latents(episodes, tmp_path_factory):
    """The step, sum x, sum y of each state as latents (1, 1, 3)."""
    return precompute_latents(
        episodes,
        lambda frames: frames[:, :1, :1].astype(np.float32),
        tmp_path_factory.mktemp("latents") / "l",
        batch=4,
        progress=False,
    )


def check_clip(shown, clip, alignment, skip, last_state):
    """`shown` (T, 3) is what the frames spell: each action explains its own step and no other."""
    step, total = shown[:, 0].astype(int), shown[:, 1:].astype(int)
    pushes = np.rint(clip.actions.reshape(len(step), skip, 2).sum(1) * 10).astype(int)
    np.testing.assert_array_equal(step, clip.states)
    for i in range(len(step)):
        if not clip.known[i]:
            assert not clip.actions[i].any()
        neighbour = i - 1 if alignment == "target" else i + 1
        if not 0 <= neighbour < len(step) or not clip.known[i]:
            continue
        a, b = min(i, neighbour), max(i, neighbour)
        assert step[b] - step[a] == skip
        np.testing.assert_array_equal((total[b] - total[a]) % 256, pushes[i] % 256)
    for i in range(len(step)):
        if not clip.valid[i]:
            assert not clip.known[i]
        elif alignment == "target":
            assert clip.known[i] == (step[i] >= skip)
        else:
            assert clip.known[i] == (step[i] + skip <= last_state)
    for i in range(1, len(step)):  # a change of frame is always explained
        if step[i] != step[i - 1]:
            assert clip.known[i if alignment == "target" else i - 1]


arguments = given(
    length=st.integers(1, 7),
    skip=st.integers(1, 3),
    alignment=st.sampled_from(["target", "source"]),
    data=st.data(),
)


@settings(max_examples=60, deadline=None)
@arguments
def test_frames_and_actions_never_slip(episodes, latents, length, skip, alignment, data):
    pads = {p: data.draw(st.integers(0, length - 1)) for p in ("pad_start", "pad_end")}
    try:
        clips = ClipDataset(episodes, length, skip, alignment, **pads)
    except ValueError:
        assert episodes.lengths.max() < (length - 1 - pads["pad_end"]) * skip
        return
    index = data.draw(st.integers(0, len(clips) - 1))
    clip = clips[index]
    last_state = episodes.lengths[clip.episode]
    check_clip(clip.frames[:, 0, 0], clip, alignment, skip, last_state)
    assert (~clip.valid).sum() <= pads["pad_start"] + pads["pad_end"]
    twin = LatentClips(latents, length, skip, alignment, **pads)
    assert len(twin) == len(clips)
    batch = twin.window(index)
    check_clip(
        batch.frames[0, :, 0, 0],
        type(clip)(*(v[0] for v in vars(batch).values())),
        alignment,
        skip,
        last_state,
    )
    for name in ("actions", "known", "valid", "states"):
        np.testing.assert_array_equal(getattr(batch, name)[0], getattr(clip, name))
    np.testing.assert_array_equal(twin.privileged[batch.rows[0], 0], clip.states)


def test_a_start_under_both_alignments_by_hand():
    target = align(np.array([-2]), np.array([3]), 7, 1, "target")
    assert target.states[0].tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert target.known[0].tolist() == [False, False, False, True, True, True, False]
    assert target.actions[0, :, 0].tolist() == [0, 0, 0, 0, 1, 2, 0]
    assert target.valid[0].tolist() == [False, False, True, True, True, True, False]
    source = align(np.array([-2]), np.array([3]), 7, 1, "source")
    assert source.known[0].tolist() == [False, False, True, True, True, False, False]
    assert source.actions[0, :, 0].tolist() == [0, 0, 0, 1, 2, 0, 0]


def test_a_clip_within_an_episode_knows_the_action_before_its_first_frame():
    slots = align(np.array([4]), np.array([9]), 3, 2, "target")
    assert slots.known[0].all()
    assert slots.actions[0].tolist() == [[2, 3], [4, 5], [6, 7]]


def test_the_last_frame_is_repeated_on_the_grid_of_the_clip():
    slots = align(np.array([0]), np.array([3]), 4, 2, "target")
    assert slots.states[0].tolist() == [0, 2, 2, 2]  # state 3 would be half a step away


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    length=st.integers(1, 6),
    skip=st.integers(1, 3),
    data=st.data(),
)
def test_every_start_is_counted_once(steps, length, skip, data):
    before, after = (data.draw(st.integers(0, length - 1)) for _ in range(2))
    expected = [
        (e, start)
        for e, count in enumerate(steps)
        for start in [*range(-before * skip, 0, skip), *range(count + 1)]
        if start + (length - 1 - after) * skip <= count
    ]
    if not expected:
        with pytest.raises(ValueError, match="long enough"):
            ClipStarts(np.array(steps), length, skip, before, after)
        return
    starts = ClipStarts(np.array(steps), length, skip, before, after)
    found = starts.place(np.arange(len(starts)))
    assert list(zip(*(a.tolist() for a in found), strict=True)) == expected


def test_batches_are_a_function_of_seed_and_step(latents):
    a, b = (LatentClips(latents, 4, pad_start=2, in_memory=m) for m in (False, True))
    one, same = a.sample(3, 17, 16), b.sample(3, 17, 16)
    for x, y in zip(vars(one).values(), vars(same).values(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert (one.rows != a.sample(3, 18, 16).rows).any()
    assert (one.rows != a.sample(4, 17, 16).rows).any()


def test_pixel_and_latent_batches_agree(episodes, latents):
    pixels = ClipDataset(episodes, 4, pad_start=2).sample(3, 17, 16)
    batch = LatentClips(latents, 4, pad_start=2).sample(3, 17, 16)
    np.testing.assert_array_equal(pixels.frames[:, :, :1, :1], batch.frames)
    np.testing.assert_array_equal(pixels.actions, batch.actions)


def test_chosen_episodes_only(latents):
    batch = LatentClips(latents, 3, episodes=np.array([6, 2])).sample(0, 0, 64)
    assert set(batch.episode.tolist()) == {2, 6}
    full = LatentClips(latents, 3)
    np.testing.assert_array_equal(full.privileged[batch.rows][..., 0], batch.states)


def test_latents_are_kept_while_their_source_is_the_same(episodes, tmp_path):
    calls = []

    def encode(frames):
        calls.append(len(frames))
        return frames[:, :1, :1].astype(np.float32)

    def write(encoder, out="l"):
        precompute_latents(
            episodes, encode, tmp_path / out, source={"encoder": encoder}, progress=False
        )

    write("a")
    write("a")
    assert len(calls) == 8
    with pytest.raises(ValueError, match="encoder: 'a' there, 'b' now"):
        write("b")
    assert LatentClips(tmp_path / "l", 3).sample(0, 0, 1).frames.shape == (1, 3, 1, 1, 3)
    (tmp_path / "mine").mkdir()
    write("a", "mine")  # an empty folder is taken
    for name in ("source.json", "latents.npy"):
        (tmp_path / "mine" / name).unlink()
    with pytest.raises(ValueError, match="is there already and holds no latents"):
        write("a", "mine")
    assert (tmp_path / "mine" / "success.npy").exists() and len(calls) == 16
    (tmp_path / "mine" / "source.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"source\.json, .* cannot be read"):
        write("a", "mine")
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    write("a", "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "latents.npy").exists()
    (tmp_path / "link").unlink()
    shutil.rmtree(tmp_path / "disk")
    with pytest.raises(ValueError, match="batch=0; expected at least 1"):
        precompute_latents(episodes, encode, tmp_path / "m", batch=0)
    with pytest.raises(ValueError, match="NaN"):
        precompute_latents(
            episodes, lambda f: np.full((len(f), 1, 1, 1), np.nan), tmp_path / "m", progress=False
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alignment": "both"}, "alignment 'both'"),
        ({"starts": np.array([-1]), "frame_skip": 2}, "multiples of"),
        ({"starts": np.array([10])}, "last state"),
        ({"length": 0}, "at least 1"),
    ],
)
def test_impossible_slots_are_refused(changes, message):
    arguments = {
        "starts": np.array([0]),
        "steps": np.array([9]),
        "length": 3,
        "frame_skip": 1,
        "alignment": "target",
    }
    with pytest.raises(ValueError, match=message):
        align(**(arguments | changes))


def test_weighted_clips_are_drawn_in_proportion_to_their_states(tmp_path: Path):
    """The chance of a clip is its states' mean weight; cells that changed are counted by hand."""
    steps = np.array([6, 3])
    bounds = np.array([0, 7, 11])
    latents = np.zeros((11, 2, 2, 1), np.float16)
    latents[4:7, 0, 0] = 1.0  # one cell changes between states 3 and 4 of the first episode
    latents[9:, :, :] = 1.0  # four cells change between states 1 and 2 of the second
    counts = changed_cells(latents, bounds, np.array([2.0]), 0.25)
    assert counts.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 4, 0]
    assert changed_cells(latents, bounds, np.array([2.0]), 0.6).sum() == 0
    for name, value in {
        "latents": latents,
        "bounds": bounds,
        "actions": np.zeros((11, 2), np.float32),
        "privileged": np.zeros((11, 1), np.float32),
        "success": np.zeros(11, bool),
    }.items():
        np.save(tmp_path / f"{name}.npy", value)
    (tmp_path / "source.json").write_text("{}", encoding="utf-8")
    clips = LatentClips(tmp_path, length=3, frame_weights=counts + 1)
    expected = np.array([(counts + 1)[s : s + 3].sum() for s in (0, 1, 2, 3, 4, 7, 8)])
    assert len(clips) == len(expected) == (steps - 1).sum()
    drawn = clips.starts.draw(0, 0, 20000, clips._cumulative)
    share = np.bincount(drawn, minlength=len(expected)) / len(drawn)
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.015)
    assert np.array_equal(clips.sample(3, 5, 8).states, clips.sample(3, 5, 8).states)
    with pytest.raises(ValueError, match=r"least 0, expected \(11,\) positive numbers"):
        LatentClips(tmp_path, length=3, frame_weights=counts)
