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

# asv tells machines apart by a name that it keeps under $HOME: here it is the hardware's, so that
# all nodes of a partition make one graph, and nobody else's ~/.asv-machine.json counts.
machine=${SLURM_CLUSTER_NAME:-slurm}-${SLURM_JOB_PARTITION:-nodes}
export HOME=$PWD/.asv/home
mkdir -p -- "$HOME" || exit 2

before=$(git rev-parse HEAD) || exit 2
git pull --quiet --ff-only || echo "shmbench: no pull; measuring what is there" >&2
asv machine --yes --machine "$machine" || exit 2

# Whatever is new since the last night, in one task that has the whole node.
srun --nodes=1 --ntasks=1 --mpi=none --cpu-bind=none \
  asv run --machine "$machine" --skip-existing-successful NEW "$@"
status=$?
asv publish --quiet || status=1
if [[ $(git rev-parse HEAD) != "$before" ]]; then
  asv compare --machine "$machine" --split --only-changed "$before" HEAD
fi
exit "$status"
