#!/usr/bin/env bash
# Table 2 of arXiv:2510.19818 at a shortened recipe: a semantic world model of LangTable-v0 trained on
# suboptimal episodes, on the expert's, and on both, three seeds each, and how often each answers right
# in and out of distribution. Needs the data and the first stage of langtable-swm.sh. Every step
# resumes where it stopped.
# usage: benchmarks/recipes/langtable-swm-mixtures.sh [RUN_FOLDER of langtable-swm.sh]
#        STEPS=1200 SEEDS="0 1 2" …                    (the default: about four hours of one core)
#        TRIAL=1 …                                     every command, a few steps of it
set -euo pipefail
run=${1:-runs/langtable-swm}
if [ -z "${TRIAL:-}" ]; then
  steps=${STEPS:-1200} batch=(--rows 6 --questions 12) measured=()
else
  steps=2 batch=(--rows 2 --questions 3) measured=(--frames 8 --questions 4 --batch 4)
fi
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

for seed in ${SEEDS:-0 1 2}; do
  for mixture in suboptimal:0 expert:1 combined:0.5; do
    out=$run/mixtures/${mixture%:*}-$seed
    wm-gym train semantic --qa "$run/saqa" --init "$run/stage_1/checkpoint" --out "$out" \
      --expert-share "${mixture#*:}" --seed "$seed" --seeing-weight 0.5 --grounding-weight 1 \
      "${batch[@]}" --loop.steps "$steps" --loop.learning-rate 1.5e-3 --loop.warmup-steps 50
    wm-gym evaluate semantic --checkpoint "$out/checkpoint" --qa "$run/qa-held-out" \
      --qa-ood "$run/qa-unseen" --json "$out/future_qa.json" "${measured[@]}"
  done
done
