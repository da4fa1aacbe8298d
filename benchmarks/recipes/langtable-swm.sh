#!/usr/bin/env bash
# langtable-swm: a small semantic world model of LangTable-v0, from nothing: pictures of tables with
# every colour and shape, questions about them, questions about the future of recorded episodes, three
# stages of training, the checkpoint, its threshold, and the figures in its card. Every step resumes
# where it stopped. What planners reach with it: benchmarks/planning_success.py, planner_time.py.
# usage: benchmarks/recipes/langtable-swm.sh [RUN_FOLDER]       (training: a good three hours of one core)
#        EPISODES=runs/langtable-vae-mini/episodes …   takes the episodes of langtable-vae-mini.sh
#        HELD_OUT=runs/langtable-vae-mini/held-out …   and those nothing was trained on
#        TRIAL=1 … /tmp/trial                          every command, a few steps of it
set -euo pipefail
run=${1:-runs/langtable-swm}
episodes=${EPISODES:-$run/episodes}
held_out=${HELD_OUT:-$run/held-out}
mkdir -p "$run"
if [ -z "${TRIAL:-}" ]; then
  scenes=600 count=2200 more=1600 held_out_count=240 unseen=80 starts=30
  steps=(500 8600 9000) check=500 first=(--rows 12 --questions 3) second=(--rows 6 --questions 12)
  measured=() calibrated=()
else  # whether the commands fit together; what comes out of it is of no use
  scenes=4 count=8 more=8 held_out_count=32 unseen=4 starts=1
  steps=(2 2 2) check=0 first=(--rows 2 --questions 3) second=(--rows 2 --questions 3)
  measured=(--frames 8 --questions 4 --batch 4) calibrated=(--per-task 40)
fi
# glibc gives freed memory back to the system at once, which costs a training loop a fifth of its time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

wm-gym collect --out "$run/scenes" --objects mixed --episodes "$scenes"
[ -n "${EPISODES:-}" ] || wm-gym collect --out "$episodes" --episodes "$count"
wm-gym collect --out "$run/more" --episodes "$more" --seed 20000
[ -n "${HELD_OUT:-}" ] || wm-gym collect --out "$held_out" --episodes "$held_out_count" --seed 6000 \
  --held-out --behaviours.expert 0.25 --behaviours.noisy-expert 0.25 --behaviours.random 0.25 \
  --behaviours.near-miss 0.25 --no-stop-on-success
# the six blocks that no other episode has; the expert's, as the paper evaluates
wm-gym collect --out "$run/unseen" --objects ood --episodes "$unseen" --seed 6500 --held-out \
  --behaviours.expert 1 --behaviours.noisy-expert 0 --behaviours.random 0 --behaviours.near-miss 0

wm-gym collect-qa --data "$run/scenes" --out "$run/present" --present-only --stride 8
wm-gym collect-qa --data "$episodes" --out "$run/saqa" --stride 2
wm-gym collect-qa --data "$episodes" "$run/more" --out "$run/saqa-more" --stride 2
wm-gym collect-qa --data "$held_out" --out "$run/qa-held-out" --stride 4
wm-gym collect-qa --data "$run/unseen" --out "$run/qa-unseen" --stride 4

# stage 1 stands in for a VLM's pretraining: which thing is where, in single pictures
wm-gym train semantic --qa "$run/present" --out "$run/stage_1" --expert-share None \
  --network.width 128 --network.depth 5 --network.head-width 32 --network.mlp 384 \
  --network.vision-width 128 --network.vision-depth 3 --network.vision-heads 8 \
  --network.vision-mlp 256 --local-vision --seeing-weight 1 --grounding-weight 1 \
  "${first[@]}" --loop.steps "${steps[0]}" --loop.learning-rate 2e-3 --loop.warmup-steps 50 \
  --loop.final-learning-rate-fraction 0.5 --loop.save-every 100
# stage 2 asks about the future, half of it expert's and half suboptimal; in the run that ships the part
# of the grounding loss that teaches the answer where to look was written 600 steps into it, and it ran
# as 3050 steps first, then on to 8600 from the learning rate that these have there
wm-gym train semantic --qa "$run/saqa" --init "$run/stage_1/checkpoint" --out "$run/stage_2" \
  --seeing-weight 0.5 --grounding-weight 1 "${second[@]}" --loop.steps "${steps[1]}" \
  --loop.learning-rate 1.5e-3 --loop.warmup-steps 50 --loop.save-every 100 \
  --check "$run/qa-held-out" --check-every "$check"
# and on, with more episodes: two points more of the answers are right, and far more plans succeed
# (the run that ships began this from the bfloat16 of stage 2)
wm-gym train semantic --qa "$run/saqa-more" --init "$run/stage_2/checkpoint" --out "$run/stage_3" \
  --seeing-weight 0.5 --grounding-weight 1 "${second[@]}" --loop.steps "${steps[2]}" --seed 1 \
  --loop.learning-rate 1.2e-3 --loop.warmup-steps 50 --loop.save-every 200 \
  --check "$run/qa-held-out" --check-every "$check"

model=$run/langtable-swm
wm-gym train assemble-semantic --checkpoint "$run/stage_3/checkpoint" --name langtable-swm \
  --out "$model"
wm-gym make-start-states --id WM-LangTable-SWM-v0 --checkpoint "$model" --count "$starts"
wm-gym calibrate-semantic --checkpoint "$model" --data "$held_out" --write-card \
  --json "$run/answer_threshold.json" "${calibrated[@]}"
wm-gym evaluate semantic --checkpoint "$model" --qa "$run/qa-held-out" --qa-ood "$run/qa-unseen" \
  --write-card --json "$run/future_qa.json" --plot "$run/reliability.png" "${measured[@]}"
