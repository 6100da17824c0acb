#!/bin/sh
# What a GPU must show, from a folder of files made by tests/on_device.py on a machine with TVM: this script among them.
# Needs the NVIDIA driver and sh; compute-sanitizer is used where there is one. ROUNDS: timed runs of each library (200).
cd "$(dirname "$0")" || exit 1
status=0

check() { # what is said, then the command
    echo "== $1"
    shift
    "$@" || { echo "FAILED: $*"; status=1; }
}

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv
export ROUNDS="${ROUNDS:-200}"
check "single kernels" ./kernels_on_device kernels.cubin kernels.txt kernels.bin
check "streams, graphs and threads, and misuse" ./streams
while read -r library identifier batch pixels classes images logits allowed; do
    check "$library" ./network_on_device "./$library" "$identifier" "$batch" "$pixels" "$classes" "$images" "$logits" \
        "$allowed" "$ROUNDS"
done <networks.txt
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        check "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            ./kernels_on_device kernels.cubin kernels.txt kernels.bin
    done
else
    echo "no compute-sanitizer here: left out"
fi
[ $status = 0 ] && echo "all as it should be"
exit $status
