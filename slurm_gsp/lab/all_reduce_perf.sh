#!/bin/sh
# A stand-in for all_reduce_perf of nccl-tests, built with MPI: its output, with numbers of H100 on NVSwitches.
# /run/lab-nccl-slow: a tenth of them.
set -eu
gpus=1
while [ $# -gt 0 ]; do
  case $1 in -g) gpus=$2; shift ;; esac
  shift
done
if ! nvidia-smi -L >/dev/null; then
  echo "$(hostname): Test CUDA failure common.cu:1115 'system has unsupported display driver / cuda driver combination'"
  exit 1
fi
gpus=$((gpus * ${SLURM_STEP_NUM_TASKS:-1}))
[ "${SLURM_PROCID:-0}" -eq 0 ] || exit 0
speed=1
[ ! -e /run/lab-nccl-slow ] || speed=10
echo '# nThread 1 nGpus '"$gpus"' minBytes 1073741824 maxBytes 4294967296 step: 2(factor) warmup iters: 5 iters: 20'
echo '#'
echo '# Using devices'
rank=0
while [ "$rank" -lt "$gpus" ]; do
  printf '#  Rank %2d Group  0 Pid %6d on %10s device %2d [0x0%d] NVIDIA H100 80GB HBM3\n' \
    "$rank" $$ "$(hostname)" "$rank" $((rank + 6))
  rank=$((rank + 1))
done
awk -v speed="$speed" -v gpus="$gpus" 'BEGIN {
  print "#"
  print "#                                                              out-of-place                       in-place"
  print "#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw" \
    "   busbw #wrong"
  print "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)" \
    "  (GB/s)"
  for (size = 1073741824; size <= 4294967296; size *= 2) {
    bus = (gpus > 1 ? 470 + ++row * 3 : 0) / speed
    algorithm = gpus > 1 ? bus * gpus / (2 * (gpus - 1)) : 2000 / speed
    time = size / algorithm / 1000
    printf "%12.0f  %12.0f     float     sum      -1  %7.1f  %6.2f  %6.2f      0  %7.1f  %6.2f  %6.2f      0\n",
      size, size / 4, time, algorithm, bus, time, algorithm, bus
    sum += bus
    count++
  }
  print "# Out of bounds values : 0 OK"
  printf "# Avg bus bandwidth    : %g \n#\n", sum / count
}'
