#!/usr/bin/env bash
# A diffusion policy of BridgeSim-v0 that reads instructions, saved at four stages of its training. It
# looks with the encoder of a behaviour-cloning policy. Every step resumes where it stopped.
# usage: benchmarks/recipes/bridge-diffusion-policy.sh [RUN_FOLDER]
#        EPISODES=runs/bridge-mini/to-imitate …         takes episodes that are there already
#        CLONED=runs/bridge-mini/policies/stage_4 …     and a policy of bridge-mini.sh
#        TRIAL=1 … /tmp/trial                           every command, a few steps of it
set -euo pipefail
run=${1:-runs/bridge-diffusion-policy}
data=${EPISODES:-$run/episodes}
cloned=${CLONED:-$run/cloned/stage_1}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  episodes=800 cloning=3000 steps=14000 cloning_rows=() rows=()
else  # whether the commands fit together; what comes out of it is of no use
  episodes=8 cloning=4 steps=8 cloning_rows=(--batch 4) rows=(--batch 4 --network.down-dims 8 16)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# the episodes to imitate of bridge-mini.sh
[ -n "${EPISODES:-}" ] || wm-gym collect --env-id BridgeSim-v0 --out "$data" --episodes "$episodes" \
  --seed 20000 --tail-steps 1 --noise 0.1 0.4 --behaviours.expert 0.3 \
  --behaviours.noisy-expert 0.7 --behaviours.random 0 --behaviours.near-miss 0
[ -n "${CLONED:-}" ] || wm-gym train behaviour-cloning --data "$data" --out "$run/cloned" \
  --stages 1.0 --head-steps 0 "${cloning_rows[@]}" --loop.steps "$cloning" --loop.save-every 100

wm-gym train diffusion-policy --data "$data" --out "$run/policy" --domain bridge --network.encoder attention \
  --network.down-dims 48 96 --network.time-embedding 64 --encoder-from "$cloned" --freeze-encoder \
  --batch 128 --execute 2 --stages 0.05 0.2 0.5 1.0 "${rows[@]}" --loop.steps "$steps" \
  --loop.learning-rate 1e-3 --loop.warmup-steps 100 --loop.save-every 200
echo "policies: $run/policy/stage_*"
