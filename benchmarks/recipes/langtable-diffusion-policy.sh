#!/usr/bin/env bash
# A diffusion policy of LangTable-v0 that reads instructions, saved at four stages of its training. It
# looks with the encoder of the behaviour-cloning policy that ships. Every step resumes where it stopped.
# usage: benchmarks/recipes/langtable-diffusion-policy.sh [RUN_FOLDER]
#        EPISODES=runs/langtable-bc/episodes …          takes episodes that are there already
#        TRIAL=1 … /tmp/trial                           every command, a few steps of it
set -euo pipefail
run=${1:-runs/langtable-diffusion-policy}
data=${EPISODES:-$run/episodes}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  episodes=540 steps=8000 rows=()
else  # whether the commands fit together; what comes out of it is of no use
  episodes=6 steps=8 rows=(--batch 4 --network.down-dims 8 16)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# the episodes of langtable-bc.sh
[ -n "${EPISODES:-}" ] || wm-gym collect --out "$data" --episodes "$episodes" --seed 20000 --steps 70 \
  --tail-steps 1 --tasks reach push push --noise 0.012 0.012 --behaviours.expert 0.3 \
  --behaviours.noisy-expert 0.7 --behaviours.random 0 --behaviours.near-miss 0

wm-gym train diffusion-policy --data "$data" --out "$run/policy" --domain langtable --tasks reach push \
  --network.encoder attention --network.down-dims 48 96 --network.time-embedding 64 \
  --encoder-from assets/langtable-bc/stage_4 --freeze-encoder --batch 128 \
  --stages 0.05 0.2 0.5 1.0 "${rows[@]}" --loop.steps "$steps" --loop.learning-rate 1e-3 \
  --loop.warmup-steps 100 --loop.save-every 200
echo "policies: $run/policy/stage_*"
