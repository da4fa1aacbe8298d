"""`wm-gym train semantic`: it learns, resumes at the exact step, starts from a checkpoint."""

import dataclasses
import json
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import wm_gym  # noqa: F401  registers the ids
from tests.semantic.conftest import TINY, tiny_semantic_model
from tests.semantic.cube_episodes import CUBES, write_cube_episodes
from tests.semantic.episodes import write_episodes
from wm_gym.envs.collect_qa import CollectQAConfig, collect_qa
from wm_gym.run_settings import RunSettingsError
from wm_gym.semantic.model import SemanticNetwork
from wm_gym.semantic.world_model import load_semantic_model
from wm_gym.training.loop import LoopConfig
from wm_gym.training.saqa import INDEX, QAError, SAQADataset
from wm_gym.training.semantic import (
    SemanticBatches,
    TrainSemanticConfig,
    add_lora,
    train_semantic,
)
from wm_gym.training.semantic_loss import SemanticLoss, with_answers

LOOP = LoopConfig(steps=6, learning_rate=2e-3, warmup_steps=1, save_every=2, log_every=1)


@pytest.fixture(scope="module")
def qa(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train_semantic")
    write_episodes(folder / "episodes", ["expert"] * 2 + ["random"] * 3)
    return collect_qa(CollectQAConfig((folder / "episodes",), folder / "qa", stride=3))


def config(qa, out, **changes):
    base = TrainSemanticConfig(qa, out, network=TINY, loop=LOOP, rows=4, questions=6, bf16=False)
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def trained(qa, tmp_path_factory) -> Path:
    return train_semantic(config(qa, tmp_path_factory.mktemp("run") / "run"))


def losses(folder):
    return [
        json.loads(line)["loss"]
        for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_the_checkpoint_says_what_it_is(trained, qa):
    model = load_semantic_model(trained)
    spec = model.spec
    assert (spec.prefix_attention, spec.horizon, spec.twin) == ("block_causal", 20, "LangTable-v0")
    assert (spec.frame.height, spec.action.width, len(spec.objects)) == (24, 2, 8)
    assert spec.recipe["steps"] == 6
    assert spec.recipe["questions"]["records"] == len(SAQADataset(qa))
    assert spec.recipe["settings"]["rows"] == 4
    asked = model.ask([("Did the red moon move?", 5)])
    frames = torch.zeros(1, 24, 24, 3, dtype=torch.uint8)
    assert model.look(frames).probabilities(torch.zeros(1, 5, 2), asked).sum() < 1


def test_a_first_stage_knows_no_actions(tmp_path):
    """What the card promises as horizon is what the questions had."""
    write_episodes(tmp_path / "episodes", ["random"])
    present = CollectQAConfig(
        (tmp_path / "episodes",), tmp_path / "qa", present_only=True, stride=5
    )
    start = config(collect_qa(present), tmp_path / "run", expert_share=None)
    spec = load_semantic_model(
        train_semantic(dataclasses.replace(start, loop=dataclasses.replace(LOOP, steps=1)))
    ).spec
    assert spec.horizon == 1  # the least that a card can say


def test_a_model_of_cube_is_trained_and_becomes_its_environment(tmp_path):
    write_cube_episodes(tmp_path / "episodes", 4)
    qa = collect_qa(CollectQAConfig((tmp_path / "episodes",), tmp_path / "qa"))
    loop = dataclasses.replace(LOOP, steps=1)
    folder = train_semantic(config(qa, tmp_path / "run", loop=loop))
    spec = load_semantic_model(folder).spec
    assert (spec.twin, spec.action.size, spec.objects) == ("Cube-v0", 5, CUBES)
    env = gymnasium.make("WM-Cube-SWM-v0", checkpoint=str(folder), horizon=2)
    words = "stack the red cube on the blue cube"
    options = {"frames": np.zeros((16, 16, 3), np.uint8), "instruction": words}
    _, info = env.reset(seed=0, options=options)
    assert next(iter(json.loads(info["answers"]))) == "Is the red cube on top of the blue cube? yes"
    value = info["value"]
    for _ in range(2):
        *_, reward, terminated, _, info = env.step(env.action_space.sample())
        value += reward
    assert terminated and value == pytest.approx(info["value"], abs=1e-6)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(trained, qa, tmp_path):
    out = tmp_path / "run"
    half = dataclasses.replace(LOOP, max_minutes=1e-9)
    for _ in range(3):
        train_semantic(config(qa, out, loop=half))
    train_semantic(config(qa, out))
    assert losses(out) == losses(trained.parent)
    one, two = (load_semantic_model(f).network.state_dict() for f in (trained, out / "checkpoint"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    with pytest.raises(RunSettingsError, match=r"rows: \d+ there, 8 now"):
        train_semantic(config(qa, out, rows=8))


def test_accumulated_parts_take_the_same_steps(trained, qa, tmp_path):
    out = tmp_path / "run"
    train_semantic(config(qa, out, accumulation=2))
    assert losses(out) == pytest.approx(losses(trained.parent), abs=1e-4)


@pytest.mark.slow
def test_it_learns_what_can_be_learned(qa, tmp_path):
    """Where the peg moves is in the actions alone: the loss must fall below that of guessing."""
    loop = dataclasses.replace(LOOP, steps=400, learning_rate=3e-3, log_every=10, warmup_steps=20)
    train_semantic(config(qa, tmp_path / "run", loop=loop, rows=8, questions=12))
    found = losses(tmp_path / "run")
    guessing = np.log(2)
    assert np.mean(found[-5:]) < guessing - 0.03 < np.mean(found[:2])


@pytest.mark.parametrize("attention", ["full", "block_causal"])
def test_both_kinds_of_attention_train_every_weight(qa, tmp_path, attention):
    still = dataclasses.replace(LOOP, steps=0, ema=0.0, weight_decay=0.0)
    start = config(qa, tmp_path / "before", prefix_attention=attention, rows=2, questions=3,
                   loop=still)  # fmt: skip
    before = load_semantic_model(train_semantic(start))
    one = dataclasses.replace(start, out=tmp_path / "after",
                              loop=dataclasses.replace(still, steps=1))  # fmt: skip
    after = load_semantic_model(train_semantic(one))
    assert after.spec.prefix_attention == attention
    for name, value in after.network.named_parameters():
        # a bias of all keys shifts every attention score alike: it has no gradient
        moved = not torch.equal(value, before.network.get_parameter(name))
        assert moved or name.endswith("k_proj.bias"), name


def test_going_on_from_a_checkpoint_keeps_its_sizes_and_words(trained, qa, tmp_path):
    nothing = dataclasses.replace(LOOP, steps=1, learning_rate=1e-12, weight_decay=0.0)
    folder = train_semantic(
        config(qa, tmp_path / "run", init=str(trained), network=dataclasses.replace(TINY, depth=5),
               loop=nothing)
    )  # fmt: skip
    one, two = load_semantic_model(trained), load_semantic_model(folder)
    assert two.network.config == one.network.config
    assert two.tokenizer.to_json() == one.tokenizer.to_json()
    assert two.spec.recipe["init"] == one.spec.recipe
    for key, value in one.network.state_dict().items():
        assert torch.allclose(value, two.network.state_dict()[key], atol=1e-6)


def test_low_rank_updates_leave_the_rest_alone(trained, qa, tmp_path):
    pytest.importorskip("peft")
    loop = dataclasses.replace(LOOP, learning_rate=0.05)
    folder = train_semantic(config(qa, tmp_path / "run", init=str(trained), lora_rank=2, loop=loop))
    before, after = (load_semantic_model(f).network.state_dict() for f in (trained, folder))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"action_projector.weight", "action_projector.bias"} <= changed
    assert all("action_projector" in key or "language_model.layers" in key for key in changed)
    update = next(key for key in changed if key.endswith("q_proj.weight"))
    assert torch.linalg.matrix_rank(after[update] - before[update], atol=1e-6) <= 2


def test_low_rank_updates_begin_with_nothing():
    pytest.importorskip("peft")
    network = tiny_semantic_model().network
    frames = torch.randint(0, 256, (1, 24, 24, 3), dtype=torch.uint8)
    before = network.image_features(frames)
    add_lora(network, 4)
    assert torch.equal(network.image_features(frames), before)
    trained = [n for n, p in network.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "action_projector" in name for name in trained)


def test_the_loss_of_full_attention_is_that_of_single_questions(qa):
    model = tiny_semantic_model("full")
    loss = SemanticLoss(model.network, model.tokenizer, model.spec.action)
    saqa, rng = SAQADataset(qa), np.random.default_rng(0)
    batch = saqa.batch(saqa.sampler().draw(2, 3, rng), np.full((2, 3), 5))
    singles = []
    for r in range(2):
        for m in range(3):
            one = dataclasses.replace(
                batch,
                frames=batch.frames[r : r + 1],
                actions=batch.actions[r : r + 1],
                questions=[[batch.questions[r][m]]],
                yes=batch.yes[r : r + 1, m : m + 1],
            )
            singles.append(loss(one)[0])
    assert loss(batch)[0].item() == pytest.approx(torch.stack(singles).mean().item(), abs=1e-5)


def test_answers_stand_after_their_questions():
    tokenizer = tiny_semantic_model().tokenizer
    asked = tokenizer.asked([[("Did the red moon move?", 0), ("Did the peg move up?", 1)]])
    answers = tokenizer.answer_tokens(torch.tensor([[True, False]]))
    whole = with_answers(asked, answers)
    for m in range(2):
        assert whole.tokens[0, m, whole.lengths[0, m] - 1] == answers[0, m]
        assert whole.answer_at[0, m] == asked.answer_at[0, m]


def test_what_cannot_be_mixed_is_refused(qa, tmp_path):
    write_episodes(tmp_path / "episodes", ["random"])
    only = collect_qa(CollectQAConfig((tmp_path / "episodes",), tmp_path / "qa", stride=5))
    with pytest.raises(QAError, match="no questions about expert episodes"):
        train_semantic(config(only, tmp_path / "run"))
    with pytest.raises(ValueError, match="multiple of 3"):
        train_semantic(config(qa, tmp_path / "other", accumulation=3))
    with pytest.raises(ValueError, match="expert_share=2"):
        config(qa, tmp_path, expert_share=2.0)


@pytest.mark.parametrize("blind", ["image", "actions"])
def test_a_control_learns_nothing_from_what_it_is_blind_to(qa, tmp_path, blind):
    saqa = SAQADataset(qa)
    settings = config(qa, tmp_path / "run", blind=blind, loop=dataclasses.replace(LOOP, steps=2))
    first = load_semantic_model(train_semantic(settings))
    assert first.spec.recipe["settings"]["blind"] == blind
    batch = SemanticBatches(settings, saqa).draw(0, slice(None))
    seen = {"image": batch.frames, "actions": batch.actions}
    assert (seen[blind] == seen[blind].flat[0]).all()
    other = seen["actions" if blind == "image" else "image"]
    assert not (other == other.flat[0]).all()


def test_what_is_seen_is_learned_and_not_stored(qa, tmp_path):
    loop = dataclasses.replace(LOOP, steps=2, save_every=1)
    settings = config(qa, tmp_path / "run", seeing_weight=1.0, loop=loop)
    model = load_semantic_model(train_semantic(settings))
    assert set(model.network.state_dict()) == set(tiny_semantic_model().network.state_dict())
    logged = [
        json.loads(line)
        for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for line in logged:
        assert line["loss"] == pytest.approx(line["answer_loss"] + line["seeing_loss"], abs=1e-5)


def test_seeing_needs_places(qa, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(qa, older)
    index = json.loads((older / INDEX).read_text(encoding="utf-8"))
    del index["sources"][0]["places"]
    index["sources"][0]["folder"] = str(SAQADataset(qa).sources[0].folder.resolve())
    (older / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(QAError, match="does not say where things appear"):
        train_semantic(config(older, tmp_path / "run", seeing_weight=1.0))
    with pytest.raises(ValueError, match="grey frames"):
        config(qa, tmp_path / "run", seeing_weight=1.0, blind="image")
    with pytest.raises(ValueError, match="grey frames"):
        config(qa, tmp_path / "run", grounding_weight=1.0, blind="image")


def test_grounding_is_learned_and_not_stored(qa, tmp_path):
    loop = dataclasses.replace(LOOP, steps=2, save_every=1)
    parts = ("reading", "looking", "named", "moved", "asking")
    deeper = dataclasses.replace(TINY, depth=3)
    settings = config(qa, tmp_path / "run", grounding_weight=0.5, loop=loop, network=deeper)
    model = load_semantic_model(train_semantic(settings))
    assert set(model.network.state_dict()) == set(SemanticNetwork(deeper).state_dict())
    for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines():
        logged = json.loads(line)
        assert logged["loss"] == pytest.approx(
            logged["answer_loss"] + 0.5 * sum(logged[f"{part}_loss"] for part in parts),
            abs=1e-5,
        )


def test_local_vision_is_for_random_weights(qa, tmp_path):
    with pytest.raises(ValueError, match="its weights are not random"):
        config(qa, tmp_path / "run", local_vision=True, init="runs/stage_1/checkpoint")


def test_grounding_needs_questions_that_the_actions_do_not_see(qa, tmp_path):
    with pytest.raises(ValueError, match="block_causal"):
        train_semantic(config(qa, tmp_path / "run", grounding_weight=1.0, prefix_attention="full"))


def test_what_a_model_of_another_simulator_knows_is_a_start(tmp_path, qa):
    write_cube_episodes(tmp_path / "episodes", 4)
    cubes = collect_qa(CollectQAConfig((tmp_path / "episodes",), tmp_path / "cubes"))
    loop = dataclasses.replace(LOOP, steps=1)
    first = train_semantic(config(cubes, tmp_path / "first", loop=loop))
    source = load_semantic_model(first)
    still = dataclasses.replace(LOOP, steps=1, learning_rate=1e-12)
    start = config(qa, tmp_path / "run", init=str(first), loop=still)
    with pytest.raises(ValueError, match="or set transfer to begin from what it knows of seeing"):
        train_semantic(start)
    model = load_semantic_model(train_semantic(dataclasses.replace(start, transfer=True)))
    assert (model.spec.twin, model.spec.action.size) == ("LangTable-v0", 2)
    own, known = model.network.state_dict(), source.network.state_dict()
    assert own["action_projector.weight"].shape != known["action_projector.weight"].shape
    embeddings = next(name for name in own if name.endswith("embed_tokens.weight"))
    for name in own:
        if name != embeddings and not name.startswith("action_projector."):
            torch.testing.assert_close(own[name], known[name], atol=1e-6, rtol=0)
    words, others = model.tokenizer.vocabulary, source.tokenizer.vocabulary
    assert {"blue", "touching", "yes"} <= set(words) & set(others) and "moon" not in others
    for word in set(words) & set(others):
        one, two = own[embeddings][words[word]], known[embeddings][others[word]]
        torch.testing.assert_close(one, two, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="transfer=True needs init"):
        config(qa, tmp_path / "other", transfer=True)


def test_questions_that_were_replaced_do_not_resume(qa, tmp_path):
    copied, out = tmp_path / "qa", tmp_path / "run"
    write_episodes(tmp_path / "episodes", ["expert", "random"])
    made = CollectQAConfig((tmp_path / "episodes",), copied, stride=3)
    collect_qa(made)
    half = dataclasses.replace(LOOP, max_minutes=1e-9)
    train_semantic(config(copied, out, loop=half))
    shutil.rmtree(copied)
    collect_qa(dataclasses.replace(made, seed=7))
    with pytest.raises(RunSettingsError, match="questions_sha256"):
        train_semantic(config(copied, out))
