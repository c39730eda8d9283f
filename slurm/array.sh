#!/bin/bash
# A job array over one parameter.
#
# By hand: sbatch slurm/array.sh [OPTIONS OF shmbench run]; change --array with `values`
# Then:    shmbench slurm collect DIRECTORY    (the log's last line names it)
#
#SBATCH --job-name=shmbench-array
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --array=0-2
#SBATCH --time=00:15:00
#SBATCH --exclusive
#SBATCH --output=shmbench-%A_%a.log
#SBATCH --open-mode=append
# A minute before the time limit the steps are told to end; they keep what they have measured.
#SBATCH --signal=TERM@60

set -uo pipefail
# The steps get the signals, too, and end by themselves: this shell waits for them.
trap 'echo "shmbench: told to end; the steps keep what they have measured" >&2' TERM

values=(8 4K 1M) # as many as --array has tasks

# Where the results go: into the same directory after a requeue, so nothing counts twice.
export results=${SHMBENCH_RESULTS:-$PWD/shmbench-$SLURM_ARRAY_JOB_ID}
mkdir -p -- "$results" || exit 2
expect() { cat > "$results/.expected.$$" && mv -- "$results/.expected.$$" "$results/expected"; }
# What a task says goes to a file beside its results. Paths are left to bash: Slurm would take a %
# in one for a pattern.
logged='exec "${@:2}" > "$results/${1:-$SLURMD_NODENAME}.log" 2>&1'
for task in "${!values[@]}"; do echo "task-$task"; done | expect

# The file has the task's name: one that is requeued writes it anew.
task=$SLURM_ARRAY_TASK_ID
srun --ntasks=1 --mpi=none --cpu-bind=none bash -c "$logged" bash "task-$task" \
  python3 -m shmbench run --workload ping_pong,stream --size "${values[task]}" \
  --doctor --output "$results/task-$task.json" "$@"
status=$?
echo "$results"
exit "$status"
