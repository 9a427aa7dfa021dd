#!/bin/sh
# slurm-gsp: Prolog of slurm.conf, or one of several in prolog.d. Exit 1: this node cannot run GPU jobs now.
# Passing forks nothing when the health check's verdict still holds: same boot, nothing it rests on moved.
# `command` before `.` keeps a file that is damaged or gone from ending the shell: slurmd would drain the node.
watch=/run/slurm-gsp/watch
why=first all_jobs=0 asks=0

# shellcheck source=/dev/null
if [ -O "$watch" ] && command . "$watch"; then
    why=seen
fi
# A job that asks for a driver or a manifest starts only where that is: see docs/admission.md.
case "${SLURM_JOB_CONSTRAINTS:-} ${SLURM_JOB_EXTRA:-}" in
    *driver-[0-9]* | *nvidia_driver=* | *gsp_manifest=*) asks=1 ;;
esac
if [ -z "${SLURM_JOB_GPUS:-}${CUDA_VISIBLE_DEVICES:-}" ] && [ "$all_jobs" != 1 ]; then
    why=asked
elif [ "$why" = seen ]; then
    if ! unmoved || [ "${settled:-0}" != 1 ]; then
        why=moved
    elif [ "${healthy:-0}" = 1 ]; then
        why=asked
    else
        why=bad
    fi
fi
if [ "$why" = asked ] && [ "$asks" != 1 ]; then
    exit 0
fi

here=$(/usr/bin/readlink -f "$0")
here=${here%/*}
lib=$here/slurm_gsp/hook
[ -d "$lib" ] || lib=${here%/*}/hook # installed from a wheel: slurm_gsp/libexec beside slurm_gsp/hook
# shellcheck source=slurm_gsp/hook/launch.sh
if command . "$lib/launch.sh"; then
    launch "$lib" prolog "$why"
    exit
fi
echo "prolog failed open: cannot read $lib/launch.sh" >>"${watch%/*}/failed-open"
exit 0
