"""Reference traces of the planners, whose scores are an analytic function in the metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_gym.evaluation.parity.latents import ParityCase, ParityResult, compare, read_case
from wm_gym.planning.gradient import GradientConfig, gradient_ascent
from wm_gym.planning.mppi import MPPIConfig, mppi
from wm_gym.planning.plan import ActionBox, best_of
from wm_gym.semantic.tasks import Answer, DesiredAnswer
from wm_gym.semantic.value import ValueConfig, value_of


def run_planning_parity(path: Path) -> ParityResult | None:
    """Run one trace; None if the file is about something else."""
    if path.suffix != ".safetensors":
        return None
    case = read_case(path)
    if "planning_config" not in case.config:
        return None
    found = _mppi(case) if "eps" in case.inputs else _gradient(case)
    return compare(case.name, found, case.outputs)


def analytic_probabilities(
    questions: list[dict[str, Any]], prefixes: list[int]
) -> Callable[[Tensor], Tensor]:
    """The score of the traces: p("yes") and p("no"), (..., Q, P, 2), of actions (..., n, A).

    p_yes = σ(b − k ‖Σa / s − g‖² + c · sin(w · (Σa)_d / s + 0.1 h)) with Σa over the first h.
    """

    def probabilities(actions: Tensor) -> Tensor:
        rows = []
        for q in questions:
            columns = []
            for h in prefixes:
                way = actions[..., :h, :].sum(-2) / q["s"]
                far = (way - torch.tensor(q["g"])).square().sum(-1)
                wave = q["c"] * torch.sin(q["w"] * way[..., q["d"]] + 0.1 * h)
                columns.append(torch.sigmoid(q["b"] - q["k"] * far + wave))
            rows.append(torch.stack(columns, -1))
        yes = torch.stack(rows, -2)
        return torch.stack([yes, 1 - yes], -1)

    return probabilities


def _setting(case: ParityCase, count: str) -> tuple[Callable[[Tensor], Tensor], ActionBox, Any]:
    """Value function, box and planner settings of a trace."""
    settings, questions = case.config["planning_config"], case.config["questions"]
    config = ValueConfig(settings["action_skip"], "once" if count == "once" else "per_action")
    horizon = settings["pred_horizon"]
    probabilities = analytic_probabilities(questions, config.prefixes(horizon))
    answers = [DesiredAnswer(q["name"], _answer(q["desired"]), q["weight"]) for q in questions]
    limit = torch.full((settings["action_dim"],), settings["max_action_value"])
    return (
        lambda actions: value_of(probabilities(actions), answers, horizon, config),
        ActionBox(-limit, limit),
        settings,
    )


def _answer(text: str) -> Answer:
    return "yes" if text == "yes" else "no"


def _mppi(case: ParityCase) -> dict[str, Tensor]:
    value, box, settings = _setting(case, "per_action")
    arguments = (value, box, case.inputs["initial_samples"][None], case.inputs["eps"][:, None])
    sizes = {
        "candidates": settings["num_samples"],
        "iterations": settings["n_planning_itrs"],
        "temperature": settings["mppi_temperature"],
    }
    best = mppi(*arguments, MPPIConfig(**sizes, execute="best"))
    mean = mppi(*arguments, MPPIConfig(**sizes, execute="mean"))
    found = {
        "actions_hist": torch.cat(best.batches),
        "returns": torch.cat(best.batch_values),
        "means": torch.cat(best.trace["means"]),
        "stds": torch.cat(best.trace["stds"]),
        "plan": best.actions[0],
        "paper_mean_plan": mean.actions[0],
        "best_idx": best.batch_values[-1][0].argmax().float(),
    }
    return found | _rewards(case, best.batches[-1][0])


def _rewards(case: ParityCase, candidates: Tensor) -> dict[str, Tensor]:
    """Rewards of the last batch, copied to every step of their prefix, (Q, N, n)."""
    settings, questions = case.config["planning_config"], case.config["questions"]
    skip, horizon = settings["action_skip"], settings["pred_horizon"]
    prefixes = ValueConfig(skip).prefixes(horizon)
    yes, no = analytic_probabilities(questions, prefixes)(candidates).unbind(-1)  # (N, Q, P)
    wanted = torch.tensor([q["desired"] == "yes" for q in questions])
    weights = torch.tensor([q["weight"] for q in questions])
    chosen = torch.where(wanted[None, :, None], yes, no)
    steps = chosen.repeat_interleave(skip, dim=-1).transpose(0, 1)
    return {"rewards_last": steps, "weighted_rewards_last": steps * weights[:, None, None]}


def _gradient(case: ParityCase) -> dict[str, Tensor]:
    value, box, settings = _setting(case, "once")
    config = GradientConfig(
        iterations=settings["n_planning_itrs"],
        learning_rate=settings["gradient_lr"],
        clip=settings["gradient_clipping_value"],
        clamp_first=False,
        select="before_last_step",
    )
    plan = gradient_ascent(value, box, case.inputs["initial_samples"][None], config)
    values = torch.cat(plan.batch_values)
    chosen, _ = best_of(plan.batches[-1], plan.batch_values[-1])
    return {
        "actions_hist": torch.cat(plan.batches[:-1]),
        "grads": -torch.cat(plan.trace["gradients"]),  # of the loss, which is minus the objective
        "grad_norms": torch.cat(plan.trace["norms"]),
        "objective": values.sum(1),
        "returns": values * settings["action_skip"],
        "final_actions": plan.batches[-1][0],
        "plan": chosen[0],
        "best_idx": values[-1].argmax().float(),
    }
