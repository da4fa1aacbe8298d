"""MPPI, CEM and gradient ascent: optima, seeds, options, refusals."""

import re

import pytest
import torch

from wm_gym.domains import LANGTABLE
from wm_gym.planning.cem import CEMConfig, cem
from wm_gym.planning.gradient import GradientConfig, gradient_ascent
from wm_gym.planning.mppi import MPPIConfig, mppi
from wm_gym.planning.plan import ActionBox, iteration_noise
from wm_gym.planning.planner import plan

BOX = ActionBox.of(LANGTABLE.action)
GOALS = torch.tensor([[0.1, -0.05], [-0.2, 0.15], [0.0, 0.2]])
HORIZON = 8
CONFIGS = {
    "mppi": MPPIConfig(candidates=256, iterations=12, temperature=0.3),
    "cem": CEMConfig(candidates=64, iterations=12),
    "gradient": GradientConfig(iterations=200, learning_rate=0.01, clip=0.5),
}


def reaching(goals):
    """Value: minus the squared distance from a goal to where the actions lead, in 0.1 m."""

    def value(actions):
        ends = actions.sum(-2)
        return -((ends - goals[:, None]) / 0.1).square().sum(-1)

    return value


@pytest.mark.parametrize("name", CONFIGS)
def test_every_planner_finds_a_known_optimum(name):
    found = plan(reaching(GOALS), BOX, HORIZON, [1, 2, 3], CONFIGS[name])
    assert found.actions.shape == (3, HORIZON, 2)
    assert (found.actions.sum(1) - GOALS).abs().max() < 0.03
    assert torch.equal(BOX.clamp(found.actions), found.actions)
    uniform = BOX.uniform([1, 2, 3], (1, HORIZON))[:, 0]
    assert (uniform.sum(1) - GOALS).norm(dim=1).max() > 0.1


@pytest.mark.parametrize("name", CONFIGS)
def test_a_problem_does_not_depend_on_its_neighbours(name):
    together = plan(reaching(GOALS), BOX, HORIZON, [1, 2, 3], CONFIGS[name])
    alone = plan(reaching(GOALS[1:2]), BOX, HORIZON, [2], CONFIGS[name])
    assert torch.allclose(together.actions[1], alone.actions[0], atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_seeds_decide_everything_random(name):
    one, same, other = (
        plan(reaching(GOALS[:1]), BOX, HORIZON, [seed], CONFIGS[name]) for seed in (5, 5, 6)
    )
    assert torch.equal(one.actions, same.actions)
    assert not torch.equal(one.batches[0], other.batches[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_proposals_are_where_planning_starts(name):
    proposals = torch.full((1, 2, HORIZON, 2), 0.01)
    proposals[:, 1] = -0.01
    found = plan(reaching(GOALS[:1]), BOX, HORIZON, [0], CONFIGS[name], proposals)
    first = found.batches[0]
    assert torch.equal(first[:, :2], proposals)
    if name != "gradient":
        assert first.shape[1] == CONFIGS[name].candidates
        assert torch.equal(first[:, 2:4], proposals)  # repeated to the number of candidates


def test_values_rise_with_every_gradient_step():
    config = GradientConfig(iterations=20, learning_rate=0.002)
    found = plan(reaching(GOALS), BOX, HORIZON, [1, 2, 3], config)
    values = torch.stack(found.batch_values)
    assert (values.diff(dim=0) > -1e-4).all()
    assert (values[-1] > values[0]).all()


def test_mean_or_best_is_an_option_of_the_sampling_planners():
    value, first = reaching(GOALS[:1]), BOX.uniform([0], (16, HORIZON))
    noise = iteration_noise([0], 2, (16, HORIZON, 2))
    for planner, config in ((mppi, MPPIConfig), (cem, CEMConfig)):
        extra = {"elites": 4} if config is CEMConfig else {}
        best = planner(value, BOX, first, noise, config(16, iterations=2, execute="best", **extra))
        mean = planner(value, BOX, first, noise, config(16, iterations=2, execute="mean", **extra))
        index = best.batch_values[-1][0].argmax()
        assert torch.equal(best.actions[0], best.batches[-1][0, index])
        assert not torch.allclose(mean.actions, best.actions)
        assert torch.equal(best.values, best.batch_values[-1].max(1).values)


def test_a_cold_mppi_executes_its_best_candidate_a_hot_one_the_plain_mean():
    value, first = reaching(GOALS[:1]), BOX.uniform([0], (16, HORIZON))
    none = torch.zeros(0, *first.shape)
    cold = mppi(value, BOX, first, none, MPPIConfig(16, 0, temperature=1e-6))
    hot = mppi(value, BOX, first, none, MPPIConfig(16, 0, temperature=1e6))
    best = mppi(value, BOX, first, none, MPPIConfig(16, 0, execute="best"))
    assert torch.allclose(cold.actions, best.actions)
    assert torch.allclose(hot.actions, first.mean(1), atol=1e-5)


def test_counting_prefixes_more_often_is_a_lower_temperature():
    value, first = reaching(GOALS), BOX.uniform([1, 2, 3], (16, HORIZON))
    noise = iteration_noise([1, 2, 3], 3, (16, HORIZON, 2))
    often = mppi(lambda a: 8 * value(a), BOX, first, noise, MPPIConfig(16, 3, temperature=1.0))
    once = mppi(value, BOX, first, noise, MPPIConfig(16, 3, temperature=1 / 8))
    assert torch.allclose(often.actions, once.actions, atol=1e-6)


def test_the_gradient_is_clipped_over_the_problem_or_each_candidate():
    first = BOX.uniform([0], (4, HORIZON))
    step = {}
    for over in ("problem", "candidate"):
        config = GradientConfig(1, learning_rate=1e-3, clip=0.01, clip_over=over)
        found = gradient_ascent(reaching(GOALS[:1]), BOX, first, config)
        step[over] = (found.batches[1] - found.batches[0]) / config.learning_rate
    assert step["problem"].norm() == pytest.approx(0.01, rel=0.02)
    assert step["candidate"].norm(dim=(2, 3))[0].tolist() == pytest.approx([0.01] * 4, rel=0.02)


def test_where_the_first_candidate_is_clamped_and_what_selects_are_options():
    outside = torch.full((1, 1, HORIZON, 2), 0.05)
    value = reaching(GOALS[:1])
    inside, published = (
        gradient_ascent(value, BOX, outside, GradientConfig(1, clamp_first=clamp))
        for clamp in (True, False)
    )
    assert inside.batches[0].max() == pytest.approx(0.03)
    assert torch.equal(published.batches[0], outside)
    # one step turns the order of two candidates around: the stale values choose the other one
    first = torch.zeros(1, 2, HORIZON, 2)
    first[0, 1] = 0.02

    def crossing(actions):
        ends = actions.sum((-1, -2))
        return torch.stack([ends[:, 0] * 10, ends[:, 1] * 0.1 + 0.1], 1)

    fresh, stale = (
        gradient_ascent(crossing, BOX, first, GradientConfig(1, 1.0, 100.0, select=select))
        for select in ("after_last_step", "before_last_step")
    )
    assert torch.equal(fresh.actions[0], fresh.batches[-1][0, 0])
    assert torch.equal(stale.actions[0], stale.batches[-1][0, 1])
    assert len(fresh.batch_values) == 2
    assert len(stale.batch_values) == 1


def test_bad_values_and_shapes_are_refused():
    first = BOX.uniform([0], (16, HORIZON))
    noise = iteration_noise([0], 1, (16, HORIZON, 2))
    config = MPPIConfig(16, 1)
    with pytest.raises(ValueError, match="NaN"):
        mppi(lambda a: reaching(GOALS[:1])(a) / 0 * 0, BOX, first, noise, config)
    with pytest.raises(ValueError, match=r"expected \(B, K\)"):
        mppi(lambda a: a.sum(), BOX, first, noise, config)
    with pytest.raises(ValueError, match="iterations, then the shape"):
        mppi(reaching(GOALS[:1]), BOX, first, noise[:, :, :3], config)
    with pytest.raises(ValueError, match="none of these sizes 0"):
        mppi(reaching(GOALS[:1]), BOX, first[:, :, :0], noise, config)
    with pytest.raises(ValueError, match="no gradient"):
        gradient_ascent(lambda a: a.detach().sum((2, 3)), BOX, first, GradientConfig())
    with pytest.raises(ValueError, match="one row per seed and 9 actions"):
        plan(reaching(GOALS[:1]), BOX, 9, [0], config, first)
    with pytest.raises(ValueError, match="horizon=0 and 1 seeds; expected at least 1 action"):
        plan(reaching(GOALS[:1]), BOX, 0, [0], config)
    with pytest.raises(ValueError, match="a seed for each problem"):
        plan(reaching(GOALS[:0]), BOX, HORIZON, [], config)
    with pytest.raises(ValueError, match="elites=7 must be 1 to candidates=6"):
        CEMConfig(candidates=6, elites=7)
    with pytest.raises(ValueError, match="temperature=0"):
        MPPIConfig(temperature=0)
    with pytest.raises(ValueError, match="learning_rate=-1"):
        GradientConfig(learning_rate=-1)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: MPPIConfig(temperature=float("nan")), "temperature=nan finite"),
        (lambda: MPPIConfig(temperature=1e-45), "temperature=1e-45 finite and at least"),
        (lambda: MPPIConfig(execute="foo"), "execute='foo' is unknown; expected one of 'mean'"),
        (lambda: CEMConfig(execute="foo"), "execute='foo' is unknown"),
        (lambda: GradientConfig(learning_rate=float("nan")), "learning_rate=nan"),
        (lambda: GradientConfig(clip=float("inf")), "clip=inf above 0 and finite"),
        (lambda: GradientConfig(select="foo"), "select='foo' is unknown"),
        (lambda: GradientConfig(clip_over="foo"), "clip_over='foo' is unknown"),
    ],
)
def test_settings_that_mean_nothing_are_refused(made, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        made()


def test_proposals_and_seeds_that_do_not_fit_are_named():
    box = ActionBox(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]))

    def value(actions):
        return actions.sum((-1, -2))

    for size in (1, 3):
        with pytest.raises(ValueError, match=r"expected \(1, K, 4, 2\).* of 2 components"):
            plan(value, box, 4, [0], MPPIConfig(), torch.zeros(1, 2, 4, size))
    with pytest.raises(ValueError, match=r"seeds \[-3\] are negative"):
        plan(value, box, 4, [1, -3], MPPIConfig())
