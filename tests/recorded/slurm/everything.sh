#!/bin/bash
# The same short suite on every node, to find the slow one.
#
# By hand: sbatch --nodes=16 slurm/survey.sh [OPTIONS OF shmbench run]
# Then:    shmbench slurm collect DIRECTORY    (the log's last line names it)
#
#SBATCH --job-name=nightly-survey
#SBATCH --partition=cpu
#SBATCH --account=p0123
#SBATCH --qos=high
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=1
#SBATCH --time=1-02:00:00
#SBATCH --constraint=[rack1*4&rack2*4]
#SBATCH --gres=gpu:a100:2
#SBATCH --mail-user=someone@example.org
#SBATCH --mail-type=END,FAIL
#SBATCH --exclusive
#SBATCH --comment="two words"
#SBATCH -H
#SBATCH --reservation=maint
#SBATCH --output=shmbench-%j.log
#SBATCH --open-mode=append
# A minute before the time limit the steps are told to end; they keep what they have measured.
#SBATCH --signal=TERM@60
# A node that fails doesn't end the others.
#SBATCH --no-kill

set -uo pipefail
# The steps get the signals, too, and end by themselves: this shell waits for them.
trap 'echo "shmbench: told to end; the steps keep what they have measured" >&2' TERM
cd -- '/home/some one' || exit 2
module load python/3.11 mpich/4.2 || exit 2
source '/home/some one/venv/bin/activate' || exit 2
export OMP_NUM_THREADS=1
export ODD='$(id) `id` "'"'"'\'

# Where the results go: into the same directory after a requeue, so nothing counts twice.
export results='/scratch/results of mine'
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
    python3 -m shmbench run quick --budget 20 --dir '/scratch/it'"'"'s here' --doctor --output "$results/{host}.json" \
    ${arguments[@]+"${arguments[@]}"}
}
# Only 4 at a time, so that they don't slow each other by something that they share.
status=0
while read -r node; do
  while (($(jobs -pr | wc -l) >= 4)); do wait -n || status=1; done
  measure --nodes=1 --ntasks=1 --nodelist="$node" < /dev/null &
done < "$results/expected"
for step in $(jobs -p); do wait "$step" || status=1; done
echo "$results"
exit "$status"
