#!/bin/bash
# The ranks of an MPI job over several nodes.
#
# By hand: sbatch --nodes=4 slurm/mpi.sh [OPTIONS OF shmbench run]
# Then:    shmbench slurm collect DIRECTORY    (the log's last line names it)
#
#SBATCH --job-name=shmbench-mpi
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=2
#SBATCH --time=00:30:00
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
echo mpi | expect

# Each node measures among its own ranks; rank 0 of the job writes the results of all.
mpirun --bind-to none -n "$SLURM_NTASKS" \
  python3 -m mpi4py -m shmbench run mpi --launcher mpi --doctor --output "$results/mpi.json" "$@"
status=$?
echo "$results"
exit "$status"
