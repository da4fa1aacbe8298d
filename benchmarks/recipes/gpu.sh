#!/usr/bin/env bash
# Both domains' reconstruction models with far more compute than two CPU cores have: on one large GPU
# with 16 cores, from nothing to two checkpoints within nine minutes. Every step resumes where it
# stopped; the clock decides how long dynamics train, so that the checkpoints are always written.
# usage: benchmarks/recipes/gpu.sh [RUN_FOLDER]        RUN_FOLDER/langtable and RUN_FOLDER/bridge come out
#        SECONDS_IN_ALL=1500 …          with more time
#        TRIAL=1 benchmarks/recipes/gpu.sh /tmp/trial   every command, a few steps of it, on two cores
# `make gpu-smoke` goes first. What is trained is langtable-whole-blocks.sh's and bridge-mini.sh's,
# wider and on larger batches; Bridge sees whole frames, since what an arm hides reaches far.
set -euo pipefail
run=${1:-runs/gpu}
mkdir -p "$run"
began=$(date +%s)
in_all=${SECONDS_IN_ALL:-540}
if [ -z "${TRIAL:-}" ]; then
  episodes=2200 workers=8 steps=(4000 1500 12000 12000)
  wide=(--dim 256 --depth 4 --heads 8) batch=128 ae_batch=256 limit=1 split=()
else  # whether the commands fit together; what comes out of it is of no use
  episodes=12 workers=1 steps=(2 2 2 2) wide=(--dim 32 --depth 1 --heads 2) batch=2 ae_batch=2 limit=
  split=(--held-out 4)
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MUJOCO_GL=${MUJOCO_GL:-egl}

until_share() {  # PER CENT: minutes that are left until this share of all time, as --loop.max-minutes
  [ -n "$limit" ] || return 0
  awk -v s=$((began + in_all * $1 / 100 - $(date +%s))) \
    'BEGIN { printf "--loop.max-minutes %.2f", s < 6 ? 0.1 : s / 60 }'
}

domain() {  # NAME, then the simulator's settings, "--", the latent space's, "--", the dynamics'
  local name=$1 out=$run/$1-parts collect=() space=() network=()
  shift
  while [ "$1" != -- ]; do collect+=("$1") && shift; done && shift
  while [ "$1" != -- ]; do space+=("$1") && shift; done && shift
  network=("$@")
  mkdir -p "$out"
  wm-gym collect "${collect[@]}" --out "$out/episodes" --episodes $episodes --workers $workers
  # shellcheck disable=SC2046
  wm-gym train autoencoder --data "$out/episodes" --out "$out/autoencoder" "${split[@]}" \
    "${space[@]}" --kl-weight 5e-5 --batch $ae_batch --loop.steps "${steps[0]}" --loop.ema 0.998 \
    --loop.learning-rate 1.5e-3 $(until_share 40)
  wm-gym train latents --data "$out/episodes" --encoder "$out/autoencoder" --out "$out/latents"
  common=(--context clean --copies 1 --times uniform --shift 8.0 --history-noise 0.1 --band 10
    --change-threshold 0.15 --batch $batch "${wide[@]}" "${network[@]}" "${split[@]}" --in-memory
    --loop.warmup-steps 200 --loop.ema 0.998)
  # shellcheck disable=SC2046
  wm-gym train latent-dynamics --latents "$out/latents" --out "$out/dynamics-1" "${common[@]}" \
    --loop.steps "${steps[2]}" --loop.learning-rate 1e-3 $(until_share 65)
  # shellcheck disable=SC2046
  wm-gym train latent-dynamics --latents "$out/latents" --out "$out/dynamics-2" "${common[@]}" \
    --init "$out/dynamics-1/dynamics.safetensors" --own-context 0.5 --own-context-passes 3 --seed 1 \
    --change-sampling 1.5 --loop.steps "${steps[3]}" --loop.learning-rate 5e-4 \
    --loop.final-learning-rate-fraction 0.03 $(until_share 85)
  # shellcheck disable=SC2046
  wm-gym train autoencoder --data "$out/episodes" --out "$out/decoder" "${split[@]}" "${space[@]}" \
    --decoder-only --init "$out/autoencoder/autoencoder.safetensors" --kl-weight 0 \
    --object-weight 6 --decoder-noise 0.2 --batch $ae_batch --loop.steps "${steps[1]}" \
    --loop.ema 0.99 --loop.learning-rate 1e-3 $(until_share 93)
  kept=0
  [ "$name" != langtable ] || kept=0.12
  wm-gym train assemble --name "$name-vae-mini" --out "$run/$name" --encoder "$out/decoder" \
    --latents "$out/latents" --dynamics "$out/dynamics-2" --denoising-steps 1 \
    --unchanged-threshold $kept
}

langtable() {
  domain langtable --env-id LangTable-v0 -- --network.patch 8 --network.encoder-depth 0 \
    --network.decoder-depth 3 --network.fine 48 --network.same-everywhere -- --clip-length 10 \
    --neighbourhood 2 --crop 6 --crop-margin 1 --change-weight 8
}
bridge() {
  domain bridge --env-id BridgeSim-v0 --behaviours.expert 0.25 --behaviours.noisy-expert 0.35 \
    --behaviours.random 0.25 --behaviours.near-miss 0.15 -- --network.height 64 --network.width 64 \
    --network.patch 8 --network.fine 48 -- --clip-length 12 --change-weight 6
}
if [ -n "${TRIAL:-}" ]; then
  langtable
  bridge
else  # side by side: neither fills the GPU alone
  langtable &
  first=$!
  bridge
  wait $first
fi
echo "$(($(date +%s) - began)) of $in_all seconds"
du -sh "$run"/langtable "$run"/bridge 2>/dev/null || true
