#!/usr/bin/env bash
# Everything behind assets/langtable-bc, from nothing: episodes to imitate, episodes to look at, and a
# policy saved at four stages of its training. Every step resumes where it stopped. The policies that
# ship were made with these settings from other episodes (assets/langtable-bc/README.md).
# usage: benchmarks/recipes/langtable-bc.sh [RUN_FOLDER] [ASSETS]      (one core: about an hour)
#        LOOK=runs/langtable-vae-mini/episodes …        takes the world model's episodes to look at
#        TRIAL=1 … /tmp/trial /tmp/trial/assets         every command, a few steps of it
set -euo pipefail
run=${1:-runs/langtable-bc}
assets=${2:-assets/langtable-bc}
look=${LOOK:-$run/look}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  episodes=540 looked_at=2200 steps=2400 rows=()
else  # whether the commands fit together; what comes out of it is of no use
  episodes=6 looked_at=6 steps=20 rows=(--batch 4 --look-batch 2)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# pushing is harder than reaching and gets twice the episodes; an episode ends right after its success
wm-gym collect --out "$run/episodes" --episodes "$episodes" --seed 20000 --steps 70 --tail-steps 1 \
  --tasks reach push push --noise 0.012 0.012 --behaviours.expert 0.3 --behaviours.noisy-expert 0.7 \
  --behaviours.random 0 --behaviours.near-miss 0
[ -n "${LOOK:-}" ] || wm-gym collect --out "$look" --episodes "$looked_at"

wm-gym train behaviour-cloning --data "$run/episodes" --look "$look" --out "$run/policy" \
  --tasks reach push --stages 0.05 0.2 0.5 1.0 --head-steps 0 "${rows[@]}" --loop.steps "$steps" --loop.save-every 100

for stage in 1 2 3 4; do
  mkdir -p "$assets/stage_$stage"
  cp "$run/policy/stage_$stage"/policy.{json,safetensors} "$assets/stage_$stage/"
  rm -f "$assets/stage_$stage/policy.safetensors.xz"  # scripts/pack_assets.py makes the new one
done
echo "policies: $assets"
