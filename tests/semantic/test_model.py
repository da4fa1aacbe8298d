"""The network: sharing, masks and packing change nothing; every input matters."""

from dataclasses import replace

import pytest
import torch

from wm_gym.semantic.attention import Asked, positions, visibility
from wm_gym.semantic.model import (
    PALIGEMMA_3B,
    SemanticNetwork,
    SemanticNetworkConfig,
    load_published,
    to_published,
)

R, N_ACTIONS, M, T = 3, 6, 4, 9
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 256, (R, 24, 24, 3), dtype=torch.uint8, generator=_generator(1))


@pytest.fixture(scope="module")
def actions():
    return torch.randn(R, N_ACTIONS, 2, generator=_generator(2))


@pytest.fixture(scope="module")
def asked():
    """Questions of different lengths after 0 to all actions; one place is empty."""
    tokens = torch.randint(3, 100, (R, M, T), generator=_generator(3))
    lengths = torch.tensor([[9, 4, 7, 5], [3, 9, 0, 6], [8, 8, 5, 4]])
    after = torch.tensor([[0, 6, 3, 1], [2, 0, 0, 6], [4, 4, 6, 0]])
    return Asked(tokens, lengths, after)


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def plain(network, frames, actions, asked):
    """The reference: every question alone, after nothing but its own actions, no padding."""
    image = network.image_features(frames)
    rows = []
    for r in range(R):
        for m in range(M):
            length, after = int(asked.lengths[r, m]), int(asked.after[r, m])
            if length == 0:
                rows.append(torch.zeros(network.config.vocabulary))
                continue
            one = Asked(asked.tokens[r, m, :length][None, None], *_one(length, after))
            hidden = network.read(image[r : r + 1], actions[r : r + 1, :after], one)
            rows.append(network.answer_logits(hidden, one)[0, 0])
    return torch.stack(rows).unflatten(0, (R, M))


def _one(length, after):
    return torch.tensor([[length]]), torch.tensor([[after]])


def test_shared_keys_and_values_equal_the_plain_forward(causal, frames, actions, asked):
    expected = plain(causal, frames, actions, asked)
    image = causal.look(causal.image_features(frames))
    shared = causal.answer_logits(causal.read_after(image, actions, asked), asked)
    packed = causal.answer_logits(causal.read(causal.image_features(frames), actions, asked), asked)
    there = asked.lengths > 0
    assert (shared - expected)[there].abs().max() < TOLERANCE
    assert (packed - expected)[there].abs().max() < TOLERANCE
    assert expected[there].std() > 0.1


def test_padding_changes_nothing_under_full_attention(full, frames, actions, asked):
    expected = plain(full, frames, actions, asked)
    alone = asked.one_a_row()
    image = full.image_features(frames).repeat_interleave(M, 0)
    hidden = full.read(image, actions.repeat_interleave(M, 0), alone)
    found = full.answer_logits(hidden, alone).unflatten(0, (R, M))[:, :, 0]
    there = asked.lengths > 0
    assert (found - expected)[there].abs().max() < TOLERANCE


def test_one_image_serves_many_rows(causal, frames, actions, asked):
    one = Asked(asked.tokens[:1], asked.lengths[:1], asked.after[:1])
    image = causal.look(causal.image_features(frames[:1]))
    rows = torch.zeros(R, dtype=torch.long)
    together = causal.answer_logits(
        causal.read_after(image.rows(rows), actions, one.expand(R)), one.expand(R)
    )
    for r in range(R):
        alone = causal.answer_logits(causal.read_after(image, actions[r : r + 1], one), one)
        assert (together[r] - alone[0]).abs().max() < TOLERANCE


def test_gradients_of_actions_are_those_of_the_plain_forward(causal, frames, actions, asked):
    def gradient(answer):
        variable = actions.clone().requires_grad_()
        logits = answer(variable)[asked.lengths > 0]
        return torch.autograd.grad(logits.softmax(-1)[:, 5].sum(), variable)[0]

    image = causal.look(causal.image_features(frames))
    shared = gradient(lambda a: causal.answer_logits(causal.read_after(image, a, asked), asked))
    expected = gradient(lambda a: plain(causal, frames, a, asked))
    assert shared.abs().max() > 1e-4
    assert torch.allclose(shared, expected, rtol=1e-3, atol=1e-7)


def test_a_question_depends_on_its_actions_only(causal, frames, actions, asked):
    image = causal.look(causal.image_features(frames))
    before = causal.answer_logits(causal.read_after(image, actions, asked), asked)
    changed = actions.clone()
    changed[:, 3:] += 1.0
    after = causal.answer_logits(causal.read_after(image, changed, asked), asked)
    moved = (after - before).abs().amax(-1) > TOLERANCE
    there = asked.lengths > 0
    assert torch.equal(moved[there], (asked.after > 3)[there])


@pytest.mark.parametrize("what", ["image", "order of actions", "words"])
def test_image_order_of_actions_and_words_matter(causal, frames, actions, asked, what):
    inputs = {"image": frames, "order of actions": actions, "words": asked}
    changed = dict(inputs)
    if what == "words":
        changed[what] = replace(asked, tokens=(asked.tokens + 1).clamp_max(99))
    elif what == "image":
        changed[what] = 255 - frames
    else:
        changed[what] = actions.flip(1)

    def answer(given):
        image = causal.look(causal.image_features(given["image"]))
        hidden = causal.read_after(image, given["order of actions"], given["words"])
        return causal.answer_logits(hidden, given["words"])[0, 1]

    assert (answer(inputs) - answer(changed)).abs().max() > 0.01


def test_the_loss_of_packed_questions_is_the_mean_over_all_of_them(causal, frames, actions, asked):
    answers = torch.randint(5, 7, (R, M), generator=_generator(4))
    hidden = causal.read(causal.image_features(frames), actions, asked)
    logits = plain(causal, frames, actions, asked)
    there = asked.lengths > 0
    expected = torch.nn.functional.cross_entropy(logits[there], answers[there])
    assert causal.loss(hidden, asked, answers).item() == pytest.approx(expected.item(), abs=1e-5)


def test_an_answer_in_the_suffix_is_not_seen_by_its_question(full, frames, actions, asked):
    row = Asked(asked.tokens[:, 1:2], asked.lengths[:, 1:2], asked.after[:, 1:2], suffix=1)
    other = replace(row, tokens=row.tokens.clone())
    other.tokens[torch.arange(R), 0, row.lengths[:, 0] - 1] = 101
    image = full.image_features(frames)
    one, two = (full.read(image, actions, a) for a in (row, other))
    assert torch.equal(full.answer_logits(one, row), full.answer_logits(two, other))
    labels = torch.full((R, 1), 7)
    assert full.loss(one, row, labels, 1) != full.loss(two, other, labels, 1)  # but what follows is


def test_the_loss_refuses_an_end_without_a_suffix(full, frames, actions, asked):
    row = Asked(asked.tokens[:, :1], asked.lengths[:, :1], asked.after[:, :1])
    hidden = full.read(full.image_features(frames), actions, row)
    with pytest.raises(ValueError, match="an end needs a suffix of 1"):
        full.loss(hidden, row, torch.zeros(R, 1, dtype=torch.long), end=1)


def test_full_attention_shares_nothing(full, frames, actions, asked):
    with pytest.raises(ValueError, match="cannot be shared"):
        full.look(full.image_features(frames))
    with pytest.raises(ValueError, match="a row of its own"):
        full.read(full.image_features(frames), actions, asked)


def test_positions_count_on_from_the_last_action_a_question_comes_after():
    tokens = torch.zeros(1, 2, 3, dtype=torch.long)
    asked = Asked(tokens, torch.tensor([[3, 2]]), torch.tensor([[0, 2]]))
    where = positions(4, 2, asked)[0].tolist()
    assert where == [1, 2, 3, 4, 5, 6, 5, 6, 7, 7, 8, 9]


def test_who_sees_whom():
    tokens = torch.zeros(1, 2, 2, dtype=torch.long)
    asked = Asked(tokens, torch.tensor([[2, 1]]), torch.tensor([[1, 2]]))
    seen = visibility(1, 2, asked, "block_causal")[0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],  # image
        [1, 1, 0, 0, 0, 0, 0],  # first action
        [1, 1, 1, 0, 0, 0, 0],  # second action
        [1, 1, 0, 1, 1, 0, 0],  # first question, after one action, both ways
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 0],  # second question, of one token
        [1, 1, 1, 0, 0, 1, 0],  # fills up: sees, is not seen
    ]


def test_published_names_lead_back(causal):
    weights = to_published(causal.state_dict())
    assert "model.vision_tower.vision_model.embeddings.patch_embedding.weight" in weights
    assert "model.action_projector.linear.weight" in weights
    other = SemanticNetwork(causal.config)
    assert load_published(other, {**weights, "lm_head.weight": causal.embeddings}) == []
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in causal.state_dict().items())


def test_the_base_has_no_action_projection_and_all_else_must_fit(causal):
    weights = to_published(causal.state_dict())
    base = {k: v for k, v in weights.items() if "action_projector" not in k}
    other = SemanticNetwork(causal.config)
    assert load_published(other, base) == ["action_projector.bias", "action_projector.weight"]
    with pytest.raises(RuntimeError, match="unknown tensors"):
        load_published(other, {**weights, "model.extra": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="absent tensors"):
        load_published(other, {"model.language_model.norm.weight": torch.zeros(24)})


def test_the_full_size_is_paligemma_3b():
    with torch.device("meta"):
        network = SemanticNetwork(PALIGEMMA_3B)
    count = sum(p.numel() for p in network.parameters())
    action_projection = 3 * 2048
    # the parameters of google/paligemma-3b-pt-224 by the sizes in its config.json
    assert count - action_projection == 2_923_466_480
    assert PALIGEMMA_3B.image_tokens == 256


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of patch=7"):
        SemanticNetworkConfig(vocabulary=10, action_width=2, patch=7)
    with pytest.raises(ValueError, match="head_width=5 even"):
        SemanticNetworkConfig(vocabulary=10, action_width=2, head_width=5)
