# SPDX-License-Identifier: MIT
# shellcheck shell=sh disable=SC2034
# The little that the tool tests share: TAP on stdout, a scratch folder, and the check that every
# refusal passes: exit status, one line on stderr, nothing changed.
#
# FIXPORT_BUILD is the top of the build tree. FIXPORT_MUST_WORK=1 makes what cannot be tried here a
# failure, for machines on which it must work.

# Root runs in a network namespace of its own: other tests' ports are none of this one's business.
# Nor are their private pools, and the machine's: so in a mount namespace, too, where there are any.
if [ -z "$FIXPORT_TEST_NETNS" ] && unshare -n ip link set lo up 2>/dev/null; then
    FIXPORT_TEST_NETNS=1
    export FIXPORT_TEST_NETNS
    apart='mount -n -t tmpfs -o mode=1777 tmpfs /dev/shm &&
        { [ ! -d /run/fixport ] || mount -n -t tmpfs tmpfs /run/fixport; }'
    if unshare -m sh -c "$apart" 2>/dev/null; then
        exec unshare -n -m sh -c "ip link set lo up; $apart;"' exec sh "$@"' sh "$0" "$@"
    fi
    exec unshare -n sh -c 'ip link set lo up; exec sh "$@"' sh "$0" "$@"
fi

here=$(cd "$(dirname "$0")" && pwd) || exit 99
build=${FIXPORT_BUILD:-.}
build=$(cd "$build" && pwd) || exit 99
scratch=$(mktemp -d "${TMPDIR:-/tmp}/fixport-test.XXXXXX") || exit 99
chmod 755 "$scratch"

# Copies, laid out as a build tree, because another user may not reach the build tree.
pool_tool=$scratch/build/tools/fixport-pool
run_tool=$scratch/build/tools/fixport-run
library=$scratch/build/shim/libfixport.so
mkdir -p "$scratch/build/tools" "$scratch/build/shim" || exit 99
cp "$build/tools/fixport-pool" "$build/tools/fixport-run" "$scratch/build/tools/" || exit 99
cp "$build/shim/libfixport.so" "$library" || exit 99
trap 'end_jobs; remove_private; rm -rf "$scratch"' EXIT
trap 'exit 99' HUP INT PIPE TERM
jobs_started=
unset FIXPORT_POOL FIXPORT_PORTS FIXPORT_TO FIXPORT_LOG FIXPORT_DISABLE FIXPORT_ON_ERROR LD_PRELOAD
LC_ALL=C.UTF-8
export LC_ALL

# In a sanitizer's build its runtime comes with the library, and so not first.
if [ -n "$FIXPORT_TEST_PRELOAD" ]; then
    ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0
    export ASAN_OPTIONS
fi

# Private pools of -p that nobody uses any more.
private_before=$(echo /dev/shm/fixport-[0-9]*-*)
remove_private()
{
    for private in /dev/shm/fixport-"$(id -u)"-* /dev/shm/fixport-65534-*; do
        case " $private_before " in
        *" $private "*) ;;
        *) "$pool_tool" remove --pool "$private" || as_nobody "$pool_tool" remove \
            --pool "$private" ;;
        esac
    done >/dev/null 2>&1
}

end_jobs()
{
    for job in $jobs_started; do
        kill -KILL "$job" 2>/dev/null
    done
}

count=0
failed=0

# result STATUS DESCRIPTION: one line of TAP.
result()
{
    count=$((count + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $count - $2"
    else
        failed=$((failed + 1))
        echo "not ok $count - $2"
    fi
}

# skip REASON DESCRIPTION
skip()
{
    count=$((count + 1))
    if [ "${FIXPORT_MUST_WORK:-0}" = 1 ] && [ -z "$FIXPORT_TEST_PRELOAD" ]; then
        failed=$((failed + 1))
        echo "not ok $count - $2: must work here, but $1"
    else
        echo "ok $count - $2 # SKIP $1"
    fi
}

finish()
{
    echo "1..$count"
    [ "$failed" -eq 0 ]
    exit
}

# What a refusal must leave as it was.
state_of_scratch()
{
    # (Of folders not the time: a lock comes and goes in them.)
    (cd "$scratch" && find work -type d -exec stat -c '%n %F %s %a %u' {} + -o \
        -exec stat -c '%n %F %s %a %u %Y' {} + | sort &&
        find work -type f -readable -exec cksum {} + | sort)
}

# run COMMAND...: its stdout, stderr and exit status are left in $scratch/out, $scratch/err, $status.
run()
{
    "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
    status=$?
}

tell()
{
    echo "# exit status $status"
    sed 's/^/# stdout: /' "$scratch/out"
    sed 's/^/# stderr: /' "$scratch/err"
}

# expect STATUS DESCRIPTION PATTERN COMMAND...: exit status, and PATTERN (grep -E; empty: whatever)
# in stdout.
expect()
{
    want=$1 what=$2 pattern=$3
    shift 3
    run "$@"
    if [ "$status" -eq "$want" ] &&
        { [ -z "$pattern" ] || grep -Eq -- "$pattern" "$scratch/out"; }; then
        result 0 "$what"
    else
        result 1 "$what"
        tell
    fi
}

# refuses STATUS DESCRIPTION PATTERN COMMAND...: exit status, exactly one line on stderr that
# matches PATTERN (grep -E), nothing on stdout, and nothing changed.
refuses()
{
    want=$1 what=$2 pattern=$3
    shift 3
    before=$(state_of_scratch)
    run "$@"
    after=$(state_of_scratch)
    if [ "$status" -eq "$want" ] && [ "$(wc -l <"$scratch/err")" -eq 1 ] &&
        grep -Eq -- "$pattern" "$scratch/err" && [ ! -s "$scratch/out" ] &&
        [ "$before" = "$after" ]; then
        result 0 "$what"
    else
        result 1 "$what"
        tell
        [ "$before" = "$after" ] || echo "# something was changed"
    fi
}

# as_nobody COMMAND...: as a user without rights. Only root can.
as_nobody()
{
    setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

can_be_nobody()
{
    [ "$(id -u)" -eq 0 ] && as_nobody test -x "$pool_tool" 2>/dev/null
}

mkdir "$scratch/work" && cd "$scratch/work" || exit 99
