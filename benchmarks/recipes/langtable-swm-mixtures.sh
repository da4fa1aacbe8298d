#!/usr/bin/env bash
# Table 2 of arXiv:2510.19818 at a shortened recipe: semantic world models of LangTable-v0 trained on
# suboptimal episodes, on the expert's, and on both, three seeds each, and how often each answers right
# in and out of distribution. All begin alike, from a model that sees and reads but has never seen
# anything move on this table: what cube-swm knows, then single pictures of LangTable. (From random
# weights 600 steps give no right answers.) Needs the data of langtable-swm.sh. Every
# step resumes where it stopped.
# usage: benchmarks/recipes/langtable-swm-mixtures.sh [RUN_FOLDER of langtable-swm.sh]
#        EPISODES=…                                    the same episodes as there
#        STEPS=600 SEEDS="0 1 2" …                     (the default: three quarters of an hour of one core)
#        TRIAL=1 …                                     every command, a few steps of it
set -euo pipefail
run=${1:-runs/langtable-swm}
episodes=${EPISODES:-$run/episodes}
if [ -z "${TRIAL:-}" ]; then
  pictures=900 steps=${STEPS:-600} first=(--rows 8 --questions 12) batch=(--rows 6 --questions 12) measured=()
else
  pictures=2 steps=2 first=(--rows 2 --questions 3) batch=(--rows 2 --questions 3)
  measured=(--frames 8 --questions 4 --batch 4)
fi
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

wm-gym collect-qa --data "$episodes" --out "$run/present-blocks" --present-only --stride 4
wm-gym train semantic --qa "$run/present-blocks" --init assets/cube-swm --transfer --out "$run/seeing" \
  --expert-share None --seed 2 --seeing-weight 1 --grounding-weight 1 "${first[@]}" \
  --loop.steps "$pictures" --loop.learning-rate 1.2e-3 --loop.warmup-steps 50 \
  --loop.final-learning-rate-fraction 0.4 --loop.save-every 100
for seed in ${SEEDS:-0 1 2}; do
  for mixture in suboptimal:0 expert:1 combined:0.5; do
    out=$run/mixtures/${mixture%:*}-$seed
    wm-gym train semantic --qa "$run/saqa" --init "$run/seeing/checkpoint" --out "$out" \
      --expert-share "${mixture#*:}" --seed "$seed" --seeing-weight 0.5 --grounding-weight 1 \
      "${batch[@]}" --loop.steps "$steps" --loop.learning-rate 1.2e-3 --loop.warmup-steps 50 \
      --loop.save-every 100
    wm-gym evaluate semantic --checkpoint "$out/checkpoint" --qa "$run/qa-held-out" \
      --qa-ood "$run/qa-unseen" --json "$out/future_qa.json" "${measured[@]}"
  done
done
