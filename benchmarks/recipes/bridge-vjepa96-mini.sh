#!/usr/bin/env bash
# bridge-vjepa96-mini: V-JEPA's latents of BridgeSim through an S-VAE adapter, as VJEPA96 does with the
# published ones. There 1024 channels become 96; here 96 become 9. Everything but the adapter and what
# is trained on its latents comes from a run of bridge-mini.sh.
# usage: benchmarks/recipes/bridge-vjepa96-mini.sh [RUN_FOLDER of bridge-mini.sh]
#        TRIAL=1 …   every command, a few steps of it
set -euo pipefail
run=${1:-runs/bridge-mini}
if [ -z "${TRIAL:-}" ]; then
  adapter=2000 painter=1400 dynamics=(1200 1600) judge=3000
  measured=(--horizons 1 5 10 20) judged=() compiled=(--compile) split=() judge_rows=(--batch 64)
  painter_rows=() starts=50
else
  adapter=2 painter=2 dynamics=(2 2) judge=2
  measured=(--clips 2 --horizons 1 4) judged=(--episodes 8 --horizon 2 --per-kind 2)
  compiled=() split=(--held-out 4) judge_rows=(--batch 12 --measured 24) painter_rows=(--batch 2) starts=2
fi
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
latents=$run/latents-vjepa96 wide=$run/latents-vjepa

wm-gym train svae --latents "$wide" --out "$run/adapter" --latent-dim 9 --layers 2 --heads 4 \
  --intermediate-size 192 "${split[@]}" --loop.steps "$adapter" --loop.learning-rate 1e-3 \
  --loop.final-learning-rate-fraction 0.02 --loop.warmup-steps 50 --loop.ema 0.99
wm-gym train latents --data "$run/episodes" --encoder "$run/vjepa" --adapter "$run/adapter" \
  --out "$latents"
for kept_out in held-out test; do
  wm-gym train latents --data "$run/$kept_out" --encoder "$run/vjepa" --adapter "$run/adapter" \
    --out "$latents-$kept_out" --normalisation "$latents/normalisation.json"
done
wm-gym label-goals --latents "$latents"
wm-gym label-goals --latents "$latents-held-out"
wm-gym train pixel-decoder --data "$run/episodes" --latents "$wide" --adapter "$run/adapter" \
  --out "$run/painter96" --base-channels 32 --channel-multipliers 1 1 2 2 --res-blocks 1 \
  --attn-resolutions --attn-heads 1 --latent-noise 0.1 --object-weight 5 "${split[@]}" \
  "${painter_rows[@]}" \
  --loop.steps "$painter" --loop.learning-rate 1e-3 --loop.final-learning-rate-fraction 0.02 \
  --loop.warmup-steps 50 --loop.ema 0.99

# a network narrower than bridge-mini's: all of this model's weights take less than 8 MB. Shifts are
# 2 and 16 times sqrt(values in a frame / 4096), as there
shape=(--dim 112 --depth 3 --heads 4 --band 10 --clip-length 12 --context clean --times uniform
  --change-weight 6 --change-threshold 0.15 --loop.learning-rate 1e-3)
wm-gym train latent-dynamics --latents "$latents" --out "$run/dynamics-vjepa96-1" "${shape[@]}" \
  --copies 2 --shift 0.75 --history-noise 0.2 --batch 6 "${split[@]}" "${compiled[@]}" \
  --loop.steps "${dynamics[0]}" --loop.final-learning-rate-fraction 0.05 --loop.warmup-steps 100 \
  --loop.ema 0.995 --loop.save-every 100
wm-gym train latent-dynamics --latents "$latents" --out "$run/dynamics-vjepa96" "${shape[@]}" \
  --init "$run/dynamics-vjepa96-1/dynamics.safetensors" --copies 1 --shift 6.0 \
  --own-context 0.4 --own-context-passes 3 --change-sampling 2.0 --history-noise 0.1 --batch 4 \
  --seed 2 "${split[@]}" "${compiled[@]}" --loop.steps "${dynamics[1]}" \
  --loop.final-learning-rate-fraction 0.02 --loop.warmup-steps 100 --loop.ema 0.998 \
  --loop.save-every 100
wm-gym train reward --latents "$latents" --held-out "$latents-held-out" \
  --out "$run/reward-vjepa96" --dim 64 --depth 1 --trunk-dim 64 --trunk-depth 2 --noise 0.1 \
  "${judge_rows[@]}" --bf16 --loop.steps "$judge" --loop.learning-rate 2e-3 \
  --loop.final-learning-rate-fraction 0.01 --loop.warmup-steps 50 --loop.betas 0.9 0.99 \
  --loop.ema 0.99 --loop.weight-decay 1e-2

model=$run/bridge-vjepa96-mini
wm-gym train assemble --name bridge-vjepa96-mini --out "$model" --encoder "$run/vjepa" \
  --adapter "$run/adapter" --pixel-decoder "$run/painter96" --latents "$latents" \
  --dynamics "$run/dynamics-vjepa96" --reward "$run/reward-vjepa96" --denoising-steps 2 \
  --sampling-shift 0.1 --description "A small latent world model of wm_gym's BridgeSim-v0 simulator \
over V-JEPA latents whose 96 channels an S-VAE adapter compresses to 9, as the published VJEPA96 \
compresses 1024 to 96; trained on two CPU cores by this repository's recipe. It is not one of the \
published models."
wm-gym make-start-states --checkpoint "$model" --count "$starts"
wm-gym make-demo-clips --checkpoint "$model" --data "$run/held-out"
wm-gym evaluate open-loop --checkpoint "$model" --data "$run/test" --write-card \
  --out "$run/open_loop-vjepa96" --json "$run/open_loop-vjepa96.json" "${measured[@]}"
wm-gym evaluate reward-model --checkpoint "$model" --data "$run/test" --write-card \
  --json "$run/reward_model-vjepa96.json" "${judged[@]}"
