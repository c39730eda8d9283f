#!/bin/bash
# The nightly regression test, by asv.
#
# By hand: cd CHECKOUT && sbatch slurm/nightly.sh; every night by scrontab or cron
# Then:    the comparison is in the log, the graphs are in .asv/html
#
#SBATCH --job-name=shmbench-nightly
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --exclusive
#SBATCH --output=shmbench-%j.log
#SBATCH --open-mode=append
# A minute before the time limit the steps are told to end; they keep what they have measured.
#SBATCH --signal=TERM@60

set -uo pipefail
# The steps get the signals, too, and end by themselves: this shell waits for them.
trap 'echo "shmbench: told to end; the steps keep what they have measured" >&2' TERM

# The name is the hardware's, so that all nodes of a partition make one graph.
machine=${SLURM_CLUSTER_NAME:-slurm}-${SLURM_JOB_PARTITION:-nodes}
# What these commits have measured already isn't measured again.
commits=${COMMITS:-10}

before=$(git rev-parse HEAD) || exit 2
git pull --quiet --ff-only || echo "shmbench: no pull; measuring what is there" >&2
shmbench asv machine "$machine" || exit 2

# One task has the whole node; is it quiet?
node=(srun --nodes=1 --ntasks=1 --mpi=none --cpu-bind=none)
"${node[@]}" shmbench asv preflight --wait 60 || echo "shmbench: the node isn't quiet" >&2
git rev-list --first-parent --max-count="$commits" HEAD |
  "${node[@]}" asv run HASHFILE:- --machine "$machine" --record-samples \
    --skip-existing-successful "$@"
status=$?
shmbench asv site || status=1
if [[ $(git rev-parse HEAD) != "$before" ]]; then
  asv compare --machine "$machine" --split --only-changed "$before" HEAD
fi
exit "$status"
