#!/usr/bin/env bash
# Runs the sweep examples of docs/sweeps on a tiny model, with GNU parallel and on a one-node Slurm that this script starts
# (as root, in a folder of its own): both must give the results of a plain run, but for times. Debian: parallel, slurm-wlm.
set -euo pipefail
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/..
cd "$root"
work=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap cleanup EXIT

golden=$PWD/engine/src/test/resources/golden
job=(rank --model "$golden/llama" --data "$golden/tokens.npy" --eval-data "$golden/tokens.npy" --latents 32 --k 4 --rank 2
  --plan small,sae=10,lora=4,e2e=4,eval=2)

# Everything but times, which no two runs share.
without_times() { cut -d, -f1-13,16- "$1/results.csv"; }

echo "== plain"
./espalier reproduce "${job[@]}" --out "$work/plain" 2>/dev/null >/dev/null

check() {
  diff <(without_times "$work/plain") <(without_times "$work/$1") || {
    echo "FAILED: $1 gave other results" >&2
    exit 1
  }
  echo "$1: the same results"
}

if command -v parallel >/dev/null; then
  echo "== GNU parallel"
  docs/sweeps/parallel.sh 2 "${job[@]}" --out "$work/parallel" 2>/dev/null >/dev/null
  check parallel
else
  echo "SKIPPED: GNU parallel is not installed"
fi

if ! command -v slurmctld >/dev/null || ((EUID != 0)); then
  echo "SKIPPED: Slurm is not installed, or this is not root"
  exit 0
fi
echo "== Slurm"
host=$(hostname -s)
mkdir -p "$work"/slurm/{state,spool} /run/munge
chmod 711 "$work" "$work/slurm"
head -c 1024 /dev/urandom >"$work/munge.key"
chown -R munge: /run/munge "$work/munge.key"
chmod 400 "$work/munge.key"
setpriv --reuid=munge --regid=munge --clear-groups munged --foreground --force --key-file "$work/munge.key" \
  --socket "/run/munge/munge.socket.2" --pid-file /run/munge/espalier.pid --log-file /run/munge/espalier.log \
  --seed-file /run/munge/espalier.seed 2>/dev/null &
pids+=($!)
cat >"$work/slurm.conf" <<CONF
ClusterName=espalier
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge/munge.socket.2
StateSaveLocation=$work/slurm/state
SlurmdSpoolDir=$work/slurm/spool
SlurmctldPidFile=$work/slurm/slurmctld.pid
SlurmdPidFile=$work/slurm/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm.conf
sleep 1
slurmctld -D 2>"$work/slurmctld.log" >/dev/null &
pids+=($!)
slurmd -D 2>"$work/slurmd.log" >/dev/null &
pids+=($!)
for _ in $(seq 30); do
  [[ $(sinfo -h -o %T 2>/dev/null) == idle ]] && break
  sleep 1
done
[[ $(sinfo -h -o %T 2>/dev/null) == idle ]] || {
  tail -5 "$work/slurmctld.log" "$work/slurmd.log" >&2
  echo "FAILED: this machine's Slurm does not come up" >&2
  exit 1
}
SLURM_SHARED_TMP=$work SLURM_LOGS=$work docs/sweeps/slurm.sh "${job[@]}" --out "$work/slurm-run" 2>/dev/null >/dev/null
check slurm-run
