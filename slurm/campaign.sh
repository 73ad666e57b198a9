#!/bin/bash
# The head of a campaign as a Slurm job: it proposes, checks, submits trials as jobs of their own, and ranks.
#
#   sbatch slurm/campaign.sh CONFIG [--run DIR] [--set KEY=VALUE ...]     # what `asiarch-hpc run` takes
#   sbatch --time=7-0 --partition=long slurm/campaign.sh CONFIG           # sbatch's options win over those below
#
# The head itself needs a few cores and no GPU. It hands over to itself before its time limit, for as long as the
# campaign has work; trials go on meanwhile. The same command, given again, goes on where the campaign stands.
# `scancel` ends the head alone; `asiarch-hpc stop` ends the campaign's jobs too.

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

job=$(scontrol show job "${SLURM_JOB_ID:-}" 2>/dev/null)
export ASIARCH_HEAD_LOG # where this output goes; the first line says so
ASIARCH_HEAD_LOG=$(sed -n 's/^ *StdOut=//p' <<<"$job")
asiarch-hpc run "$@" &
head=$!
hand_over=
# a head that is busy for longer is killed: it loses nothing by that, and the time limit would end this job for good
end_head() {
  kill -TERM $head 2>/dev/null
  (sleep 60 && kill -KILL $head 2>/dev/null) &
}
trap 'hand_over=yes; end_head' USR1
# `scancel`, and Slurm itself, which starts the job again where it has preempted it or lost its node
trap end_head TERM
# a trapped signal ends `wait` early
while kill -0 $head 2>/dev/null; do wait $head; code=$?; done

# 0: the campaign is finished. 2: it cannot run, and the line above says why. 3: stopped, and can go on
if [ -n "$hand_over" ] && [ "$code" != 0 ] && [ "$code" != 2 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  if scontrol requeue "$SLURM_JOB_ID"; then
    sleep 60 # until Slurm ends this run of the job
  else
    # a successor that asks for what this job was given, and writes to the same log
    script=$(sed -n 's/^ *Command=\([^ ]*\).*/\1/p' <<<"$job")
    as='--partition=%P --account=%a --qos=%q --time=%l --mem=%m --constraint=%f --job-name=%j'
    same=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format="$as" | tr ' ' '\n' | grep -v -e '=$' -e '(null)' -e 'N/A')
    # shellcheck disable=SC2086
    sbatch $same --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --output="$ASIARCH_HEAD_LOG" \
      --dependency="afterany:$SLURM_JOB_ID" "$script" "$@" && exit 0
    echo "this head could not hand over: submit it again by the same sbatch command, nothing is lost" >&2
  fi
fi
exit "$code"
