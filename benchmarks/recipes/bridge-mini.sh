#!/usr/bin/env bash
# Two world models of BridgeSim-v0 that differ in their latent space only, bridge-vae-mini and
# bridge-vjepa-mini, from nothing: episodes, both latent spaces, dynamics, rewards, inverse dynamics,
# policies, checkpoints, and every figure in their cards. Every step resumes where it stopped.
# usage: benchmarks/recipes/bridge-mini.sh [RUN_FOLDER]        (about 5 GB of disk)
#        TRIAL=1 benchmarks/recipes/bridge-mini.sh /tmp/trial   every command, a few steps of it
#        FROM=assets …   goes on from the models that ship: their latent spaces and policies, one more
#                        stage of dynamics (an hour a core), and all that depends on it
#
# Frames are 64x64: gripper, fingers and all eight things can be told apart there, and a cell of 8x8
# pixels is about as large as a block. Data, network, steps and seeds are the same for both spaces; only
# the shift of the noise schedule follows the number of values in a frame, as its formula says.
set -euo pipefail
run=${1:-runs/bridge-mini}
from=${FROM:-}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  episodes=1400 held_out=240 test=96 cloned=800 starts=50
  autoencoder=2400 vjepa=2000 painter=(1400 1800) dynamics=(1200 2400 6000 9000 6000)
  judge=(3000 1000) idm=(2500 1200)
  cloning=3000 head=20000 imagined=400 imagined_held_out=200
  measured=(--horizons 1 5 10 20) judged=(--horizon 50) compiled=(--compile) split=() judge_rows=(--batch 64)
  vjepa_rows=() idm_rows=() painter_rows=() cloning_rows=()
  spaces_sizes=()
  compared=(--starts 20 --noise 0 0.1 0.2 --max-steps 50 --denoising-steps 1 --rows 25)
else  # whether the commands fit together; what comes out of it is of no use
  episodes=12 held_out=16 test=16 cloned=8 starts=2
  autoencoder=2 vjepa=2 painter=(2 2) dynamics=(2 2 2 2 2) judge=(2 2) idm=(2 2) cloning=20 head=10
  imagined=2 imagined_held_out=2
  measured=(--clips 2 --horizons 1 4) judged=(--episodes 8 --horizon 2 --per-kind 2)
  compiled=() split=(--held-out 4) judge_rows=(--batch 12 --measured 24)
  vjepa_rows=(--batch 2) idm_rows=(--batch 4) painter_rows=(--batch 2)
  cloning_rows=(--batch 4 --look-batch 2)
  spaces_sizes=(--horizons 1 4 --clips 4 --reward-episodes 8 --recovery.transitions 2
    --recovery.candidates 8 --recovery.elites 2 --recovery.iterations 1)
  compared=(--noise 0 --max-steps 2 --starts 2 --rows 2 --resamples 50)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

collect=(wm-gym collect --env-id BridgeSim-v0)
evenly=(--held-out --no-stop-on-success --behaviours.expert 0.25 --behaviours.noisy-expert 0.25
  --behaviours.random 0.25 --behaviours.near-miss 0.25)
"${collect[@]}" --out "$run/episodes" --episodes "$episodes" --behaviours.expert 0.25 \
  --behaviours.noisy-expert 0.35 --behaviours.random 0.25 --behaviours.near-miss 0.15
"${collect[@]}" --out "$run/held-out" --episodes "$held_out" --seed 6000 "${evenly[@]}"
"${collect[@]}" --out "$run/test" --episodes "$test" --seed 7000 "${evenly[@]}"
[ -n "$from" ] || "${collect[@]}" --out "$run/to-imitate" --episodes "$cloned" --seed 20000 \
  --tail-steps 1 --noise 0.1 0.4 --behaviours.expert 0.3 --behaviours.noisy-expert 0.7 --behaviours.random 0 \
  --behaviours.near-miss 0

# half an hour and an hour of one core
[ -n "$from" ] || wm-gym train autoencoder --data "$run/episodes" --out "$run/vae" "${split[@]}" \
  --network.height 64 --network.width 64 --network.patch 8 --network.fine 48 --kl-weight 5e-5 \
  --loop.steps "$autoencoder" --loop.ema 0.998 --loop.save-every 100
[ -n "$from" ] || wm-gym train vjepa --data "$run/episodes" --out "$run/vjepa" "${split[@]}" \
  "${vjepa_rows[@]}" --loop.steps "$vjepa"

for space in vae vjepa; do
  latents=$run/latents-$space
  # a model that ships keeps its normalisation, which its dynamics know
  if [ -n "$from" ]; then source=(--space "$from/bridge-$space-mini"); else
    source=(--encoder "$run/$space")
  fi
  wm-gym train latents --data "$run/episodes" "${source[@]}" --out "$latents"
  for kept_out in held-out test; do
    wm-gym train latents --data "$run/$kept_out" "${source[@]}" \
      --out "$latents-$kept_out" --normalisation "$latents/normalisation.json"
  done
  wm-gym label-goals --latents "$latents"
  wm-gym label-goals --latents "$latents-held-out"
done
# noise on the latents, because dreams are not encodings; then on, with more weight on what is small:
# a policy that sees decoded frames has to find it
paint=(wm-gym train pixel-decoder --data "$run/episodes" --latents "$run/latents-vjepa"
  --base-channels 32 --channel-multipliers 1 1 2 2 --res-blocks 1 --attn-resolutions --attn-heads 1
  --latent-noise 0.1 "${split[@]}" "${painter_rows[@]}" --loop.learning-rate 1e-3
  --loop.final-learning-rate-fraction 0.02 --loop.warmup-steps 50 --loop.ema 0.99)
if [ -z "$from" ]; then
  "${paint[@]}" --out "$run/painter-1" --loop.steps "${painter[0]}"
  "${paint[@]}" --out "$run/painter" --loop.steps "${painter[1]}" --object-weight 5 \
    --init "$run/painter-1/pixel_decoder.safetensors"
fi

# a good quarter of the cells changes from frame to frame by this threshold, in either space
shape=(--dim 128 --depth 3 --heads 4 --band 10 --clip-length 12 --context clean --times uniform
  --change-weight 6 --change-threshold 0.15 --loop.learning-rate 1e-3)
models=() idms=()
for space in vae vjepa; do
  latents=$run/latents-$space
  # both times a number of times sqrt(values in a frame / 4096): 0.5 for vae, 1.22 for vjepa
  if [ $space = vae ]; then shifts=(1.0 8.0) parts=(); else
    shifts=(2.4 19.6) parts=(--pixel-decoder "$run/painter")
    [ -z "$from" ] || parts=(--pixel-decoder "$from/bridge-vjepa-mini")
  fi
  if [ -n "$from" ]; then
    encoder=$from/bridge-$space-mini stages=(5) weights=$encoder/dynamics.safetensors
  else
    encoder=$run/$space stages=(2 3 4) weights=$run/dynamics-$space-1/dynamics.safetensors
    wm-gym train latent-dynamics --latents "$latents" --out "$run/dynamics-$space-1" "${shape[@]}" \
      --copies 2 --shift "${shifts[0]}" --history-noise 0.2 --batch 6 "${split[@]}" \
      "${compiled[@]}" --loop.steps "${dynamics[0]}" --loop.final-learning-rate-fraction 0.05 \
      --loop.warmup-steps 100 --loop.ema 0.995 --loop.save-every 100
  fi
  # on from there, three times: nearly all noise, more often clips in which much moves, and the context
  # in two of five steps what up to three steps of a rollout make of it
  for stage in "${stages[@]}"; do
    wm-gym train latent-dynamics --latents "$latents" --out "$run/dynamics-$space-$stage" \
      --init "$weights" "${shape[@]}" --copies 1 \
      --shift "${shifts[1]}" --own-context 0.4 --own-context-passes 3 --change-sampling 2.0 \
      --history-noise 0.1 --batch 4 --seed "$stage" "${split[@]}" "${compiled[@]}" \
      --loop.steps "${dynamics[$stage - 1]}" --loop.final-learning-rate-fraction 0.02 \
      --loop.warmup-steps 100 --loop.ema 0.998 --loop.save-every 100
    weights=$run/dynamics-$space-$stage/dynamics.safetensors
  done
  judging=(wm-gym train reward --latents "$latents" --held-out "$latents-held-out" --dim 96 --depth 1
    --trunk-dim 96 --trunk-depth 2 --noise 0.1 "${judge_rows[@]}" --bf16
    --loop.final-learning-rate-fraction 0.01 --loop.betas 0.9 0.99 --loop.ema 0.99
    --loop.weight-decay 1e-2)
  "${judging[@]}" --out "$run/reward-$space-1" --loop.steps "${judge[0]}" \
    --loop.learning-rate 2e-3 --loop.warmup-steps 50
  for number in 0 1; do
    k=$((1 + 3 * number))
    wm-gym train idm --latents "$latents" --held-out "$latents-held-out" \
      --out "$run/idm-$space-$k" --horizon "$k" --patch 2 --dropout 0 "${idm_rows[@]}" \
      --loop.steps "${idm[number]}"
    idms+=("$run/idm-$space-$k")
  done
  assembled=(wm-gym train assemble --name "bridge-$space-mini" --encoder "$encoder" "${parts[@]}"
    --latents "$latents" --dynamics "${weights%/*}" --denoising-steps 2 --sampling-shift 0.1)
  # in the dream things dissolve, which no encoded frame shows: on with what the model imagines
  "${assembled[@]}" --out "$run/dreaming-$space" --reward "$run/reward-$space-1"
  for part in episodes held-out; do
    if [ $part = episodes ]; then count=$imagined dream=$run/imagined-$space; else
      count=$imagined_held_out dream=$run/imagined-$space-held-out
    fi
    wm-gym train imagined-latents --data "$run/$part" --checkpoint "$run/dreaming-$space" \
      --out "$dream" --episodes "$count" --denoising-steps 1
    wm-gym label-goals --latents "$dream"
  done
  "${judging[@]}" --out "$run/reward-$space" --init "$run/reward-$space-1/reward.safetensors" \
    --imagined "$run/imagined-$space" --imagined-held-out "$run/imagined-$space-held-out" \
    --loop.steps "${judge[1]}" --loop.learning-rate 1e-3 --loop.warmup-steps 20
  model=$run/bridge-$space-mini
  "${assembled[@]}" --out "$model" --reward "$run/reward-$space"
  wm-gym make-start-states --checkpoint "$model" --count "$starts"
  wm-gym make-demo-clips --checkpoint "$model" --data "$run/held-out"
  # other episodes than those that chose the thresholds
  wm-gym evaluate open-loop --checkpoint "$model" --data "$run/test" --write-card \
    --out "$run/open_loop-$space" --json "$run/open_loop-$space.json" "${measured[@]}"
  wm-gym evaluate reward-model --checkpoint "$model" --data "$run/test" --write-card \
    --json "$run/reward_model-$space.json" "${judged[@]}"
  models+=("$model")
done
wm-gym evaluate latent-spaces --checkpoints "${models[@]}" --idms "${idms[@]}" --data "$run/test" \
  --out "$run/latent_spaces" --json "$run/latent_spaces.json" --write-card "${spaces_sizes[@]}"

# graded policies, and what both worlds say of them; the simulator's episodes are shared. Stages 5 and 6
# are those of the action head alone: without them no cloned policy succeeds often. assets/bridge-bc has 3,
# 5 and 6, assets/bridge-dp diffusion policies that look with the encoder of stage 6
if [ -n "$from" ]; then policies=$from/bridge-bc diffusion=$from/bridge-dp; else
  policies=$run/policies diffusion=$run/diffusion
  wm-gym train behaviour-cloning --data "$run/to-imitate" --look "$run/episodes" \
    --out "$policies" --stages 0.1 0.25 0.5 1.0 --head-steps "$head" "${cloning_rows[@]}" \
    --loop.steps "$cloning" --loop.save-every 100
  EPISODES=$run/to-imitate CLONED=$policies/stage_6 \
    "$(dirname "${BASH_SOURCE[0]}")/bridge-diffusion-policy.sh" "$diffusion"
  for stage in 2 4; do ln -sfn "policy/stage_$stage" "$diffusion/diffusion_$stage"; done
fi
for space in VAE VJEPA; do
  wm-gym compare-real --id "WM-Bridge-$space-v0" --checkpoint "$run/bridge-${space,,}-mini" \
    --policies "$policies/stage_3" "$policies/stage_5" "$policies/stage_6" \
    "$diffusion/diffusion_2" "$diffusion/diffusion_4" \
    --tasks carrot_on_plate spoon_on_towel green_block_on_yellow_block eggplant_in_basket \
    --out "$run/comparison-$space" --true-records "$run/true" --judge-recorded \
    "${compared[@]}"
done
