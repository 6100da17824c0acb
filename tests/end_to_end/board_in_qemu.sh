#!/usr/bin/env bash
# Tunes for pi4 with an aarch64 "board" in qemu: a tracker and a TVM server on loopback, the server an arm64 Python. By hand: it
# takes Debian 12 as root, `apt install qemu-user-static`, `pip install -e '.[rpc]'`, 1 GB and some minutes. Times in qemu
# say nothing about a board; that the candidates load and run there is what this shows.
#
#     tests/end_to_end/board_in_qemu.sh EMPTY_DIRECTORY
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
cd "$1"

# An arm64 Python, unpacked and not installed: qemu finds its libraries with -L.
dpkg --add-architecture arm64
apt-get update -qq
mkdir -p debs root site wheels
packages=(libc6 libgcc-s1 libstdc++6 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib zlib1g libexpat1 libffi8
    libssl3 libbz2-1.0 liblzma5 libuuid1 libtirpc3 libnsl2 libncursesw6 libtinfo6 libreadline8 libsqlite3-0 libcrypt1 libdb5.3)
(cd debs && apt-get download -qq "${packages[@]/%/:arm64}")
for deb in debs/*.deb; do dpkg-deb -x "$deb" root; done

platforms=(--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64)
python -m pip download -q --no-deps --only-binary :all: --python-version 3.11 "${platforms[@]}" -d wheels \
    apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 numpy ml_dtypes typing_extensions psutil cloudpickle tornado
for wheel in wheels/*.whl; do python -m zipfile -e "$wheel" site; done

trap 'kill $(jobs -p) 2>/dev/null' EXIT
python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port 9190 2>tracker.log &
# rpc_server starts a second Python, which this machine cannot; the same in one process:
cat >server.py <<'PYTHON'
import time
from tvm.rpc.server import PopenRPCServerState
state = PopenRPCServerState("127.0.0.1", 9095, 9096, tracker_addr=("127.0.0.1", 9190), key="board")
time.sleep(3600)
PYTHON
qemu-aarch64-static -cpu cortex-a72 -L root -E PYTHONPATH=site -E LD_LIBRARY_PATH=site/tvm/lib:site/tvm_ffi/lib \
    root/usr/bin/python3.11 server.py 2>server.log &
sleep 60

mnv2c tune "$repository/specs/mnv2_0.35.yaml" --set resolution=96 --target pi4 --trials 2 \
    --rpc 127.0.0.1:9190 --key board --schedules schedules
mnv2c records check --schedules schedules
