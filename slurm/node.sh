#!/bin/bash
# One node, all suites.
#
# By hand: sbatch slurm/node.sh [OPTIONS OF shmbench run]
# Then:    shmbench slurm collect DIRECTORY    (the log's last line names it)
#
#SBATCH --job-name=shmbench-node
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --time=02:00:00
#SBATCH --exclusive
#SBATCH --output=shmbench-%j.log
#SBATCH --open-mode=append
# A minute before the time limit the steps are told to end; they keep what they have measured.
#SBATCH --signal=TERM@60

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
suites=(all mpi)
printf '%s\n' "${suites[@]}" | expect

status=0
for suite in "${suites[@]}"; do
  if [[ $suite == mpi ]]; then # the ranks of an MPI job
    srun --ntasks-per-node=2 --cpu-bind=none --ntasks=2 \
      python3 -m mpi4py -m shmbench run mpi --launcher mpi --doctor \
      --output "$results/mpi.json" "$@" || status=1
  else # processes that shmbench forks by itself: one task, which has the whole node
    srun --nodes=1 --ntasks=1 --mpi=none --cpu-bind=none bash -c "$logged" bash "$suite" \
      python3 -m shmbench run "$suite" --doctor --output "$results/$suite.json" "$@" || status=1
  fi
done
echo "$results"
exit "$status"
