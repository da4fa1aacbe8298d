#!/usr/bin/env bash
# Everything behind assets/langtable-vae-mini, from nothing: episodes, autoencoder, latents, dynamics,
# reward, checkpoint, start states, and the figures in its card; then a deliberately bad world model and
# the comparison of both with the simulator. Every step resumes where it stopped.
# usage: benchmarks/recipes/langtable-vae-mini.sh [RUN_FOLDER]        (about 3 GB of disk)
#        TRIAL=1 benchmarks/recipes/langtable-vae-mini.sh /tmp/trial   every command, a few steps of it
#
# It goes the way the model that ships went: a first autoencoder and dynamics on its latents, then a
# longer autoencoder from there, and dynamics that go on from the first ones on the new latents. The
# long autoencoder of the model that ships was stopped at step 5000 of 5500, at 4 % of its learning rate.
set -euo pipefail
run=${1:-runs/langtable-vae-mini}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  episodes=2200 held_out=240 test=96 starts=50
  autoencoders=(1500 5500) decoders=(2000 1000) dynamics=(2750 3300 6000) early=200 judge=4500
  compared=(--noise 0 0.6 4 --max-steps 40 --denoising-steps 1 --rows 25)
  measured=() judged=() compiled=(--compile) split=() judge_rows=(--batch 64)
else  # whether the commands fit together; what comes out of it is of no use
  episodes=12 held_out=12 test=12 starts=2
  autoencoders=(2 2) decoders=(2 2) dynamics=(2 2 2) early=2 judge=2
  compared=(--noise 0 --max-steps 2 --starts 2 --rows 2 --resamples 50)
  measured=(--clips 2 --horizons 1 2 --denoising-steps 2) judged=(--episodes 8 --horizon 2 --per-kind 2)
  compiled=() split=(--held-out 4) judge_rows=(--batch 4 --measured 24)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

wm-gym collect --out "$run/episodes" --episodes "$episodes"
wm-gym collect --out "$run/held-out" --episodes "$held_out" --seed 6000 --held-out \
  --behaviours.expert 0.25 --behaviours.noisy-expert 0.25 --behaviours.random 0.25 \
  --behaviours.near-miss 0.25 --no-stop-on-success

encode() {  # ENCODER LATENTS: latents of both datasets, with the same normalisation, and labels
  wm-gym train latents --data "$run/episodes" --encoder "$1" --out "$2"
  wm-gym train latents --data "$run/held-out" --encoder "$1" --out "$2-held-out" \
    --normalisation "$2/normalisation.json"
  wm-gym label-goals --latents "$2"
  wm-gym label-goals --latents "$2-held-out"
}
shape=(--dim 160 --depth 3 --heads 5 --band 10 --clip-length 12 --context clean --copies 2
  --times uniform --change-weight 12 --change-threshold 0.15 --loop.learning-rate 1e-3
  --loop.final-learning-rate-fraction 0.05)

# first: half an hour of an autoencoder, an hour of dynamics
wm-gym train autoencoder --data "$run/episodes" --out "$run/autoencoder-1" "${split[@]}" \
  --kl-weight 5e-4 --loop.steps "${autoencoders[0]}"
wm-gym train autoencoder --data "$run/episodes" --out "$run/decoder-1" --decoder-only \
  --init "$run/autoencoder-1/autoencoder.safetensors" --object-weight 4 --kl-weight 0 \
  "${split[@]}" --loop.steps "${decoders[0]}" --loop.ema 0.99 --loop.warmup-steps 50
encode "$run/autoencoder-1" "$run/latents-1"
first=(--shift 1.0 --history-noise 0.2 --batch 6 --loop.warmup-steps 100 --loop.ema 0.995
  --loop.save-every 100)
wm-gym train latent-dynamics --latents "$run/latents-1" --out "$run/dynamics-1" "${shape[@]}" \
  "${first[@]}" "${split[@]}" "${compiled[@]}" --loop.steps "${dynamics[0]}"

# then: a tenth of the KL weight; dynamics that see their own frames in a third of the steps
wm-gym train autoencoder --data "$run/episodes" --out "$run/autoencoder-2" "${split[@]}" \
  --init "$run/decoder-1/autoencoder.safetensors" --kl-weight 5e-5 \
  --loop.steps "${autoencoders[1]}" --loop.learning-rate 1.2e-3 --loop.ema 0.998
encode "$run/autoencoder-2" "$run/latents-2"
wm-gym train latent-dynamics --latents "$run/latents-2" --out "$run/dynamics-2" "${shape[@]}" \
  --init "$run/dynamics-1/dynamics.safetensors" --shift 3.0 --own-context 0.3 --history-noise 0.1 \
  --batch 4 --seed 1 "${split[@]}" "${compiled[@]}" --loop.steps "${dynamics[1]}" \
  --loop.warmup-steps 50 --loop.ema 0.997 --loop.save-every 50
# on from there: one copy, nearly all noise, of more clips; those in which blocks move more often; the
# context in two of five steps what up to three steps of a rollout make of it
wm-gym train latent-dynamics --latents "$run/latents-2" --out "$run/dynamics-3" "${shape[@]}" \
  --init "$run/dynamics-2/dynamics.safetensors" --copies 1 --shift 8.0 --own-context 0.4 \
  --own-context-passes 3 --change-sampling 2.0 --history-noise 0.1 --batch 4 --seed 2 \
  "${split[@]}" "${compiled[@]}" --loop.steps "${dynamics[2]}" --loop.warmup-steps 100 \
  --loop.ema 0.998 --loop.final-learning-rate-fraction 0.02 --loop.save-every 100

wm-gym train reward --latents "$run/latents-2" --held-out "$run/latents-2-held-out" \
  --out "$run/reward" --trunk "$run/autoencoder-2/autoencoder.safetensors" --dim 96 --depth 1 \
  --noise 0.1 "${judge_rows[@]}" --bf16 --loop.steps "$judge" --loop.learning-rate 2e-3 \
  --loop.final-learning-rate-fraction 0.01 --loop.warmup-steps 50 --loop.betas 0.9 0.99 \
  --loop.ema 0.99 --loop.weight-decay 1e-2

# the encoder is kept, so the dynamics stay valid; only the pictures get better
wm-gym train autoencoder --data "$run/episodes" --out "$run/decoder-2" --decoder-only \
  --network.fine 48 --init "$run/autoencoder-2/autoencoder.safetensors" --kl-weight 0 \
  "${split[@]}" --loop.steps "${decoders[1]}" --loop.ema 0.99 --loop.warmup-steps 50

# two steps, the second near the end of the schedule: more of them follow the truth less closely here
parts=(--encoder "$run/decoder-2" --latents "$run/latents-2" --reward "$run/reward"
  --denoising-steps 2 --sampling-shift 0.1)
wm-gym train assemble --name langtable-vae-mini --out "$run/checkpoint" "${parts[@]}" \
  --dynamics "$run/dynamics-3"
wm-gym make-start-states --checkpoint "$run/checkpoint" --count "$starts"
wm-gym make-demo-clips --checkpoint "$run/checkpoint" --data "$run/held-out"
wm-gym evaluate open-loop --checkpoint "$run/checkpoint" --data "$run/held-out" --write-card \
  --out "$run/open_loop" --json "$run/open_loop.json" "${measured[@]}"
# other episodes than those that chose the thresholds
wm-gym collect --out "$run/test" --episodes "$test" --seed 7000 --held-out \
  --behaviours.expert 0.25 --behaviours.noisy-expert 0.25 --behaviours.random 0.25 \
  --behaviours.near-miss 0.25 --no-stop-on-success
wm-gym evaluate reward-model --checkpoint "$run/checkpoint" --data "$run/test" --write-card \
  --json "$run/reward_model.json" "${judged[@]}"

# the bad model has the same parts, and dynamics that were stopped minutes after they began
wm-gym train latent-dynamics --latents "$run/latents-2" --out "$run/dynamics-early" "${shape[@]}" \
  "${first[@]}" "${split[@]}" --loop.steps "$early"
wm-gym train assemble --name langtable-vae-mini-early --out "$run/checkpoint-early" "${parts[@]}" \
  --dynamics "$run/dynamics-early" --description "A deliberately bad world model to compare with: \
langtable-vae-mini with dynamics that were trained for $early steps only."
wm-gym compare-real --checkpoint "$run/checkpoint" --bad-checkpoint "$run/checkpoint-early" \
  --out "$run/comparison" --true-records "$run/true" "${compared[@]}"
