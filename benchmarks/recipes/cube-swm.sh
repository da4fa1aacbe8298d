#!/usr/bin/env bash
# cube-swm: a small semantic world model of Cube-v0 (OGBench's arm and four cubes), from nothing, as
# langtable-swm.sh makes one of LangTable: episodes, questions about single pictures and about the
# future, four stages of training, the checkpoint, its threshold, and the figures in its card. Every
# step resumes where it stopped. Needs pip install 'wm_gym[ogbench]'.
# usage: benchmarks/recipes/cube-swm.sh [RUN_FOLDER]        (about two hours of one core)
#        EPISODES=… HELD_OUT=… UNSEEN=…                     takes episodes that are there already
#        TRIAL=1 … /tmp/trial                               every command, a few steps of it
set -euo pipefail
run=${1:-runs/cube-swm}
episodes=${EPISODES:-$run/episodes}
held_out=${HELD_OUT:-$run/held-out}
unseen=${UNSEEN:-$run/unseen}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  count=600 floor_count=150 held_out_count=80 unseen_count=40 starts=30 length=()
  steps=(500 4000 2500 2500) check=500 first=(--rows 12 --questions 3) second=(--rows 6 --questions 12)
  measured=() calibrated=()
else  # whether the commands fit together; what comes out of it is of no use
  count=8 floor_count=4 held_out_count=24 unseen_count=4 starts=1 length=(--steps 60)
  steps=(2 2 2 2) check=0 first=(--rows 2 --questions 3) second=(--rows 2 --questions 3)
  measured=(--frames 8 --questions 4 --batch 4) calibrated=(--per-task 20)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

collect=(wm-gym collect --env-id Cube-v0 "${length[@]}")
[ -n "${EPISODES:-}" ] || "${collect[@]}" --out "$episodes" --episodes "$count" \
  --behaviours.expert 0.25 --behaviours.noisy-expert 0.3 --behaviours.random 0.35 --behaviours.near-miss 0.1
[ -n "${HELD_OUT:-}" ] || "${collect[@]}" --out "$held_out" --episodes "$held_out_count" --seed 6000 \
  --held-out --behaviours.expert 0.25 --behaviours.noisy-expert 0.25 --behaviours.random 0.25 \
  --behaviours.near-miss 0.25 --no-stop-on-success
# the background that no other episode has; the expert's, as the paper evaluates
[ -n "${UNSEEN:-}" ] || "${collect[@]}" --out "$unseen" --episodes "$unseen_count" --seed 6500 --held-out \
  --background teal --behaviours.expert 1 --behaviours.noisy-expert 0 --behaviours.random 0 \
  --behaviours.near-miss 0
# two more floors, for the last stage
"${collect[@]}" --out "$run/sand" --episodes "$floor_count" --seed 1000 --background sand \
  --behaviours.expert 0.25 --behaviours.noisy-expert 0.3 --behaviours.random 0.35 --behaviours.near-miss 0.1
"${collect[@]}" --out "$run/plum" --episodes "$floor_count" --seed 2000 --background plum \
  --behaviours.expert 0.25 --behaviours.noisy-expert 0.3 --behaviours.random 0.35 --behaviours.near-miss 0.1

wm-gym collect-qa --data "$episodes" --out "$run/present" --present-only --stride 8
wm-gym collect-qa --data "$episodes" --out "$run/saqa" --stride 2
wm-gym collect-qa --data "$episodes" "$run/sand" "$run/plum" --out "$run/saqa-more" --stride 2
wm-gym collect-qa --data "$held_out" --out "$run/qa-held-out" --stride 4
wm-gym collect-qa --data "$unseen" --out "$run/qa-unseen" --stride 4

# stage 1 stands in for a VLM's pretraining: which thing is where, in single pictures
wm-gym train semantic --qa "$run/present" --out "$run/stage_1" --expert-share None --name cube-swm \
  --network.action-width 5 --network.width 128 --network.depth 5 --network.head-width 32 --network.mlp 384 \
  --network.vision-width 128 --network.vision-depth 3 --network.vision-heads 8 \
  --network.vision-mlp 256 --local-vision --seeing-weight 1 --grounding-weight 1 \
  "${first[@]}" --loop.steps "${steps[0]}" --loop.learning-rate 2e-3 --loop.warmup-steps 50 \
  --loop.final-learning-rate-fraction 0.5 --loop.save-every 100
# stage 2 asks about the future, half of it expert's and half suboptimal
wm-gym train semantic --qa "$run/saqa" --init "$run/stage_1/checkpoint" --out "$run/stage_2" --name cube-swm \
  --seeing-weight 0.5 --grounding-weight 1 "${second[@]}" --loop.steps "${steps[1]}" \
  --loop.learning-rate 1.5e-3 --loop.warmup-steps 50 --loop.save-every 100 \
  --check "$run/qa-held-out" --check-every "$check"
# and on for a while: two points more of the answers are right
wm-gym train semantic --qa "$run/saqa" --init "$run/stage_2/checkpoint" --out "$run/stage_3" --name cube-swm \
  --seeing-weight 0.5 --grounding-weight 1 "${second[@]}" --loop.steps "${steps[2]}" --seed 1 \
  --loop.learning-rate 1e-3 --loop.warmup-steps 50 --loop.save-every 100 \
  --check "$run/qa-held-out" --check-every "$check"
# and on, with more episodes: another point, and more cubes are reached; that these have two more floors
# was to help on floors never seen, and did not
wm-gym train semantic --qa "$run/saqa-more" --init "$run/stage_3/checkpoint" --out "$run/stage_4" --name cube-swm \
  --seeing-weight 0.5 --grounding-weight 1 "${second[@]}" --loop.steps "${steps[3]}" --seed 2 \
  --loop.learning-rate 1e-3 --loop.warmup-steps 50 --loop.save-every 100 \
  --check "$run/qa-held-out" --check-every "$check"

model=$run/cube-swm
wm-gym train assemble-semantic --checkpoint "$run/stage_4/checkpoint" --name cube-swm --out "$model"
wm-gym make-start-states --id WM-Cube-SWM-v0 --checkpoint "$model" --count "$starts"
wm-gym calibrate-semantic --checkpoint "$model" --data "$held_out" --write-card \
  --json "$run/answer_threshold.json" "${calibrated[@]}"
wm-gym evaluate semantic --checkpoint "$model" --qa "$run/qa-held-out" --qa-ood "$run/qa-unseen" \
  --write-card --json "$run/future_qa.json" --plot "$run/reliability.png" "${measured[@]}"
