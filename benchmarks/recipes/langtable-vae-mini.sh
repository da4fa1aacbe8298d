#!/usr/bin/env bash
# Everything behind assets/langtable-vae-mini, from nothing: episodes, autoencoder, latents, dynamics,
# reward, checkpoint, start states, and the figures in its card. Every step resumes where it stopped.
# usage: benchmarks/recipes/langtable-vae-mini.sh [RUN_FOLDER]        (about 3 GB of disk)
set -euo pipefail
run=${1:-runs/langtable-vae-mini}
mkdir -p "$run"
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

wm-gym collect --out "$run/episodes" --episodes 2200
wm-gym collect --out "$run/held-out" --episodes 240 --seed 6000 --held-out \
  --behaviours.expert 0.25 --behaviours.noisy-expert 0.25 --behaviours.random 0.25 \
  --behaviours.near-miss 0.25 --no-stop-on-success

wm-gym train autoencoder --data "$run/episodes" --out "$run/autoencoder" --loop.steps 1500
wm-gym train latents --data "$run/episodes" --autoencoder "$run/autoencoder/autoencoder.safetensors" \
  --out "$run/latents"
wm-gym train latents --data "$run/held-out" --autoencoder "$run/autoencoder/autoencoder.safetensors" \
  --normalisation "$run/latents/normalisation.json" --out "$run/latents-held-out"

wm-gym train latent-dynamics --latents "$run/latents" --out "$run/dynamics" \
  --dim 160 --depth 3 --heads 5 --band 10 --clip-length 12 --context clean --copies 2 \
  --times uniform --shift 1.0 --change-weight 12 --change-threshold 0.15 --history-noise 0.2 \
  --batch 6 --compile --loop.steps 2750 --loop.learning-rate 1e-3 \
  --loop.final-learning-rate-fraction 0.05 --loop.warmup-steps 100 --loop.ema 0.995 --loop.save-every 100

wm-gym label-goals --latents "$run/latents"
wm-gym label-goals --latents "$run/latents-held-out"
wm-gym train reward --latents "$run/latents" --held-out "$run/latents-held-out" --out "$run/reward" \
  --trunk "$run/autoencoder/autoencoder.safetensors" --dim 96 --depth 1 --noise 0.1 --batch 64 --bf16 \
  --loop.steps 3500 --loop.learning-rate 3e-3 --loop.final-learning-rate-fraction 0.01 \
  --loop.betas 0.9 0.999 --loop.clip 10 --loop.ema 0.99 --loop.weight-decay 1e-2

# the encoder is kept, so the dynamics stay valid; only the pictures get better
wm-gym train autoencoder --data "$run/episodes" --out "$run/decoder" --decoder-only \
  --init "$run/autoencoder/autoencoder.safetensors" --object-weight 4 --kl-weight 0 \
  --loop.steps 2000 --loop.ema 0.99

wm-gym train assemble --name langtable-vae-mini --out "$run/checkpoint" \
  --autoencoder "$run/decoder" --latents "$run/latents" --dynamics "$run/dynamics" \
  --reward "$run/reward"
wm-gym make-start-states --checkpoint "$run/checkpoint"
wm-gym make-demo-clips --checkpoint "$run/checkpoint" --data "$run/held-out"
wm-gym evaluate open-loop --checkpoint "$run/checkpoint" --data "$run/held-out" --write-card \
  --json "$run/open_loop.json"
wm-gym evaluate reward-model --checkpoint "$run/checkpoint" --data "$run/held-out" --write-card \
  --json "$run/reward_model.json"
