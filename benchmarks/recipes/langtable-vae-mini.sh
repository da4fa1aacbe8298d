#!/usr/bin/env bash
# Everything behind assets/langtable-vae-mini, from nothing: episodes, autoencoder, latents, dynamics,
# reward, checkpoint, start states, and the figures in its card. Every step resumes where it stopped.
# usage: benchmarks/recipes/langtable-vae-mini.sh [RUN_FOLDER]        (about 3 GB of disk)
#        TRIAL=1 benchmarks/recipes/langtable-vae-mini.sh /tmp/trial   every command, a few steps of it
set -euo pipefail
run=${1:-runs/langtable-vae-mini}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  episodes=2200 held_out=240 first_look=1500 decoder=2000 dynamics=2750 judge=3500 starts=50
  measured=() judged=() compiled=(--compile) split=() rows=(--batch 6) judge_rows=(--batch 64)
else  # whether the commands fit together; what comes out of it is of no use
  episodes=12 held_out=12 first_look=2 decoder=2 dynamics=2 judge=2 starts=2
  measured=(--clips 2 --horizons 1 2 --denoising-steps 2) judged=(--episodes 8 --horizon 2 --per-kind 2)
  compiled=() split=(--held-out 4) rows=(--batch 2) judge_rows=(--batch 4)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

wm-gym collect --out "$run/episodes" --episodes "$episodes"
wm-gym collect --out "$run/held-out" --episodes "$held_out" --seed 6000 --held-out \
  --behaviours.expert 0.25 --behaviours.noisy-expert 0.25 --behaviours.random 0.25 \
  --behaviours.near-miss 0.25 --no-stop-on-success

wm-gym train autoencoder --data "$run/episodes" --out "$run/autoencoder" "${split[@]}" \
  --loop.steps "$first_look"
wm-gym train latents --data "$run/episodes" --autoencoder "$run/autoencoder/autoencoder.safetensors" \
  --out "$run/latents"
wm-gym train latents --data "$run/held-out" --autoencoder "$run/autoencoder/autoencoder.safetensors" \
  --normalisation "$run/latents/normalisation.json" --out "$run/latents-held-out"

wm-gym train latent-dynamics --latents "$run/latents" --out "$run/dynamics" \
  --dim 160 --depth 3 --heads 5 --band 10 --clip-length 12 --context clean --copies 2 \
  --times uniform --shift 1.0 --change-weight 12 --change-threshold 0.15 --history-noise 0.2 \
  "${split[@]}" "${rows[@]}" "${compiled[@]}" --loop.steps "$dynamics" --loop.learning-rate 1e-3 \
  --loop.final-learning-rate-fraction 0.05 --loop.warmup-steps 100 --loop.ema 0.995 --loop.save-every 100

wm-gym label-goals --latents "$run/latents"
wm-gym label-goals --latents "$run/latents-held-out"
wm-gym train reward --latents "$run/latents" --held-out "$run/latents-held-out" --out "$run/reward" \
  --trunk "$run/autoencoder/autoencoder.safetensors" --dim 96 --depth 1 --noise 0.1 "${judge_rows[@]}" --bf16 \
  --loop.steps "$judge" --loop.learning-rate 3e-3 --loop.final-learning-rate-fraction 0.01 \
  --loop.betas 0.9 0.999 --loop.clip 10 --loop.ema 0.99 --loop.weight-decay 1e-2

# the encoder is kept, so the dynamics stay valid; only the pictures get better
wm-gym train autoencoder --data "$run/episodes" --out "$run/decoder" --decoder-only \
  --init "$run/autoencoder/autoencoder.safetensors" --object-weight 4 --kl-weight 0 \
  "${split[@]}" --loop.steps "$decoder" --loop.ema 0.99

wm-gym train assemble --name langtable-vae-mini --out "$run/checkpoint" \
  --autoencoder "$run/decoder" --latents "$run/latents" --dynamics "$run/dynamics" \
  --reward "$run/reward"
wm-gym make-start-states --checkpoint "$run/checkpoint" --count "$starts"
wm-gym make-demo-clips --checkpoint "$run/checkpoint" --data "$run/held-out"
wm-gym evaluate open-loop --checkpoint "$run/checkpoint" --data "$run/held-out" --write-card \
  --out "$run/open_loop" --json "$run/open_loop.json" "${measured[@]}"
wm-gym evaluate reward-model --checkpoint "$run/checkpoint" --data "$run/held-out" --write-card \
  --json "$run/reward_model.json" "${judged[@]}"
