"""Facts about rollouts: cache modes agree, rows are independent, copies and snapshots are exact."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch

from wm_gym.dynamics.rollout import LatentHistory, Rollout

LENGTH = 5


def images(rows: int, seed: int = 0, size: tuple[int, int] = (4, 4)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, *size, 3), generator=generator, dtype=torch.uint8)


def actions(
    steps: int,
    rows: int,
    seed: int = 1,
    low: Sequence = (-0.03, -0.03),
    high: Sequence = (0.03,) * 2,
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(steps, rows, len(low), generator=generator)
    return torch.tensor(low) + share * (torch.tensor(high) - torch.tensor(low))


def eventful(model, cache: str, **options) -> torch.Tensor:
    """30 steps with partial restarts and two forks; every latent that came out, (30, 4, …)."""
    frame, action_spec = model.spec.frame, model.spec.action
    shown = partial(images, size=(frame.height, frame.width))
    acted = partial(actions, low=action_spec.low, high=action_spec.high)
    rollout = Rollout(model, shown(3), seeds=[1, 2, 3], cache=cache, **options)
    out = []
    for step, action in enumerate(acted(30, 4)):
        if step == 4:
            rollout.restart([1], shown(1, seed=9), seeds=[7])
        if step == 11:
            history = shown(6, seed=10).unflatten(0, (2, 3))
            rollout.restart([0, 2], history, seeds=[8, 9], actions=acted(2, 2, 5).transpose(0, 1))
        if step == 13:
            rollout = rollout.fork([0, 0, 2, 2], seeds=[1, 2, 3, 4])
        if step == 15:
            rollout.restart([3], shown(1, seed=11), seeds=[5])
        if step == 22:
            rollout = rollout.fork([3, 1, 0, 0])
        rows = rollout.rows
        out.append(
            torch.nn.functional.pad(rollout.step(action[:rows]).flatten(1), (0, 0, 0, 4 - rows))
        )
    return torch.stack(out)


@pytest.mark.parametrize(
    ("kind", "cache"),
    [("window", "exact"), ("banded", "exact"), ("banded", "rolling")],
)
@pytest.mark.parametrize(
    ("alignment", "options"),
    [
        ("target", {}),
        ("source", {}),
        ("target", {"guidance": 1.7}),
        ("source", {"micro_batch": 3}),
        ("target", {"micro_batch": 3}),
    ],
)
def test_exact_caches_equal_recomputation(toy, kind, cache, alignment, options):
    model = toy(kind, LENGTH, alignment)
    reference = eventful(model, "off", **options)
    torch.testing.assert_close(eventful(model, cache, **options), reference, atol=1e-4, rtol=0)
    assert reference.abs().max() > 0.5


def test_the_caches_of_whole_models_equal_recomputation(any_model):
    reference = eventful(any_model, "off")
    for cache in ("exact", "rolling"):  # all are banded
        torch.testing.assert_close(eventful(any_model, cache), reference, atol=1e-4, rtol=0)
    assert reference.abs().max() > 0.5


@pytest.mark.parametrize(("kind", "cache"), [("window", "exact"), ("banded", "rolling")])
def test_caches_are_exact_for_several_cameras_too(toy, kind, cache):
    """Two cameras of 4 x 2 cells stand side by side; only the network knows that they are two."""
    model = toy(kind, LENGTH, views=2)
    reference = eventful(model, "off")
    torch.testing.assert_close(eventful(model, cache), reference, atol=1e-4, rtol=0)
    one_wide_camera = eventful(toy(kind, LENGTH), "off")
    assert (one_wide_camera - reference).abs().max() > 0.05


def test_rolling_a_window_model_is_exact_until_the_window_slides_and_only_then_differs(toy):
    model = toy("window", LENGTH)
    rolling, off = (Rollout(model, images(2), seeds=[1, 2], cache=c) for c in ("rolling", "off"))
    gaps = [(rolling.step(a) - off.step(a)).abs().max().item() for a in actions(10, 2)]
    unslid = LENGTH - model.spec.context.history
    assert max(gaps[:unslid]) < 1e-4
    assert min(gaps[unslid:]) > 1e-3


def test_auto_is_the_fastest_exact_mode(toy):
    assert Rollout(toy("banded", 4), images(1), seeds=[0]).cache_mode == "rolling"
    assert Rollout(toy("window", 4), images(1), seeds=[0]).cache_mode == "exact"


@pytest.mark.parametrize(
    ("kind", "cache", "passes"),
    # K = 2 passes over the new frame, and its context: again at every pass, once, or one frame
    [("window", "off", 2 * LENGTH), ("window", "exact", 2 + LENGTH - 1), ("banded", "rolling", 3)],
)
def test_frame_passes_of_one_step_at_full_context(toy, kind, cache, passes):
    rollout = Rollout(toy(kind, LENGTH), images(2), seeds=[0, 1], cache=cache)
    for action in actions(12, 2):
        before = rollout.frame_passes
        rollout.step(action)
    assert rollout.frame_passes - before == 2 * passes


@pytest.mark.parametrize("kind", ["window", "banded"])
def test_a_row_of_a_batch_equals_the_same_row_alone(toy, kind):
    model = toy(kind, LENGTH)
    together = Rollout(model, images(3), seeds=[4, 5, 6])
    alone = Rollout(model, images(3)[1:2], seeds=[5])
    for step, action in enumerate(actions(30, 3)):
        if step in (3, 17):  # a neighbour's reset changes nothing
            together.restart([2], images(1, seed=step), seeds=[step])
        torch.testing.assert_close(
            together.step(action)[1:2], alone.step(action[1:2]), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("kind", ["window", "banded"])
def test_a_restarted_row_equals_a_new_rollout(toy, kind):
    model = toy(kind, LENGTH)
    used = Rollout(model, images(2), seeds=[4, 5])
    for action in actions(9, 2):
        used.step(action)
    used.restart([0], images(1, seed=3), seeds=[6])
    fresh = Rollout(model, images(1, seed=3), seeds=[6])
    for action in actions(12, 2, seed=2):
        torch.testing.assert_close(used.step(action)[:1], fresh.step(action[:1]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("alignment", ["target", "source"])
@pytest.mark.parametrize("cache", ["off", "exact", "rolling"])
@pytest.mark.parametrize("forked", [False, True])
def test_a_restored_snapshot_goes_on_identically(toy, cache, alignment, forked):
    model = toy("window", LENGTH, alignment)
    rollout = Rollout(model, images(2), seeds=[4, 2**63 + 5], cache=cache, guidance=1.5)
    for action in actions(7, 2):
        rollout.step(action)
    if forked:
        rollout = rollout.fork([0, 0, 1, 1], seeds=[1, 2, 3, 4])
        rollout.step(actions(1, 4)[0])
    restored = Rollout.restore(model, rollout.snapshot())
    assert torch.equal(restored.surprise, rollout.surprise)
    for action in actions(7, rollout.rows, seed=3):
        assert torch.equal(rollout.step(action), restored.step(action))
    assert rollout.frame_passes == restored.frame_passes


def test_forks_share_their_prefix_and_leave_the_parent_alone(toy):
    model = toy("banded", LENGTH)
    parent, twin = (Rollout(model, images(2), seeds=[4, 5]) for _ in range(2))
    for action in actions(8, 2):
        parent.step(action), twin.step(action)
    child = parent.fork(np.repeat([0, 1], 50), seeds=range(100))
    per_row = parent.caches[0].nbytes() / 2
    assert child.caches[0].nbytes() <= 2 * per_row
    first = child.step(actions(1, 2, seed=6)[0].repeat_interleave(50, 0))
    assert (first[0] - first[1]).abs().max() > 1e-3  # other seeds, other samples
    assert child.caches[0].nbytes() < 100 * per_row
    for action in actions(6, 2, seed=7):
        assert torch.equal(parent.step(action), twin.step(action))


def test_copies_share_a_slid_window_whatever_the_alignment(toy):
    for alignment in ("target", "source"):
        model = toy("window", LENGTH, alignment)
        parent, twin = (Rollout(model, images(2), seeds=[4, 5]) for _ in range(2))
        reference = Rollout(model, images(2), seeds=[4, 5], cache="off")
        for action in actions(8, 2):
            parent.step(action), twin.step(action), reference.step(action)
        child, plain = (each.fork(np.repeat([0, 1], 20)) for each in (parent, reference))
        for number, action in enumerate(actions(3, 40, seed=6)):
            found, expected = child.step(action), plain.step(action)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
            if number == 0:  # one frame a copy at most, and two contexts for all
                frame = parent.caches[0].nbytes() / (2 * (LENGTH - 1))
                assert child.caches[0].nbytes() <= (40 + 2 * (LENGTH - 1)) * frame
        for action in actions(6, 2, seed=7):
            assert torch.equal(parent.step(action), twin.step(action))


def test_copies_with_the_same_seeds_meet_the_same_noise(toy):
    rollout = Rollout(toy("banded", LENGTH), images(1), seeds=[4])
    rollout.step(actions(1, 1)[0])
    child = rollout.fork([0, 0, 0])
    for action in actions(5, 1):
        latents = child.step(action.expand(3, -1))
        torch.testing.assert_close(
            latents, rollout.step(action).expand_as(latents), atol=1e-4, rtol=0
        )


def test_a_world_model_begins_with_guidance_in_small_batches(tiny_model):
    frames, action = images(2, seed=3).repeat(1, 8, 8, 1), actions(1, 2)[0]
    settings = {"seeds": [1, 2], "guidance": 1.5}
    rollout = tiny_model.begin(frames, **settings, micro_batch=1)
    assert (len(rollout.caches), rollout.micro_batch) == (2, 1)
    expected = Rollout(tiny_model, frames, **settings).step(action)
    torch.testing.assert_close(rollout.step(action), expected, atol=1e-4, rtol=0)


def test_a_chunk_equals_its_single_steps(toy):
    model = toy("window", LENGTH)
    chunked, single = (Rollout(model, images(2), seeds=[4, 5]) for _ in range(2))
    chunk = actions(6, 2)
    latents = chunked.step(chunk.transpose(0, 1))
    assert torch.equal(latents, torch.stack([single.step(action) for action in chunk], 1))


def test_frames_are_decoded_only_when_asked_for_and_once(toy):
    model = toy("banded", LENGTH)
    rollout = Rollout(model, images(2), seeds=[4, 5])
    rollout.step(actions(3, 2).transpose(0, 1))
    assert model.decodes == 0
    first = rollout.frames()
    assert rollout.frames() is first
    assert model.decodes == 1
    assert first.shape == (2, 4, 4, 3)
    rollout.restart([1], images(1, seed=5), seeds=[0])
    assert torch.equal(rollout.frames()[1:], images(1, seed=5))


@pytest.mark.parametrize(
    ("kind", "cache"), [("window", "exact"), ("banded", "rolling"), ("banded", "off")]
)
def test_memory_stays_flat(toy, kind, cache):
    rollout = Rollout(toy(kind, 3, steps=1), images(1), seeds=[4], cache=cache)
    sizes = []
    for step, action in enumerate(actions(60, 1)):
        rollout.step(action)
        if step >= 20:
            sizes.append(rollout.nbytes())
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("alignment", ["target", "source"])
def test_slots_hold_the_actions_the_card_says(toy, alignment):
    """Actions 0 … 2 led through a history of four frames, action 3 makes the fifth."""
    model = toy("window", 6, alignment)
    past = actions(3, 1).transpose(0, 1)
    rollout = Rollout(model, images(4)[None], past, seeds=[0])
    latest = actions(1, 1, seed=8)[0]
    rollout.step(latest)
    known = model.spec.action.normalise(torch.cat([past[0], latest]))
    null = model.spec.action.null_action()[None]
    order = [null, known] if alignment == "target" else [known, null]
    assert torch.equal(rollout.slots[0], torch.cat(order))


def test_a_single_image_is_its_own_history(toy):
    model = toy("window", LENGTH)
    image = images(1)
    null = model.spec.action.null_action().expand(1, 2, -1)
    history = LatentHistory(model.encode(image)[:, None].expand(-1, 2, -1, -1, -1), null)
    one, two = Rollout(model, image, seeds=[3]), Rollout(model, history, seeds=[3])
    action = actions(1, 1)[0]
    assert torch.equal(one.step(action), two.step(action))


def test_a_wrong_shape_is_named_and_changes_nothing(toy):
    model = toy("banded", LENGTH)
    rollout, twin = (Rollout(model, images(2), seeds=[4, 5]) for _ in range(2))
    for wrong in (torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2), torch.zeros(2, 4, 3)):
        with pytest.raises(ValueError, match=r"expected \(2, 2\) or \(2, n, 2\)"):
            rollout.step(wrong)
    action = actions(1, 2)[0]
    assert torch.equal(rollout.step(action), twin.step(action))
    with pytest.raises(ValueError, match="cache must be"):
        Rollout(model, images(1), seeds=[0], cache="fast")
    with pytest.raises(ValueError, match="as many histories and seeds"):
        Rollout(model, images(2), seeds=[0])


def test_surprise_is_zero_before_the_first_step_and_then_per_row(toy):
    rollout = Rollout(toy("banded", LENGTH), images(2), seeds=[4, 5])
    assert not rollout.surprise.any()
    rollout.step(actions(1, 2)[0])
    assert rollout.surprise.shape == (2,)
    assert (rollout.surprise > 0).all()


@pytest.mark.parametrize("cache", ["off", "rolling"])
def test_surprise_is_not_a_number_at_one_denoising_step(toy, cache):
    """One step's first guess is its last: a difference of 0 would pass for certainty."""
    rollout = Rollout(toy("banded", LENGTH, steps=1), images(2), seeds=[4, 5], cache=cache)
    latents = rollout.step(actions(1, 2)[0])
    assert rollout.surprise.isnan().all() and latents.isfinite().all()
    assert Rollout.restore(rollout.world_model, rollout.snapshot()).surprise.isnan().all()
