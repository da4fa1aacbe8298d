#!/usr/bin/env bash
# A LangTable model whose blocks stay whole longer: cells of 8 pixels, latents that are the same
# wherever a thing lies, a transition network that sees two cells each way, training on crops around
# what changes, and cells that stay exactly as they were where little changes.
# usage: benchmarks/recipes/langtable-whole-blocks.sh [RUN_FOLDER]      (about 3 GB of disk)
#        TRIAL=1 benchmarks/recipes/langtable-whole-blocks.sh /tmp/trial   every command, a few steps
#
# Every step resumes where it stopped. No success classifier: `wm-gym train reward` on the same latents
# makes one. The first model made this way went one detour: its autoencoder was trained without
# --network.same-everywhere, then got the mean position in all cells, and its decoder was refined.
set -euo pipefail
run=${1:-runs/langtable-whole-blocks}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  episodes=2200 held_out=240 starts=50
  autoencoder=2600 decoder=420 dynamics=(6000 4000)
  measured=() steady=() compiled=(--compile) split=()
else  # whether the commands fit together; what comes out of it is of no use
  episodes=12 held_out=12 starts=2
  autoencoder=2 decoder=2 dynamics=(2 2)
  measured=(--clips 2 --horizons 1 2) steady=(--starts 2 --steps 2 --out-and-back 1)
  compiled=() split=(--held-out 4)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

wm-gym collect --out "$run/episodes" --episodes "$episodes"
wm-gym collect --out "$run/held-out" --episodes "$held_out" --seed 6000 --held-out \
  --behaviours.expert 0.25 --behaviours.noisy-expert 0.25 --behaviours.random 0.25 \
  --behaviours.near-miss 0.25 --no-stop-on-success

# bfloat16 only pays where the processor has it (BF16=--bf16)
arithmetic=${BF16:---no-bf16}
space=(--network.patch 8 --network.overlap 4 --network.channels 16 --network.encoder-depth 0
  --network.decoder-depth 2 --network.fine 48 --network.same-everywhere "$arithmetic")
wm-gym train autoencoder --data "$run/episodes" --out "$run/autoencoder" "${split[@]}" "${space[@]}" \
  --kl-weight 5e-5 --loop.steps "$autoencoder" --loop.learning-rate 1.5e-3 --loop.ema 0.998
wm-gym train latents --data "$run/episodes" --encoder "$run/autoencoder" --out "$run/latents"

shape=(--dim 160 --depth 3 --heads 5 --band 10 --clip-length 10 --context clean --copies 1
  --times uniform --shift 8.0 --history-noise 0.1 --neighbourhood 2 --crop 6 --crop-margin 1
  --change-weight 8 --change-threshold 0.15 --batch 8 "$arithmetic")
wm-gym train latent-dynamics --latents "$run/latents" --out "$run/dynamics-1" \
  "${shape[@]}" --change-sampling 1.0 "${split[@]}" "${compiled[@]}" \
  --loop.steps "${dynamics[0]}" --loop.learning-rate 1.2e-3 \
  --loop.final-learning-rate-fraction 0.3 --loop.warmup-steps 60 --loop.ema 0.995 \
  --loop.save-every 50
# on from there: in half of the steps the context is what up to three steps of a rollout make of it
wm-gym train latent-dynamics --latents "$run/latents" --out "$run/dynamics-2" \
  --init "$run/dynamics-1/dynamics.safetensors" "${shape[@]}" --change-sampling 1.5 \
  --own-context 0.5 --own-context-passes 3 --unchanged-threshold 0.12 --seed 1 "${split[@]}" \
  "${compiled[@]}" --loop.steps "${dynamics[1]}" --loop.learning-rate 1e-3 \
  --loop.final-learning-rate-fraction 0.03 --loop.warmup-steps 30 --loop.ema 0.99 \
  --loop.save-every 50

# the encoder is kept, so the dynamics stay valid; only the pictures get better
wm-gym train autoencoder --data "$run/episodes" --out "$run/decoder" --decoder-only \
  --init "$run/autoencoder/autoencoder.safetensors" "${split[@]}" "${space[@]}" --kl-weight 0 \
  --object-weight 6 --decoder-noise 0.2 --loop.steps "$decoder" --loop.learning-rate 1.2e-3 \
  --loop.warmup-steps 30 --loop.ema 0.99

wm-gym train assemble --name langtable-vae-mini --out "$run/checkpoint" --encoder "$run/decoder" \
  --latents "$run/latents" --dynamics "$run/dynamics-2" --denoising-steps 1 \
  --unchanged-threshold 0.2
wm-gym make-start-states --checkpoint "$run/checkpoint" --count "$starts"
wm-gym evaluate open-loop --checkpoint "$run/checkpoint" --data "$run/held-out" --write-card \
  --out "$run/open_loop" --json "$run/open_loop.json" "${measured[@]}"
wm-gym evaluate steadiness --checkpoint "$run/checkpoint" --write-card \
  --json "$run/steadiness.json" "${steady[@]}"
