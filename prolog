#!/bin/sh
# slurm-gsp: Prolog of slurm.conf, or one of several in prolog.d. Exit 1: this node cannot run GPU jobs now.
# Passing forks nothing when the health check's verdict still holds: same boot, nothing it rests on moved.
# `command` before `.` keeps a file that is damaged or gone from ending the shell: slurmd would drain the node.
watch=/run/slurm-gsp/watch
why=first all_jobs=0

# shellcheck source=/dev/null
if [ -O "$watch" ] && command . "$watch"; then
    why=seen
fi
if [ -z "${SLURM_JOB_GPUS:-}${CUDA_VISIBLE_DEVICES:-}" ] && [ "$all_jobs" != 1 ]; then
    exit 0
fi
if [ "$why" = seen ]; then
    if ! unmoved || [ "${settled:-0}" != 1 ]; then
        why=moved
    elif [ "${healthy:-0}" = 1 ]; then
        exit 0
    else
        why=bad
    fi
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
