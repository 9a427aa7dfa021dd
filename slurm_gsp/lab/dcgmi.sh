#!/bin/sh
# A stand-in for dcgmi: `dcgmi diag -r LEVEL -j` answers as DCGM 4 does, from what nvidia-smi says of the node.
# /run/lab-dcgm-away: no host engine answers; /run/lab-dcgm-fail: GPU 0 fails.
set -eu
level=1
while [ $# -gt 0 ]; do
  case $1 in -r) level=$2; shift ;; esac
  shift
done
if [ -e /run/lab-dcgm-away ]; then
  echo 'Error: unable to establish a connection to the specified host: localhost'
  echo 'Error: Unable to connect to host engine. Host engine connection invalid/disconnected.'
  exit 1
fi
if ! gpus=$(nvidia-smi -L | grep -c '^GPU '); then
  echo '{"DCGM Diagnostic": {"version": "4.4.1", "runtime_error":'
  echo ' "Error: Unable to complete diagnostic. Return: (-37) : The NVML library is not usable"}}'
  exit 1
fi
# test NAME [STATUS-OF-GPU-0 [WARNING]]
test_of() {
  name=$1 first=${2:-Pass} warning=${3:-} index=0 results=
  while [ "$index" -lt "$gpus" ]; do
    status=Pass extra=
    if [ "$index" -eq 0 ]; then
      status=$first
      [ -z "$warning" ] || extra=", \"warnings\": [{\"warning\": \"$warning\", \"error_id\": 42, \
\"error_category\": 10, \"error_severity\": 2}]"
    fi
    results="$results${results:+, }{\"entity_group\": \"GPU\", \"entity_group_id\": 0, \"entity_id\": $index, \
\"status\": \"$status\"$extra}"
    index=$((index + 1))
  done
  printf '{"name": "%s", "results": [%s], "test_summary": {"status": "%s"}}' "$name" "$results" "$first"
}
fault='' why=''
if [ -e /run/lab-dcgm-fail ]; then
  fault=Fail why='GPU 0 had uncorrectable memory errors and row remapping failed.'
fi
printf '{"DCGM Diagnostic": {"test_categories": [{"category": "Deployment", "tests": [%s]}' \
  "$(test_of software "$fault" "$why")"
[ "$level" -lt 2 ] || printf ', {"category": "Hardware", "tests": [%s, %s]}' \
  "$(test_of memory "$fault" "$why")" "$(test_of memtest Skip)"
echo ']}, "metadata": {"version": "4.4.1"}}'
[ -z "$fault" ] || exit 226
