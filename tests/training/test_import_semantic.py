"""`wm-gym import-semantic`: transformers' own PaliGemma answers the same after the import."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from tests.semantic.conftest import TINY
from tests.semantic.episodes import write_episodes
from wm_gym.checkpoints import CheckpointError
from wm_gym.cli import main
from wm_gym.envs.collect_qa import CollectQAConfig, collect_qa
from wm_gym.semantic.attention import Asked
from wm_gym.semantic.tokens import langtable_tokenizer
from wm_gym.semantic.world_model import load_semantic_model
from wm_gym.training.import_semantic import ImportSemanticConfig, import_semantic
from wm_gym.training.loop import LoopConfig
from wm_gym.training.semantic import TrainSemanticConfig, train_semantic


@pytest.fixture(scope="module")
def base():
    """A tiny PaliGemma of transformers with random weights."""
    sizes = replace(TINY, vocabulary=langtable_tokenizer().size + 3).paligemma().to_dict()
    sizes["text_config"]["num_image_tokens"] = 9
    model = PaliGemmaForConditionalGeneration(PaliGemmaConfig(**sizes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture
def folder(base, tmp_path):
    base.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text(
        langtable_tokenizer().to_json(), encoding="utf-8"
    )
    return tmp_path / "base"


def test_the_base_answers_as_in_transformers(base, folder, tmp_path):
    import_semantic(ImportSemanticConfig(str(folder), tmp_path / "out", bf16=False))
    model = load_semantic_model(tmp_path / "out")
    assert model.spec.prefix_attention == "full"
    assert "untrained" in model.spec.description
    question = torch.tensor([model.tokenizer.encode("Did the red moon move?")])
    pixels = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    image = torch.full((1, 9), base.config.image_token_id)
    with torch.no_grad():
        ids = torch.cat([image, question], 1)
        expected = base(
            input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
        ).logits[:, -1]  # fmt: skip
        length = torch.tensor([[question.shape[1]]])
        asked = Asked(question[:, None], length, torch.zeros_like(length))
        features = model.network.pixel_features(pixels)
        hidden = model.network.read(features, torch.zeros(1, 0, 2), asked)
        found = model.network.answer_logits(hidden, asked)[:, 0]
    assert (found - expected).abs().max() < 1e-4
    assert expected.std() > 0.05


def test_the_published_names_and_an_action_projection(folder, tmp_path):
    path = folder / "model.safetensors"
    weights = {}
    for name, tensor in load_file(path).items():
        assert not name.startswith("model."), "transformers writes the older names"
        weights["model." + name.replace("language_model.model.", "language_model.")] = tensor
    weights["model.action_projector.linear.weight"] = torch.full((24, 2), 0.5)
    weights["model.action_projector.linear.bias"] = torch.zeros(24)
    path.unlink()
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2])):  # in shards
        save_file({name: weights[name] for name in part}, folder / f"part-{number}.safetensors")
    assert main(["import-semantic", str(folder), "--out", str(tmp_path / "out")]) == 0
    model = load_semantic_model(tmp_path / "out")
    assert "knows actions" in model.spec.description
    assert torch.equal(model.network.action_projector.weight, torch.full((24, 2), 0.5))


def with_projection(folder, components):
    """The folder with an action projection of so many components."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["action_projector.linear.weight"] = torch.full((24, components), 0.5)
    weights["action_projector.linear.bias"] = torch.zeros(24)
    save_file(weights, path)
    return folder


def test_a_fine_tune_of_cube_takes_cubes_actions(folder, tmp_path):
    """As OGBench's own, within ±1; LangTable's are metres, as they are."""
    with_projection(folder, 5)
    with pytest.raises(CheckpointError, match=r"takes actions of 5 .*LangTable-v0 has 2.*--twin"):
        import_semantic(ImportSemanticConfig(str(folder), tmp_path / "out"))
    words = ["import-semantic", str(folder), "--out", str(tmp_path / "out"), "--twin", "Cube-v0"]
    assert main(words) == 0
    model = load_semantic_model(tmp_path / "out")
    spec = model.spec
    assert (spec.twin, spec.action.size, spec.action.width) == ("Cube-v0", 5, 5)
    assert set(spec.tasks) == {"reach", "stack"} and "red cube" in spec.objects
    largest = torch.tensor(spec.action.high)
    assert torch.allclose(spec.action.normalise(largest), torch.ones(5))
    asked = model.ask([("Did the red moon move?", 3)])  # the words are those of this tokenizer
    frames = torch.zeros(1, 24, 24, 3, dtype=torch.uint8)
    assert model.look(frames).probabilities(torch.zeros(1, 3, 5), asked).shape == (1, 1, 2)


def test_training_goes_on_with_the_scaling_that_the_weights_know(folder, tmp_path):
    import_semantic(ImportSemanticConfig(str(with_projection(folder, 2)), tmp_path / "base"))
    imported = load_semantic_model(tmp_path / "base").spec.action
    assert (imported.gain, imported.width) == ((1.0, 1.0), 2)
    write_episodes(tmp_path / "episodes", ["expert", "random"])
    qa = collect_qa(CollectQAConfig((tmp_path / "episodes",), tmp_path / "qa", stride=5))
    settings = TrainSemanticConfig(
        qa, tmp_path / "run", init=str(tmp_path / "base"), rows=2, questions=2, bf16=False,
        loop=LoopConfig(steps=1, learning_rate=1e-5, warmup_steps=0),
    )  # fmt: skip
    assert load_semantic_model(train_semantic(settings)).spec.action == imported
    other = replace(load_semantic_model(tmp_path / "base").spec, twin="Cube-v0")
    (tmp_path / "base" / "card.json").write_text(json.dumps(other.to_dict()), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is a model of Cube-v0, and .*qa asks about LangTable"):
        train_semantic(replace(settings, out=tmp_path / "other"))


def test_a_folder_that_is_not_converted_yet_says_what_converts_it(folder):
    with pytest.raises(CheckpointError, match=r"no folder with a card.*wm-gym import-semantic"):
        load_semantic_model(folder)


def test_what_is_absent_or_another_architecture_is_named(folder, tmp_path):
    def attempt():
        import_semantic(ImportSemanticConfig(str(folder), tmp_path / "out"))

    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"does not fit its config\.json: absent"):
        attempt()
    weights = load_file(folder / "model.safetensors")
    embeddings = next(v for k, v in weights.items() if "embed_tokens" in k)
    save_file({**weights, "lm_head.weight": embeddings + 1}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="another architecture"):
        attempt()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no"):
        attempt()


def test_a_repository_that_cannot_be_reached(tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match="hf auth login"):
        import_semantic(ImportSemanticConfig("hf://google/paligemma-3b-pt-224", tmp_path))
