"""Each published latent space on random weights of its real architecture, at a tiny size."""

import pytest
import torch

from wm_gym.latents.adapted import AdaptedSpace, NoDecoderError, SideBySideViews
from wm_gym.latents.cosmos import CosmosSpace
from wm_gym.latents.kl_vae import KLVAE, KLVAEConfig
from wm_gym.latents.pixel_decoder import PixelDecoder, PixelDecoderConfig
from wm_gym.latents.registry import LATENT_SPACES
from wm_gym.latents.sd3_vae import SD3VAESpace
from wm_gym.latents.siglip2 import SigLIP2Space
from wm_gym.latents.svae import SVAE, SVAEConfig
from wm_gym.latents.va_vae import VAVAESpace
from wm_gym.latents.vjepa21 import VJEPA21Config, VJEPA21Encoder, VJEPA21Space
from wm_gym.latents.web_dino import WebDINOSpace

SIZE = (64, 64)


def sd3_vae():
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=16,
        norm_num_groups=4,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return SD3VAESpace(vae, frame_size=SIZE)


def va_vae():
    cfg = KLVAEConfig(embed_dim=32, ch=32, num_res_blocks=1, ch_mult=(1, 1, 1, 1, 1))
    return VAVAESpace(KLVAE(cfg), frame_size=SIZE)


def cosmos():
    encoder = torch.nn.Conv2d(3, 16, 16, stride=16)
    decoder = torch.nn.ConvTranspose2d(16, 3, 16, stride=16)
    return CosmosSpace(torch.jit.script(encoder), torch.jit.script(decoder), frame_size=SIZE)


def vjepa():
    encoder = VJEPA21Encoder(VJEPA21Config(dim=48, depth=2, heads=2))
    return VJEPA21Space(encoder, frame_size=SIZE, input_size=SIZE)


def web_dino():
    from transformers import Dinov2Config, Dinov2Model

    cfg = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    return WebDINOSpace(Dinov2Model(cfg), frame_size=SIZE, input_size=(56, 56))


def siglip_config():
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
    )


def siglip2():
    from transformers import SiglipVisionModel

    encoder = SiglipVisionModel(siglip_config())
    return SigLIP2Space(encoder, frame_size=SIZE, input_size=(56, 56))


def vjepa96():
    svae = SVAE(SVAEConfig(48, 8, num_heads=2, num_layers=1, intermediate_size=64))
    decoder = PixelDecoder(PixelDecoderConfig(8, 8, (1, 1, 1, 1, 1), 1))
    return AdaptedSpace(vjepa(), svae, decoder, name="VJEPA96")


SPACES = {
    "VAE": (sd3_vae, (8, 8), 16),
    "VAVAE": (va_vae, (4, 4), 32),
    "Cosmos": (cosmos, (4, 4), 16),
    "VJEPA": (vjepa, (4, 4), 48),
    "WebDINO": (web_dino, (4, 4), 32),
    "SigLIP2": (siglip2, (4, 4), 32),
    "VJEPA96": (vjepa96, (4, 4), 8),
}
DECODING = ("VAE", "VAVAE", "Cosmos", "VJEPA96")


@pytest.fixture(params=SPACES)
def case(request):
    build, grid, channels = SPACES[request.param]
    torch.manual_seed(0)
    return request.param, build(), grid, channels


@pytest.fixture
def frames():
    return torch.randint(0, 256, (3, *SIZE, 3), generator=torch.Generator().manual_seed(1)).byte()


def test_latents_have_the_promised_grid_width_and_type(case, frames):
    name, space, grid, channels = case
    latents = space.encode(frames)
    assert (space.name, space.grid, space.channels) == (name, grid, channels)
    assert latents.shape == (3, *grid, channels)
    assert latents.dtype == torch.float32 and latents.isfinite().all()
    assert latents.std() > 1e-3


def test_encoding_is_a_function_of_the_frame_alone(case, frames):
    _, space, _, _ = case
    latents = space.encode(frames)
    torch.manual_seed(7)
    one_by_one = torch.cat([space.encode(frame[None]) for frame in frames])
    torch.testing.assert_close(one_by_one, latents, atol=1e-4, rtol=1e-4)
    assert torch.equal(space.encode(frames), latents)
    assert (space.encode(frames.roll(1, 0)) - latents).abs().max() > 1e-3


def test_decoding_gives_frames_of_the_same_size_or_says_what_is_missing(case, frames):
    name, space, _, _ = case
    latents = space.encode(frames)
    if name in DECODING:
        decoded = space.decode(latents)
        assert decoded.dtype == torch.uint8 and decoded.shape == frames.shape
        with pytest.raises(ValueError, match="decodes latents of shape"):
            space.decode(latents[..., :-1])
    else:
        with pytest.raises(NoDecoderError, match="no pixel decoder"):
            space.decode(latents)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 32, 64, 3).byte(), torch.zeros(1, 64, 64, 3), torch.zeros(64, 64, 3)]
)
def test_wrong_frames_are_refused(case, wrong):
    with pytest.raises(ValueError, match=r"takes uint8 frames of shape \(B, 64, 64, 3\)"):
        case[1].encode(wrong)


def test_bfloat16_weights_give_float32_latents_close_to_float32_ones(frames):
    torch.manual_seed(0)
    space = vjepa()
    exact = space.encode(frames)
    space.encoder.bfloat16()
    rounded = space.encode(frames)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)


def test_sd3_latents_are_scaled_and_never_shifted(frames):
    torch.manual_seed(0)
    space = sd3_vae()
    space.posterior = "mean"
    pixels = frames.permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        mean = space.vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(space.encode(frames), 1.5305 * mean.permute(0, 2, 3, 1))


def test_posterior_samples_are_standard_normal_around_the_mean(frames):
    torch.manual_seed(0)
    space = va_vae()
    many = torch.randint(0, 256, (24, *SIZE, 3)).byte()
    with torch.no_grad():
        mean, logvar = space.vae.moments(many.permute(0, 3, 1, 2) / 127.5 - 1)
    noise = (space.encode(many).permute(0, 3, 1, 2) - mean) / (0.5 * logvar).exp()
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03


def test_web_dino_drops_the_cls_token_and_normalises_by_imagenet(frames):
    torch.manual_seed(0)
    space = web_dino()
    x = frames.permute(0, 3, 1, 2) / 255
    x = torch.nn.functional.interpolate(x, (56, 56), mode="bicubic", align_corners=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        output = space.encoder((x - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(space.encode(frames).flatten(1, 2), output.last_hidden_state[:, 1:])


def test_siglip_latents_come_before_the_post_layernorm(frames):
    torch.manual_seed(0)
    space = siglip2()
    latents = space.encode(frames).flatten(1, 2)
    x = frames.permute(0, 3, 1, 2) / 127.5 - 1
    x = torch.nn.functional.interpolate(x, (56, 56), mode="bicubic", align_corners=False)
    with torch.no_grad():
        after = space.encoder(x).last_hidden_state
        torch.testing.assert_close(space._tower.post_layernorm(latents), after)
    assert (latents - after).abs().max() > 0.1


def test_vjepa_equals_a_plain_reading_of_its_facts(frames):
    """One block, one head, written out with complex numbers and explicit loops over positions."""
    torch.manual_seed(0)
    net = VJEPA21Encoder(VJEPA21Config(dim=20, depth=1, heads=1, patch=16)).eval()
    images = torch.randn(1, 3, 48, 32)
    torch.nn.init.normal_(net.img_mod_embed)
    p = dict(net.named_parameters())
    with torch.no_grad():
        tokens = []
        for i in range(3):
            for j in range(2):
                patch = images[0, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
                weight = p["patch_embed_img.proj.weight"][:, :, 0]
                tokens.append((weight * patch).sum((1, 2, 3)) + p["patch_embed_img.proj.bias"])
        x = torch.stack(tokens) + p["img_mod_embed"][0]
        normed = torch.nn.functional.layer_norm(x, (20,), eps=1e-6)
        block = net.blocks[0]
        query, key, value = block.attn["qkv"](normed).split(20, -1)

        def rotated(z):
            out = []
            for n, row in enumerate(z):
                # head width 20: 6 channels each for time, row and column, 2 are left alone
                positions = (0.0, (n // 2) * 15 / 2, (n % 2) * 15 / 1)
                parts = []
                for axis, position in enumerate(positions):
                    pairs = torch.view_as_complex(row[6 * axis : 6 * axis + 6].reshape(3, 2))
                    angles = position / 10_000 ** (torch.arange(3) / 3)
                    turned = pairs * torch.polar(torch.ones(3), angles)
                    parts.append(torch.view_as_real(turned).flatten())
                out.append(torch.cat([*parts, row[18:]]))
            return torch.stack(out)

        scores = rotated(query) @ rotated(key).T / 20**0.5
        x = x + block.attn["proj"](scores.softmax(-1) @ value)
        hidden = block.mlp["fc1"](torch.nn.functional.layer_norm(x, (20,), eps=1e-6))
        x = x + block.mlp["fc2"](torch.nn.functional.gelu(hidden))
        expected = torch.nn.functional.layer_norm(x, (20,), eps=1e-6)
        torch.testing.assert_close(net(images)[0].flatten(0, 1), expected, atol=1e-5, rtol=1e-4)


def test_kl_vae_equals_diffusers_on_the_same_weights():
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    torch.manual_seed(0)
    ours = KLVAE(KLVAEConfig(4, 32, (1, 2, 2), num_res_blocks=1, attn_resolutions=())).eval()
    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
    ).eval()
    converted = convert_ldm_vae_checkpoint(ours.state_dict(), theirs.config)
    theirs.load_state_dict(converted, strict=True)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        mean, logvar = ours.moments(pixels)
        posterior = theirs.encode(pixels).latent_dist
        torch.testing.assert_close(mean, posterior.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logvar, posterior.logvar, atol=1e-5, rtol=1e-4)
        decoded = theirs.decode(mean).sample
        torch.testing.assert_close(ours.decode(mean), decoded, atol=1e-5, rtol=1e-4)


def test_published_sizes_give_the_published_latents():
    """The real architectures on the meta device: only shapes are computed."""
    from diffusers import AutoencoderKL
    from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

    with torch.device("meta"):
        large = torch.zeros(1, 3, 256, 256)
        vjepa_tokens = VJEPA21Encoder(VJEPA21Config())(large)
        vavae_mean, _ = KLVAE(KLVAEConfig()).moments(large)
        dino = Dinov2Model(
            Dinov2Config(
                hidden_size=1024,
                num_hidden_layers=24,
                num_attention_heads=16,
                image_size=224,
                patch_size=14,
            )
        )
        siglip = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=1152,
                intermediate_size=4304,
                num_hidden_layers=27,
                num_attention_heads=16,
                image_size=224,
                patch_size=14,
            )
        )
        sd3 = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        found = {
            "VJEPA": tuple(vjepa_tokens.shape[1:]),
            "VAVAE": (*vavae_mean.shape[2:], vavae_mean.shape[1]),
            "VAE": (*sd3.encode(large).latent_dist.mean.shape[2:], 16),
        }
    for name, space in {
        "WebDINO": WebDINOSpace(dino),
        "SigLIP2": SigLIP2Space(siglip),
    }.items():
        found[name] = (*space.grid, space.channels)
    for name, shape in found.items():
        entry = LATENT_SPACES[name]
        assert shape == (*entry.grid, entry.channels), name


def test_vjepa_parameter_names_are_metas():
    with torch.device("meta"):
        keys = set(VJEPA21Encoder(VJEPA21Config()).state_dict())
    block = {
        f"blocks.23.{layer}.{kind}"
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }
    assert block <= keys
    assert {"patch_embed.proj.weight", "patch_embed_img.proj.bias", "norms_block.3.bias"} <= keys
    assert {"img_mod_embed", "video_mod_embed"} <= keys
    assert len(keys) == 24 * 12 + 4 + 4 * 2 + 2


def test_va_vae_parameter_names_are_ldms():
    with torch.device("meta"):
        keys = set(KLVAE(KLVAEConfig()).state_dict())
    assert {
        "encoder.down.4.attn.1.proj_out.weight",
        "encoder.down.0.downsample.conv.weight",
        "encoder.down.2.block.0.nin_shortcut.weight",
        "encoder.mid.attn_1.q.weight",
        "decoder.up.4.attn.2.norm.bias",
        "decoder.up.4.upsample.conv.weight",
        "decoder.up.1.block.0.nin_shortcut.weight",
        "decoder.mid.block_2.conv2.bias",
        "decoder.norm_out.weight",
        "quant_conv.weight",
        "post_quant_conv.bias",
    } <= keys
    assert "decoder.up.0.upsample.conv.weight" not in keys
    assert "encoder.down.4.downsample.conv.weight" not in keys


def test_a_native_space_can_be_painted_through_its_adapter(frames):
    torch.manual_seed(0)
    narrow = vjepa96()
    native = AdaptedSpace(
        narrow.base, narrow.svae, narrow.pixel_decoder, compressed=False, name="VJEPA"
    )
    assert native.channels == 48
    latents = native.encode(frames)
    assert torch.equal(latents, narrow.base.encode(frames))
    assert torch.equal(native.decode(latents), narrow.decode(narrow.encode(frames)))


def test_parts_that_do_not_fit_each_other_are_refused():
    svae = SVAE(SVAEConfig(32, 8, num_heads=2, num_layers=1, intermediate_size=64))
    with pytest.raises(ValueError, match="adapter takes 32 channels, but VJEPA has 48"):
        AdaptedSpace(vjepa(), svae)
    with pytest.raises(ValueError, match="pixel decoder takes 96 channels"):
        AdaptedSpace(vjepa(), vjepa96().svae, PixelDecoder(PixelDecoderConfig(96, 8, (1,), 1)))


def test_views_side_by_side_are_encoded_one_by_one(frames):
    torch.manual_seed(0)
    space = cosmos()
    wide = torch.cat([frames, frames.flip(1), frames.flip(2)], dim=2)
    views = SideBySideViews(space, 3)
    latents = views.encode(wide)
    assert (views.grid, views.frame_size) == ((4, 12), (64, 192))
    expected = [space.encode(f) for f in (frames, frames.flip(1), frames.flip(2))]
    torch.testing.assert_close(latents, torch.cat(expected, dim=2))
    decoded = [space.decode(z) for z in expected]
    assert (views.decode(latents).int() - torch.cat(decoded, dim=2).int()).abs().max() <= 1
    with pytest.raises(ValueError, match=r"Cosmos with 3 views takes .*\(B, 64, 192, 3\)"):
        views.encode(frames)
