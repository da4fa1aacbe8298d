#!/usr/bin/env bash
# Agents of every kind in the dream of langtable-vae-mini and in its simulator: cloned and diffusion
# policies of several stages, IDQL, a planner that asks the semantic world model, PPO that learned in
# the dream, all from the same starts; and what IDQL and planning add to a diffusion policy. Uses what
# ships (assets/langtable-bc, langtable-dp, langtable-swm). Every step resumes where it stopped.
# usage: benchmarks/recipes/langtable-agents.sh [RUN_FOLDER]            (one core: about three hours)
#        EPISODES=runs/langtable-vae-mini/episodes …   takes the world model's episodes
#        BAD=runs/langtable-vae-mini/checkpoint-early …   and a world model that is bad on purpose
#        TRIAL=1 … /tmp/trial                          every command, a few steps of it
set -euo pipefail
run=${1:-runs/langtable-agents}
episodes=${EPISODES:-$run/episodes}
python=${PYTHON:-python}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  count=2200 cloning=2400 cloning_rows=() learning=() improving=()
  compared=(--starts 50 --max-steps 40 --rows 25)
else  # whether the commands fit together; what comes out of it is of no use
  count=6 cloning=8 cloning_rows=(--batch 4 --look-batch 2)
  learning=(--steps 256 --rows 8 --horizon 8 --n-steps 8 --batch-size 32 --test-episodes 2 --test-steps 4)
  improving=(--episodes 1 --max-steps 4 --rows 1)
  compared=(--starts 2 --max-steps 2 --rows 2 --resamples 50)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# what a robot's recordings would hold: the world model's own episodes, as they were played
[ -n "${EPISODES:-}" ] || wm-gym collect --out "$episodes" --episodes "$count"
wm-gym train behaviour-cloning --data "$episodes" --labels recorded --out "$run/recorded" \
  --tasks reach push --stages 1.0 --head-steps 0 "${cloning_rows[@]}" --loop.steps "$cloning" \
  --loop.save-every 200
ln -sfn recorded/stage_1 "$run/cloned_recorded"

[ -e "$run/ppo-reach/report.json" ] || "$python" "$here/examples/train_in_imagination.py" --algorithm ppo --out "$run/ppo-reach" "${learning[@]}" \
  --beside assets/langtable-bc/stage_4 "$run/cloned_recorded"
ln -sfn ppo-reach/agent "$run/ppo"
[ -e "$run/ppo-push/report.json" ] || "$python" "$here/examples/train_in_imagination.py" --algorithm ppo --out "$run/ppo-push" --steps 40960 \
  --instruction "push the red moon to the green star" --horizon 40 --test-steps 120 "${learning[@]}" \
  --beside assets/langtable-bc/stage_4 "$run/cloned_recorded"

# the planner looks again after eight actions, so that the comparison takes minutes and not hours
"$python" "$here/benchmarks/save_planner.py" --out "$run/planner" --execute 8

wm-gym compare-real --policies assets/langtable-bc/stage_2 assets/langtable-bc/stage_4 \
  assets/langtable-dp/diffusion_1 assets/langtable-dp/diffusion_4 --noise 0 0.6 4 \
  --without-noise assets/langtable-bc/stage_1 assets/langtable-bc/stage_3 assets/langtable-dp/idql \
  "$run/cloned_recorded" "$run/ppo" "$run/planner" --tasks reach push --denoising-steps 1 \
  ${BAD:+--bad-checkpoint "$BAD"} --out "$run/comparison" --true-records "$run/true" "${compared[@]}"

"$python" "$here/benchmarks/policy_improvement.py" --base assets/langtable-dp/diffusion_4 \
  --idql assets/langtable-dp/idql --gradient.learning-rate 0.05 --out "$run/improvement" \
  --json "$run/policy_improvement.json" "${improving[@]}"
"$python" "$here/benchmarks/policy_improvement.py" --base expert --groups push_unseen \
  --gradient.learning-rate 0.05 --out "$run/improvement-unseen" \
  --json "$run/policy_improvement_unseen.json" "${improving[@]}"
