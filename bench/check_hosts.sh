#!/usr/bin/env bash
# adapt, train-sae and evaluate on two hosts: network namespaces with host names and addresses of their own, between which there is one
# Ethernet link and no shared memory of MPI's. What they compute must be what one process computes, bit for bit. Needs root and
# Open MPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD golden=$PWD/engine/src/test/resources/golden
work=$(mktemp -d)
hosts=(espalier-a-$$ espalier-b-$$)
cleanup() {
  for host in "${hosts[@]}"; do ip netns del "$host" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT

for host in "${hosts[@]}"; do ip netns add "$host"; done
ip link add esp-a netns "${hosts[0]}" type veth peer name esp-b netns "${hosts[1]}"
n=1
for side in a b; do
  host=espalier-$side-$$
  ip -n "$host" link set lo up
  ip -n "$host" addr add "10.213.77.$n/24" dev "esp-$side"
  ip -n "$host" link set "esp-$side" up
  n=$((n + 1))
done
printf '127.0.0.1 localhost\n10.213.77.1 %s\n10.213.77.2 %s\n' "${hosts[@]}" >"$work/hosts"

# on HOST COMMAND...: what ssh would do
cat >"$work/on" <<'ON'
#!/usr/bin/env bash
host=$1
shift
exec ip netns exec "$host" unshare --uts --mount bash -c '
  hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec bash -c "$*"' "$host" HOSTS "$@"
ON
sed -i "s|HOSTS|$work/hosts|" "$work/on"
chmod +x "$work/on"

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
two() {
  "$work/on" "${hosts[0]}" mpirun.openmpi -np 2 --host "${hosts[0]},${hosts[1]}" --mca plm_rsh_agent "$work/on" \
    --mca btl_tcp_if_include 10.213.77.0/24 --mca oob_tcp_if_include 10.213.77.0/24 "$root/espalier" "$@"
}
common=(--model "$golden/llama" --data "$golden/tokens.npy")
adapt=(adapt "${common[@]}" --sae "1=$golden/sae-topk" --layers all --rank 4 --steps 4)
train=(train-sae "${common[@]}" --layer 1 --arch batchtopk --latents 96 --k 6 --batch 1 --dead-after 40 --steps 4)
evaluate=(evaluate "${common[@]}" --sae "1=$golden/sae-topk" --json)

./espalier "${adapt[@]}" --accumulate 2 --out "$work/adapt-one"
two "${adapt[@]}" --out "$work/adapt-two"
cmp "$work"/adapt-{one,two}/adapter_model.safetensors
./espalier "${train[@]}" --accumulate 2 --out "$work/train-one"
two "${train[@]}" --out "$work/train-two"
cmp "$work"/train-{one,two}/sae_weights.safetensors
diff <(./espalier "${evaluate[@]}") <(two "${evaluate[@]}")
echo "two hosts: the same bits as one process"
