#!/bin/bash
# The same short suite on every node, to find the slow one.
#
# By hand: sbatch --nodes=16 slurm/survey.sh [OPTIONS OF shmbench run]
# Then:    shmbench slurm collect DIRECTORY    (the log's last line names it)
#
#SBATCH --job-name=shmbench-survey
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=00:15:00
#SBATCH --exclusive
#SBATCH --output=shmbench-%j.log
#SBATCH --open-mode=append
# A minute before the time limit the steps are told to end; they keep what they have measured.
#SBATCH --signal=TERM@60
# A node that fails doesn't end the others.
#SBATCH --no-kill

set -uo pipefail
# The steps get the signals, too, and end by themselves: this shell waits for them.
trap 'echo "shmbench: told to end; the steps keep what they have measured" >&2' TERM

# Where the results go: into the same directory after a requeue, so nothing counts twice.
export results=${SHMBENCH_RESULTS:-$PWD/shmbench-$SLURM_JOB_ID}
mkdir -p -- "$results" || exit 2
expect() { cat > "$results/.expected.$$" && mv -- "$results/.expected.$$" "$results/expected"; }
# What a task says goes to a file beside its results. Paths are left to bash: Slurm would take a %
# in one for a pattern.
logged='exec "${@:2}" > "$results/${1:-$SLURMD_NODENAME}.log" 2>&1'
scontrol show hostnames "$SLURM_JOB_NODELIST" | expect

# A task a node; each writes a file of its own, as a whole or not at all.
arguments=("$@")
measure() {
  srun "$@" --ntasks-per-node=1 --mpi=none --cpu-bind=none --kill-on-bad-exit=0 --wait=0 \
    bash -c "$logged" bash "" \
    python3 -m shmbench run survey --doctor --output "$results/{host}.json" \
    ${arguments[@]+"${arguments[@]}"}
}
measure --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES"
status=$?
echo "$results"
exit "$status"
