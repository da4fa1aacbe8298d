"""SAQA: answers are the simulator's, types and answers are balanced, what is stored is small."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests.semantic.episodes import write_episodes
from wm_gym.data.episodes import EpisodeError
from wm_gym.envs.collect_qa import CollectQAConfig, collect_qa
from wm_gym.envs.sims.langtable.questions import PRESENT_TYPES, slack
from wm_gym.envs.sims.langtable.shapes import OBJECTS
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
from wm_gym.training.saqa import INDEX, QAError, SAQADataset, draw_wording, mixed_rows

KINDS = [kind.name for kind in LANGTABLE_QUESTIONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qa")
    write_episodes(folder / "expert", ["expert"] * 6)
    write_episodes(folder / "play", ["random"] * 5 + ["near_miss"], seed=50)
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return CollectQAConfig(data=(folder / "expert", folder / "play"), out=folder / "questions")


@pytest.fixture(scope="module")
def saqa(config):
    return SAQADataset(collect_qa(config))


def test_every_answer_is_the_simulators(saqa):
    rng = np.random.default_rng(0)
    rows = saqa.sampler().draw(60, 4, rng)
    batch = saqa.batch(rows, draw_wording(rows.shape, rng))
    for r in range(60):
        source, episode, frame = (
            int(saqa.records[name][rows[r, 0]]) for name in ("source", "episode", "frame")
        )
        states, _ = saqa.sources[source].labels(episode)
        assert batch.frames[r, 0, 0].tolist() == [episode, frame, 0]
        for m, (words, horizon) in enumerate(batch.questions[r]):
            question, phrasing = LANGTABLE_QUESTIONS.parse_phrasing(words)
            assert phrasing < 8
            assert KINDS[batch.types[r, m]] == question.type
            expected = slack(question, states[frame], states[frame + horizon], OBJECTS)
            assert batch.yes[r, m] == (expected > 0)
            assert batch.slack[r, m] == pytest.approx(
                np.clip(expected, -100, 100), rel=1e-2, abs=1e-2
            )


def test_actions_are_those_that_follow_the_frame(saqa):
    rng = np.random.default_rng(1)
    rows = saqa.sampler().draw(40, 4, rng)
    batch = saqa.batch(rows, draw_wording(rows.shape, rng))
    for r in range(40):
        source, episode, frame = (
            int(saqa.records[name][rows[r, 0]]) for name in ("source", "episode", "frame")
        )
        ahead = saqa.sources[source].actions(episode)[frame:]
        count = min(len(ahead), batch.actions.shape[1])
        np.testing.assert_array_equal(batch.actions[r, :count], ahead[:count])
        assert not batch.actions[r, count:].any()
        assert max(h for _, h in batch.questions[r]) <= count


def test_types_and_answers_are_balanced_though_the_world_is_not(saqa):
    rng = np.random.default_rng(2)
    for group in (None, "expert", "suboptimal"):
        sampler = saqa.sampler(group)
        assert sampler.cells == 20  # ten types, both answers
        drawn = sampler.draw(3000, 8, rng)
        cells = saqa.records["type"][drawn].astype(int) * 2 + saqa.records["yes"][drawn]
        shares = np.bincount(cells.ravel(), minlength=20) / cells.size
        assert shares.min() > 0.04
        assert shares.max() < 0.06
    raw = np.bincount(saqa.records["type"].astype(int) * 2 + saqa.records["yes"], minlength=20)
    assert raw.min() < 0.3 * raw.max()


def test_rows_are_about_one_state(saqa):
    drawn = saqa.sampler().draw(200, 8, np.random.default_rng(3))
    for name in ("source", "episode", "frame"):
        values = saqa.records[name][drawn]
        assert (values == values[:, :1]).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_expert_and_suboptimal_halves_mix_at_will(saqa, share):
    samplers = [saqa.sampler("expert"), saqa.sampler("suboptimal")]
    rows = mixed_rows(samplers, (share, 1 - share), 2000, 2, np.random.default_rng(4))
    assert saqa.expert[rows].mean() == pytest.approx(share, abs=0.04)


def test_clear_questions_alone_can_be_asked(saqa):
    rows = saqa.sampler(clear_only=True).draw(500, 4, np.random.default_rng(5))
    assert (np.abs(saqa.records["slack"][rows]) >= 1).all()


def test_four_horizons_a_state_from_zero_to_twenty(saqa, config):
    records = saqa.records
    state = np.stack([records["source"], records["episode"], records["frame"]]).astype(int)
    for number in range(0, len(saqa), 997):
        same = (state == state[:, number : number + 1]).all(0)
        left = 24 - int(records["frame"][number])
        assert len(set(records["horizon"][same])) == min(config.horizons, left + 1)
    assert set(records["horizon"]) == set(range(21))


def test_untrained_phrasings_are_asked_only_on_request(saqa):
    rng = np.random.default_rng(6)
    rows = saqa.sampler().draw(20, 4, rng)
    asked = saqa.batch(rows, draw_wording(rows.shape, rng, "untrained")).questions
    numbers = {LANGTABLE_QUESTIONS.parse_phrasing(words)[1] for row in asked for words, _ in row}
    assert numbers == {8, 9}


def test_what_is_stored_is_small_and_depends_on_the_seed_alone(saqa, config, folder, tmp_path):
    stored = sum(path.stat().st_size for path in saqa.folder.iterdir())
    assert stored / len(saqa) < 10  # bytes a question
    again = collect_qa(dataclasses.replace(config, out=tmp_path / "again"))
    for name in ("source_0.npz", "source_1.npz"):
        assert (again / name).read_bytes() == (saqa.folder / name).read_bytes()


def test_an_interrupted_run_goes_on(saqa, config, tmp_path):
    out = tmp_path / "part"
    collect_qa(dataclasses.replace(config, out=out, data=config.data[:1]))
    written = (out / "source_0.npz").stat().st_mtime_ns
    collect_qa(dataclasses.replace(config, out=out))
    assert (out / "source_0.npz").stat().st_mtime_ns == written
    assert len(SAQADataset(out)) == len(saqa)
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        collect_qa(dataclasses.replace(config, out=out, seed=1))
    with pytest.raises(ValueError, match="questions about 2 sources"):
        collect_qa(dataclasses.replace(config, out=out, data=config.data[:1]))


def test_the_present_alone_needs_no_actions(folder, tmp_path):
    write_episodes(tmp_path / "mixed", ["random"] * 4, blocks="mixed")
    config = CollectQAConfig(
        (tmp_path / "mixed",), tmp_path / "present", present_only=True, stride=3
    )
    saqa = SAQADataset(collect_qa(config))
    assert set(saqa.records["horizon"]) == {0}
    assert {KINDS[t] for t in set(saqa.records["type"])} == set(PRESENT_TYPES)
    tables = {saqa.objects(0, episode) for episode in range(4)}
    assert len(tables) == 4
    assert {name for table in tables for name in table} - set(OBJECTS)
    rows = saqa.sampler().draw(3, 2, np.random.default_rng(0))
    batch = saqa.batch(rows, np.zeros((3, 2), int))
    assert batch.actions.shape == (3, 0, 2)


def test_other_episodes_under_the_same_name_are_noticed(folder, tmp_path):
    shutil.copytree(folder / "expert", tmp_path / "expert")
    out = tmp_path / "questions"
    collect_qa(CollectQAConfig((tmp_path / "expert",), out))
    shutil.rmtree(tmp_path / "expert")
    write_episodes(tmp_path / "expert", ["random"])
    with pytest.raises(QAError, match="are not those"):
        SAQADataset(out)
    with pytest.raises(ValueError, match="made from other episodes"):
        collect_qa(CollectQAConfig((tmp_path / "expert",), out))


@pytest.mark.parametrize("damage", ["cut", "absent", "places", "index", "simulator"])
def test_damage_is_named(config, tmp_path, damage):
    out = collect_qa(dataclasses.replace(config, out=tmp_path / "qa", data=config.data[:1]))
    index = json.loads((out / INDEX).read_text(encoding="utf-8"))
    whole = (out / "source_0.npz").read_bytes()
    if damage == "cut":
        (out / "source_0.npz").write_bytes(whole[: len(whole) // 2])
    elif damage == "absent":
        (out / "source_0.npz").unlink()
    elif damage == "places":
        (out / "places_0.npz").write_bytes(b"nothing")
    elif damage == "index":
        del index["sources"][0]["records"]
    else:
        index["simulator"] = "Chess-v0"
    (out / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(QAError, match="damaged"):
        SAQADataset(out)


def test_bad_input_is_refused(saqa, tmp_path):
    with pytest.raises(QAError, match="wm-gym collect-qa --out"):
        SAQADataset(tmp_path)
    (tmp_path / INDEX).write_text('{"version": 9}', encoding="utf-8")
    with pytest.raises(QAError, match="version is 9"):
        SAQADataset(tmp_path)
    with pytest.raises(ValueError, match="data is empty"):
        CollectQAConfig((), tmp_path)
    with pytest.raises(ValueError, match="stride=0"):
        CollectQAConfig((tmp_path,), tmp_path, stride=0)
    with pytest.raises(EpisodeError, match="no finished dataset"):
        collect_qa(CollectQAConfig((tmp_path / "none",), tmp_path / "out"))
