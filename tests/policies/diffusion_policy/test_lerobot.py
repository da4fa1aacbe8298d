"""Checkpoints with LeRobot's names, shapes and config.json, made here with random numbers."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wm_gym.policies.base import Observation, PolicyError, load_policy, save_policy
from wm_gym.policies.diffusion_policy.lerobot import load_lerobot
from wm_gym.spec import ActionSpec, FrameSpec

PUSHT = ActionSpec(
    ("x", "y"), ("px", "px"), (0.0, 0.0), (512.0, 512.0), (1.0,) * 2, (0.0,) * 2, 2, control_hz=10
)
FRAMES = FrameSpec(96, 96, "top")
STATE, KEYPOINTS, DIMS, TIME = 2, 4, (8, 16), 8
CONFIG = {
    "type": "diffusion",
    "n_obs_steps": 2,
    "horizon": 16,
    "n_action_steps": 8,
    "input_features": {
        "observation.image": {"type": "VISUAL", "shape": [3, 96, 96]},
        "observation.state": {"type": "STATE", "shape": [STATE]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
    "vision_backbone": "resnet18",
    "crop_shape": [84, 84],
    "use_group_norm": True,
    "spatial_softmax_num_keypoints": KEYPOINTS,
    "use_separate_rgb_encoder_per_camera": False,
    "down_dims": list(DIMS),
    "kernel_size": 5,
    "n_groups": 8,
    "diffusion_step_embed_dim": TIME,
    "use_film_scale_modulation": True,
    "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
}


def unet_shapes():
    """Names and shapes of the U-Net, written out as LeRobot's modules nest."""
    condition = TIME + 2 * (STATE + 2 * KEYPOINTS)
    shapes = {
        "diffusion_step_encoder.1": (4 * TIME, TIME),
        "diffusion_step_encoder.3": (TIME, 4 * TIME),
    }

    def block(name, inside, outside):
        shapes[f"{name}.conv1.block.0"] = (outside, inside, 5)
        shapes[f"{name}.conv1.block.1"] = (outside,)
        shapes[f"{name}.cond_encoder.1"] = (2 * outside, condition)
        shapes[f"{name}.conv2.block.0"] = (outside, outside, 5)
        shapes[f"{name}.conv2.block.1"] = (outside,)
        if inside != outside:
            shapes[f"{name}.residual_conv"] = (outside, inside, 1)

    block("down_modules.0.0", 2, 8)
    block("down_modules.0.1", 8, 8)
    shapes["down_modules.0.2"] = (8, 8, 3)
    block("down_modules.1.0", 8, 16)
    block("down_modules.1.1", 16, 16)
    block("mid_modules.0", 16, 16)
    block("mid_modules.1", 16, 16)
    block("up_modules.0.0", 32, 8)
    block("up_modules.0.1", 8, 8)
    shapes["up_modules.0.2"] = (8, 8, 4)
    shapes["final_conv.0.block.0"] = (8, 8, 5)
    shapes["final_conv.0.block.1"] = (8,)
    shapes["final_conv.1"] = (2, 8, 1)
    return shapes


def checkpoint():
    """A state dict of a policy with one camera."""
    random = torch.Generator().manual_seed(0)
    tensors = {}

    def add(name, shape, bias=True):
        tensors[f"diffusion.{name}.weight"] = 0.1 * torch.randn(shape, generator=random)
        if bias:
            tensors[f"diffusion.{name}.bias"] = 0.1 * torch.randn(shape[0], generator=random)

    for name, shape in unet_shapes().items():
        add(f"unet.{name}", shape)
    encoder = "rgb_encoder.backbone"
    add(f"{encoder}.0", (64, 3, 7, 7), bias=False)
    add(f"{encoder}.1", (64,))
    inside = 64
    for stage, width in enumerate((64, 128, 256, 512), 4):
        for number in (0, 1):
            at = f"{encoder}.{stage}.{number}"
            add(f"{at}.conv1", (width, inside, 3, 3), bias=False)
            add(f"{at}.bn1", (width,))
            add(f"{at}.conv2", (width, width, 3, 3), bias=False)
            add(f"{at}.bn2", (width,))
            if inside != width:
                add(f"{at}.downsample.0", (width, inside, 1, 1), bias=False)
                add(f"{at}.downsample.1", (width,))
            inside = width
    add("rgb_encoder.pool.nets", (KEYPOINTS, 512, 1, 1))
    add("rgb_encoder.out", (2 * KEYPOINTS, 2 * KEYPOINTS))
    tensors["diffusion.rgb_encoder.pool.pos_grid"] = torch.zeros(9, 2)
    return tensors


STATISTICS = {
    "observation.image.mean": torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1),
    "observation.image.std": torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1),
    "observation.state.min": torch.tensor([0.0, 100.0]),
    "observation.state.max": torch.tensor([400.0, 500.0]),
    "action.min": torch.tensor([10.0, 20.0]),
    "action.max": torch.tensor([500.0, 480.0]),
}


def write(folder, config=CONFIG, tensors=None, inside=True):
    """Statistics lie among the weights (older checkpoints) or in the processors' files."""
    folder.mkdir(exist_ok=True)
    tensors = dict(checkpoint() if tensors is None else tensors)
    if inside:
        for name, value in STATISTICS.items():
            feature, _, statistic = name.rpartition(".")
            owner = "unnormalize_outputs" if feature == "action" else "normalize_inputs"
            tensors[f"{owner}.buffer_{feature.replace('.', '_')}.{statistic}"] = value.clone()
    else:
        path = folder / "policy_preprocessor_step_3_normalizer_processor.safetensors"
        save_file(STATISTICS, path)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def observe():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96, 3), np.uint8)
    return Observation(
        frames[:, 1], ("whatever", ""), np.zeros(2, int), np.arange(2), frames[:, :1]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lerobot"))


def test_every_weight_of_a_checkpoint_is_taken(folder, tmp_path):
    policy = load_lerobot(folder, PUSHT, FRAMES, state=(200.0, 200.0))
    ours = policy.weights()
    theirs = {k: v for k, v in checkpoint().items() if not k.endswith("pos_grid")}
    assert {f"diffusion.{name}" for name in ours} == set(theirs)
    assert all(torch.equal(ours[k.removeprefix("diffusion.")], v) for k, v in theirs.items())
    np.testing.assert_allclose(policy.low, [10, 20])
    np.testing.assert_allclose(policy.high, [500, 480], rtol=1e-6)
    np.testing.assert_allclose(policy.state, [0.0, -0.5], atol=1e-6)  # within min and max
    assert policy.network.config.image_mean == pytest.approx((0.4, 0.5, 0.6))
    assert (policy.execute, policy.frame_history) == (8, 1)
    policy.reset([0, 1], [0, 1], ["", ""])
    actions = policy.act(observe())
    assert actions.shape == (2, 8, 2)
    saved = load_policy(save_policy(policy, tmp_path / "policy"))
    saved.reset([0, 1], [0, 1], ["", ""])
    np.testing.assert_array_equal(saved.act(observe()), actions)
    other = load_lerobot(folder, PUSHT, FRAMES, state=(0.0, 500.0))
    other.reset([0, 1], [0, 1], ["", ""])
    assert np.abs(other.act(observe()) - actions).max() > 0


def test_the_encoder_computes_what_the_layers_in_lerobots_order_do(folder):
    """Crop to the middle, layers by functional calls, softmax over places, linear, ReLU."""
    import torch.nn.functional as F

    policy = load_lerobot(folder, PUSHT, FRAMES, state=(0.0, 0.0))
    encoder = policy.network.rgb_encoder
    frames = torch.from_numpy(observe().frames)
    theirs = load_file(folder / "model.safetensors")

    def get(name):
        return theirs[f"diffusion.rgb_encoder.{name}"]

    def norm(x, name):
        return F.group_norm(x, x.shape[1] // 16, get(f"{name}.weight"), get(f"{name}.bias"))

    x = frames.permute(0, 3, 1, 2).float() / 255
    x = (x - STATISTICS["observation.image.mean"]) / STATISTICS["observation.image.std"]
    x = F.conv2d(x[:, :, 6:90, 6:90], get("backbone.0.weight"), stride=2, padding=3)
    x = F.max_pool2d(norm(x, "backbone.1").relu(), 3, 2, 1)
    for stage in range(4, 8):
        for number in (0, 1):
            at = f"backbone.{stage}.{number}"
            stride = 2 if stage > 4 and number == 0 else 1
            y = F.conv2d(x, get(f"{at}.conv1.weight"), stride=stride, padding=1)
            y = F.conv2d(norm(y, f"{at}.bn1").relu(), get(f"{at}.conv2.weight"), padding=1)
            y = norm(y, f"{at}.bn2")
            if stride == 2:
                x = F.conv2d(x, get(f"{at}.downsample.0.weight"), stride=2)
                x = norm(x, f"{at}.downsample.1")
            x = (x + y).relu()
    maps = F.conv2d(x, get("pool.nets.weight"), get("pool.nets.bias"))
    side = np.linspace(-1.0, 1.0, maps.shape[-1])
    grid = torch.from_numpy(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)).float()
    points = maps.flatten(2).softmax(-1) @ grid
    expected = F.linear(points.flatten(1), get("out.weight"), get("out.bias")).relu()
    with torch.inference_mode():
        torch.testing.assert_close(encoder(frames), expected, rtol=1e-4, atol=1e-5)


def test_newer_checkpoints_keep_statistics_in_files_of_their_own(folder, tmp_path):
    config = {**CONFIG, "use_separate_rgb_encoder_per_camera": True}
    tensors = {k.replace("rgb_encoder.", "rgb_encoder.0."): v for k, v in checkpoint().items()}
    newer = load_lerobot(
        write(tmp_path / "newer", config, tensors, inside=False), PUSHT, FRAMES, state=(1.0, 2.0)
    )
    older = load_lerobot(folder, PUSHT, FRAMES, state=(1.0, 2.0))
    for policy in (newer, older):
        policy.reset([0, 1], [0, 1], ["", ""])
    np.testing.assert_array_equal(newer.act(observe()), older.act(observe()))


def test_the_first_layout_of_config_json_is_read(folder, tmp_path):
    config = {k: v for k, v in CONFIG.items() if not k.endswith("_features") and k != "type"}
    del config["normalization_mapping"]
    config |= {
        "input_shapes": {"observation.image": [3, 96, 96], "observation.state": [2]},
        "output_shapes": {"action": [2]},
        "input_normalization_modes": {
            "observation.image": "mean_std",
            "observation.state": "min_max",
        },
        "output_normalization_modes": {"action": "min_max"},
    }
    policy = load_lerobot(write(tmp_path / "old", config), PUSHT, FRAMES, state=(200.0, 200.0))
    np.testing.assert_allclose(policy.state, [0.0, -0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "act"}, "it is a 'act' policy"),
        (
            {"input_features": CONFIG["input_features"] | {"observation.images.b": {"shape": [3]}}},
            "looks at 2 cameras",
        ),
        (
            {
                "input_features": CONFIG["input_features"]
                | {"observation.environment_state": {"shape": [4]}}
            },
            r"trained with \['observation.environment_state'\], which no policy sees",
        ),
        ({"vision_backbone": "resnet50"}, "'resnet50'; expected one of"),
        ({"resize_shape": [64, 64]}, r"resizes frames to \[64, 64\]"),
        ({"output_features": {"action": {"shape": [7]}}}, "7 components, action_spec has 2"),
        (
            {"down_dims": [8, 24]},
            r"does not fit LeRobot's .* mismatch for unet.* … and \d+ more",
        ),
        ({"use_group_norm": False}, r"(?s)Missing key.*running_mean"),
        (
            {"normalization_mapping": CONFIG["normalization_mapping"] | {"STATE": "QUANTILES"}},
            "observation.state is normalised by 'quantiles'",
        ),
        (
            {"normalization_mapping": CONFIG["normalization_mapping"] | {"ACTION": "MEAN_STD"}},
            r"statistics \['action.mean', 'action.std'\] of action are in neither",
        ),
    ],
)
def test_what_does_not_fit_is_said(changes, message, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").symlink_to(folder / "model.safetensors")
    (other / "config.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    with pytest.raises(PolicyError, match=message):
        load_lerobot(other, PUSHT, FRAMES, state=(0.0, 0.0))


def test_frames_of_another_size_a_missing_state_and_no_checkpoint_are_refused(folder, tmp_path):
    with pytest.raises(PolicyError, match=r"frames have the shape \[3, 96, 96\].*\[3, 64, 64\]"):
        load_lerobot(folder, PUSHT, FrameSpec(64, 64, "top"), state=(0.0, 0.0))
    with pytest.raises(PolicyError, match="policies see frames and words only; got state=None"):
        load_lerobot(folder, PUSHT, FRAMES)
    with pytest.raises(PolicyError, match="holds no LeRobot policy"):
        load_lerobot(tmp_path, PUSHT, FRAMES)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"[1]", "holds no LeRobot policy"),
        ("config.json", b"\xff\xfe", "holds no LeRobot policy"),
        ("config.json", b'{"input_features": {"observation.image": [3]}}', "no shapes of input"),
        ("model.safetensors", b"no tensors", "holds no LeRobot policy"),
    ],
)
def test_damaged_files_are_named(file, content, message, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_bytes(content)
    with pytest.raises(PolicyError, match=message):
        load_lerobot(tmp_path, PUSHT, FRAMES, state=[1.0, 2.0])
