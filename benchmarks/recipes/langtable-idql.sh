#!/usr/bin/env bash
# An IDQL policy of LangTable-v0 and what it gains in the simulator over the diffusion policy underneath:
# critics from the world model's episodes, of any quality, and the expert's, then both policies from
# the same starts. Every step resumes where it stopped.
# usage: benchmarks/recipes/langtable-idql.sh [RUN_FOLDER]
#        POLICY=runs/langtable-diffusion-policy/policy/stage_4 …   takes a diffusion policy that is there
#        EPISODES=runs/langtable-bc/episodes …                     episodes to imitate
#        LOOK=runs/langtable-vae-mini/episodes …                   and those of the world model
#        TRIAL=1 … /tmp/trial                                      every command, a few steps of it
set -euo pipefail
run=${1:-runs/langtable-idql}
expert=${EPISODES:-$run/episodes}
any=${LOOK:-$run/look}
policy=${POLICY:-$run/diffusion-policy/policy/stage_4}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  episodes=540 looked_at=2200 steps=40000 samples=32 sizes=()
  trials=(--starts 50 --max-steps 60)
else  # whether the commands fit together; what comes out of it is of no use
  episodes=6 looked_at=6 steps=8 samples=2 sizes=(--batch 4 --hidden 8)
  trials=(--starts 2 --max-steps 9 --rows 2 --resamples 20)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# the episodes of langtable-bc.sh
[ -n "${EPISODES:-}" ] || wm-gym collect --out "$expert" --episodes "$episodes" --seed 20000 --steps 70 \
  --tail-steps 1 --tasks reach push push --noise 0.012 0.012 --behaviours.expert 0.3 \
  --behaviours.noisy-expert 0.7 --behaviours.random 0 --behaviours.near-miss 0
[ -n "${LOOK:-}" ] || wm-gym collect --out "$any" --episodes "$looked_at"
[ -n "${POLICY:-}" ] || EPISODES=$expert \
  "$(dirname "${BASH_SOURCE[0]}")/langtable-diffusion-policy.sh" "$run/diffusion-policy"

# the published batch, expectile and discount; a temperature of 0.5 hardly prefers anything where a
# sooner success is worth a few hundredths more
wm-gym train idql --policy "$policy" --data "$any" "$expert" --out "$run/critics" --samples "$samples" \
  --temperature 0.02 --stages 1.0 "${sizes[@]}" --loop.steps "$steps" --loop.save-every 500
wm-gym compare-real --policies "$policy" "$run/critics/stage_1" --noise 0 --tasks push \
  --out "$run/comparison" "${trials[@]}"
echo "policy: $run/critics/stage_1, figures: $run/comparison/imagined_vs_real_langtable.json"
