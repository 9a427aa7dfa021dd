# shellcheck shell=sh
# The slow half of the launchers, sourced by healthcheck, prolog and epilog when they cannot answer alone.
# launch LIB HOOK WHY [OPTION]: run the Python half and turn its exit code into the hook's.
# Only absolute paths: slurmd gives a health check no PATH.

launch() {
    lib=$1
    shift
    python=/usr/bin/python3
    # a checkout with its own environment, then a package inside one
    for candidate in "$lib/../../.venv/bin/python3" "$lib/../../../../../bin/python3"; do
        if [ -x "$candidate" ]; then
            python=$candidate
            break
        fi
    done
    code=127
    if [ -x "$python" ]; then
        "$python" -I -S "$lib/__main__.py" "$@"
        code=$?
    fi
    case $code in
        0) return 0 ;;
        10) return 1 ;;
    esac
    fail_open "$1" "$code"
    return 0
}

# Our own fault must not cost a job or a node: say so, count it, pass. Nothing here may wait: a stuck journal
# stops logger for ever.
fail_open() {
    message="$1 failed open: $2 from the Python half (127: no interpreter, 70: see above)"
    (umask 022 && /bin/mkdir -p /run/slurm-gsp && echo "$message" >>/run/slurm-gsp/failed-open)
    echo "slurm-gsp: $message" >&2
    if [ -x /usr/bin/logger ] && [ -x /usr/bin/timeout ]; then
        /usr/bin/timeout -s KILL 2 /usr/bin/logger -t slurm-gsp "$message" >/dev/null 2>&1
    fi
}
