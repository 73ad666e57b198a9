#!/bin/bash
# The head of a campaign as a Slurm job: it proposes, checks, submits trials as jobs of their own, and ranks.
#
#   sbatch slurm/campaign.sh CONFIG [--run DIR] [--set KEY=VALUE ...]     # what `asiarch-hpc run` takes
#   sbatch --time=7-0 --partition=long slurm/campaign.sh CONFIG           # sbatch's options win over those below
#
# The head itself needs a few cores and no GPU. It hands over to itself before its time limit, for as long as the
# campaign has work; trials go on meanwhile. The same command, given again, goes on where the campaign stands.

#SBATCH --job-name=asiarch-head
#SBATCH --nodes=1 --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=1-00:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Slurm may start it again after a preemption or a lost node, and warns it two minutes before the time limit
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
# the virtual environment of the checkout, where there is one; else asiarch-hpc is expected on the PATH
PATH=${ASIARCH_BIN:-$PWD/.venv/bin}:$PATH
if ! command -v asiarch-hpc >/dev/null; then
  echo "asiarch-hpc is not on the PATH: set ASIARCH_BIN to the folder it is in, or submit from the checkout" >&2
  exit 2
fi

echo "$(date -u +%FT%TZ) head: job ${SLURM_JOB_ID:-none}, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $(hostname -s)," \
  "log $PWD/${SLURM_JOB_NAME:-asiarch-head}-${SLURM_JOB_ID:-0}.log; watch with: asiarch-hpc status --watch --run RUN"

asiarch-hpc run "$@" &
head=$!
asked=
trap 'asked=yes; kill -TERM $head 2>/dev/null' USR1 TERM
# a trapped signal ends `wait` early
while kill -0 $head 2>/dev/null; do wait $head; code=$?; done

# 0: the campaign is finished. 2: it cannot run, and the line above says why. 3: stopped, and can go on
if [ "$code" = 3 ] && [ -n "$asked" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  if scontrol requeue "$SLURM_JOB_ID"; then
    sleep 60 # until Slurm ends this run of the job
  else
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=\([^ ]*\).*/\1/p')
    sbatch --dependency="afterany:$SLURM_JOB_ID" "$script" "$@" && exit 0
  fi
fi
exit "$code"
