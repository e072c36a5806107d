#!/bin/sh
# SPDX-License-Identifier: MIT
# shellcheck source=tests/tools/tap.sh disable=SC2154,SC2016
# fixport-pool, tried for real: bad input of every kind, the life of a pool, its three outputs, and
# taking leases back, with real connections through the library.

. "$(dirname "$0")/tap.sh"

python=$(command -v python3)
pool=$PWD/pool

tool()
{
    "$pool_tool" --pool "$pool" "$@"
}

# ---- the command line ----

refuses 2 "no command" "no command is given" "$pool_tool"
refuses 2 "unknown command" "'stauts'.*status" tool stauts
refuses 2 "unknown option" "unknown option -z" tool status -z
refuses 2 "unknown long option" "unknown option --jason" tool status --jason
refuses 2 "option without value" "needs a value" tool create -p
refuses 2 "an argument too many" "'more' is one argument too many" tool status more
refuses 2 "option of another command" "list does not take -p" tool list -p 60001
refuses 2 "--json where there is none" "create does not take --json" tool create -p 60001 --json
refuses 2 "-c and -p together" "exclude each other" tool create -c x -p 60001
refuses 2 "-t without -p" "-t needs -p" tool create -t 10.0.0.0/8
refuses 2 "option given twice" "given twice" tool create -p 60001 -p 60002
refuses 2 "--port that is none" "'0'" tool list --port 0
refuses 2 "--port that is a range" "one port" tool list --port 1-9
refuses 2 "--state that is none" "used, letgo, resting" tool list --state busy
expect 0 "help" "^  reclaim" "$pool_tool" help
expect 0 "--version" "^fixport-pool [0-9]" "$pool_tool" --version

# ---- ports and destinations that are none; nothing may be made ----

for command in create reload; do
    [ $command = create ] || tool create -p 60001-60010 >/dev/null 2>&1
    refuses 2 "$command: port beyond 65535" "80001 is not a port: ports end at 65535" \
        tool $command -p 60001-80001
    refuses 2 "$command: port 0" "0-10" tool $command -p 0-10
    refuses 2 "$command: the wrong way round" "200-100" tool $command -p 200-100
    refuses 2 "$command: empty" 'ports ""' tool $command -p ''
    refuses 2 "$command: overlapping" "60050" tool $command -p 60001-60100,60050-60200
    refuses 2 "$command: prefix too long" "10.0.0.0/33" tool $command -p 60001 -t 10.0.0.0/33
    refuses 2 "$command: no address" "localhost" tool $command -p 60001 -t localhost
done
rm -f "$pool"

# ---- configurations that are none ----

config()
{
    cat >bad.conf
}

bad_config()
{
    refuses 2 "configuration: $1" "$2" tool create -c bad.conf
}

rule='[rule test]
ports = 60001-60010'

printf '[rule test]\nports = 60001-80001\n' | config
bad_config "port beyond 65535" "bad.conf.*rule test.*ports.*60001-80001.*ports end at 65535"
printf '[rule test]\nports = 0-10\n' | config
bad_config "port 0" "bad.conf.*rule test.*ports.*0-10"
printf '[rule test]\nports = 200-100\n' | config
bad_config "the wrong way round" "200-100"
printf '[rule test]\nports =\n' | config
bad_config "empty" "bad.conf.*ports"
printf '[rule test]\nports = 60001-60100,60050-60200\n' | config
bad_config "overlapping" "60050"
printf '%s\nto = 10.0.0.0/33\n' "$rule" | config
bad_config "prefix too long" "10.0.0.0/33"
printf '%s\nport = 60011\n' "$rule" | config
bad_config "unknown key" "port.*did you mean.*ports"
printf '%s\nports = 60011\n' "$rule" | config
bad_config "a repeated key" "ports"
{
    printf '%s\nto = 10.0.0.1' "$rule"
    awk 'BEGIN { for (i = 0; i < 400; i++) printf ", 10.0.0.%d", i % 250 + 1; print "" }'
} | config
bad_config "a line too long" "long"
rm -f bad.conf
bad_config "missing" "bad.conf"
mkdir bad.conf
bad_config "a folder" "bad.conf"
rmdir bad.conf
if can_be_nobody; then
    printf '%s\n' "$rule" | config
    chmod 600 bad.conf
    refuses 2 "configuration: unreadable" "bad.conf.*[Pp]ermission" \
        as_nobody "$pool_tool" --pool "$pool" create -c bad.conf
else
    skip "only root can be another user" "configuration: unreadable"
fi

# ---- pool files that are none ----

bad_pool()
{
    for command in status list metrics reclaim remove reload; do
        case $command in
        reload) refuses 2 "$command: $1" "$2" tool reload -p 60011-60020 ;;
        *) refuses 2 "$command: $1" "$2" tool $command ;;
        esac
    done
}

bad_pool "missing" "there is no pool"
mkdir "$pool"
bad_pool "a folder" "directory"
rmdir "$pool"
mkfifo "$pool"
bad_pool "a FIFO" "not a regular file"
rm "$pool"
: >"$pool"
bad_pool "empty" "not a fixport pool"
rm "$pool"
"$pool_tool" create -p 60001-60010 --pool good >/dev/null 2>&1
ln -s good "$pool"
bad_pool "a symbolic link" "symbolic link"
rm "$pool"
head -c 5000 good >"$pool"
bad_pool "truncated" "damaged"
cp good "$pool"
printf '\377' | dd of="$pool" bs=1 seek=8 conv=notrunc 2>/dev/null
bad_pool "of another version" "another version"
cp good "$pool"
printf 'garbage' | dd of="$pool" bs=1 seek=4096 conv=notrunc 2>/dev/null
bad_pool "with garbled rules" "damaged"
expect 0 "remove --force takes a damaged pool away" "removed" tool remove --force
head -c 300000 /dev/urandom >"$pool"
bad_pool "random bytes" "not a fixport pool"
if can_be_nobody; then
    cp good "$pool"
    chown 65533 "$pool"
    bad_pool "another user's" "owner"
    chown 0 "$pool"
    chmod 600 "$pool"
    refuses 2 "status: not readable" "ermission denied" as_nobody "$pool_tool" --pool "$pool" status
else
    skip "only root can make one" "another user's"
fi
rm -f "$pool" good

# ---- the life of a pool ----

expect 0 "create" "made, 60001-60010" tool create -p 60001-60010
refuses 1 "create again" "exists already" tool create -p 60001-60010
expect 0 "reload with the same" "already" tool reload -p 60001-60010
expect 0 "reload" "reloaded, 60011-60020" tool reload -p 60011-60020 -t 10.0.0.0/8
expect 0 "status shows it" "10.0.0.0/8" tool status
if can_be_nobody; then
    refuses 1 "reload by somebody else" "for its owner or root" as_nobody "$pool_tool" reload \
        --pool "$pool" -p 60001-60010
fi

# ---- what else a configuration says of the pool itself ----

# The file that all users of the pool write to: its name has a tag of the pool's own.
shares()
{
    ls -t "$pool".[0-9a-f]* | head -n 1
}
mode_is()
{
    result "$([ "$(stat -c %a "$(shares)")" = "$1" ]; echo $?)" "$2"
    result "$([ "$(stat -c %a "$pool")" = "${1%??}$(echo "${1#?}" | tr 62 40)" ]; echo $?)" \
        "and what steers is for its owner alone to write"
}
chmod 606 "$(shares)"
printf '[pool]\nports = 60011-60020\n' | config
expect 0 "reload from a file that says no mode" "reloaded" tool reload -c bad.conf
mode_is 606 "leaves the mode as it is"
printf '[pool]\nports = 60011-60020\nmode = 0660\n' | config
expect 0 "reload with another mode alone" "reloaded" tool reload -c bad.conf
mode_is 660 "sets it"
expect 0 "once" "already" tool reload -c bad.conf
if can_be_nobody; then
    printf '[pool]\nports = 60011-60020\nmode = 0660\ngroup = 65533\n' | config
    expect 0 "reload with another group" "reloaded" tool reload -c bad.conf
    result "$([ "$(stat -c %g.%a "$(shares)")" = 65533.660 ]; echo $?)" "sets it, too"
    chmod 644 bad.conf
    refuses 1 "create for a group that one is not in" "for group 65533: that needs a member" \
        as_nobody "$pool_tool" create -c bad.conf --pool /dev/shm/fixport-65534-group
fi
printf '[pool]\nports = 60011-60020\nlanes = 20\n' | config
run tool reload -c bad.conf
result "$([ "$status" = 0 ] && grep -q "has [0-9]* lanes, and gets 20 only when" "$scratch/err"; echo $?)" \
    "reload with other lanes says when they will be"
expect 0 "reload with the rules that were" "reloaded" tool reload -p 60011-60020 -t 10.0.0.0/8

expect 0 "FIXPORT_POOL names the pool" "60011-60020" env FIXPORT_POOL="$pool" "$pool_tool" status
expect 0 "remove" "removed" tool remove
result "$([ ! -e "$pool" ]; echo $?)" "and it is gone"
refuses 1 "create in a folder that is not there" "folder" \
    "$pool_tool" create -p 60001 --pool ./nowhere/pool
expect 0 "create with a warning" "made" tool create -p 30001-33000
result "$(grep -q "^fixport-pool: warning: " "$scratch/err"; echo $?)" "that is on stderr"
refuses 1 "reload beyond the room there is" "room" tool reload -p 1024-29999
tool remove >/dev/null

cat >good.conf <<END
[pool]
path = $pool
quarantine = 60

[rule one]
ports = 60001-60010
to = 127.0.0.1, !127.0.0.1:22

[rule two]
ports = 60101-60200
END
expect 0 "create -c" "^$pool: made, 2 rules, quarantine 60 s" "$pool_tool" create -c good.conf
expect 0 "the configuration says where the pool is" "^Quarantine +60 s" "$pool_tool" status \
    -c good.conf
cp "$pool" before
printf 'nonsense = 1\n' >>good.conf
refuses 2 "reload with a bad configuration" "nonsense" "$pool_tool" reload -c good.conf
tool remove >/dev/null

# ---- with connections ----

# client COMMAND...: client.py with its connections; $client is its process, and the file "ports" has
# the ports that its server saw. Written to on descriptor 9, read from on 8.
client()
{
    mkfifo say hear
    FIXPORT_POOL=$pool LD_PRELOAD=$library "$@" <say >hear 2>err &
    client=$!
    jobs_started="$jobs_started $client"
    exec 9>say 8<hear
    rm -f say hear
    read -r line <&8
    echo "$line" | sed 's/^ports //' >ports
}

client_closes()
{
    (echo close >&9) # in a shell of its own: the client may be gone
    read -r line <&8
}

client_ends()
{
    exec 9>&- 8<&-
    wait "$client" 2>/dev/null
}

json()
{
    tool "$1" --json | "$python" -c "import json, sys
it = json.load(sys.stdin)
print($2)"
}

tool create -p 60001-60010 -t 127.0.0.1 >/dev/null 2>&1
client "$python" "$here/client.py" 0 3
expect 0 "list has each lease" "^60[0-9]* +127.0.0.1:[0-9]+ +used" tool list
tool list | awk 'NR > 1 { print $1 }' | sort >listed
tr ' ' '\n' <ports | sort >seen
result "$(cmp -s listed seen; echo $?)" "they are the ports that the server saw"
expect 0 "list --port" "^[^P]" tool list --port "$(head -1 seen)"
result "$([ "$(wc -l <"$scratch/out")" -eq 2 ]; echo $?)" "has one line and its heading"
expect 0 "list --state" "^PORT" tool list --state resting
result "$([ "$(wc -l <"$scratch/out")" -eq 1 ]; echo $?)" "has only those"
expect 0 "list --holder by name" "used" tool list --holder "$(uname -n)"
expect 0 "list --holder of nobody" "^PORT" tool list --holder nobody
result "$([ "$(wc -l <"$scratch/out")" -eq 1 ]; echo $?)" "has none"

expect 0 "status shows the holder" "alive +3  1 \\($client python3" tool status
expect 0 "status in ASCII" "#" env LC_ALL=C "$pool_tool" --pool "$pool" status
LC_ALL=C grep -q '[^ -~]' "$scratch/out"
result "$([ $? -eq 1 ]; echo $?)" "is ASCII alone"
expect 0 "status in 50 columns" "60001" env COLUMNS=50 "$pool_tool" --pool "$pool" status
for command in status list reclaim; do
    expect 0 "$command --json" "^\\{" tool $command --json
    "$python" -m json.tool "$scratch/out" >/dev/null
    result $? "$command --json is JSON"
done
expect 0 "status --json counts" "^3 1 True 10$" json status \
    'it["leases"]["used"], len(it["holders"]), it["holders"][0]["alive"], it["port_count"]'
expect 0 "status --json knows the process" "^$client$" json status \
    'it["holders"][0]["processes"][0]["pid"]'
expect 0 "reclaim leaves connections alone" "^0 compared$" json reclaim \
    'it["reclaimed"], it["holders"][0]["result"]'

expect 0 "metrics" '^fixport_leases\{state="used"\} 3$' tool metrics
"$python" - "$scratch/out" <<'END'
import re
import sys

text = open(sys.argv[1]).read()
assert text.endswith("\n")
label = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
sample = re.compile(rf"([a-z_:]+)(?:{{{label}(?:,{label})*}})? (\d+(?:\.\d+)?(?:e[+-]\d+)?)$")
types, helps, done, current = {}, set(), set(), None
for line in text.splitlines():
    if line.startswith("# HELP "):
        current = line.split()[2]
        assert current not in helps, line
        helps.add(current)
    elif line.startswith("# TYPE "):
        _, _, name, kind = line.split()
        assert name == current and kind in ("counter", "gauge"), line
        assert (kind == "counter") == name.endswith("_total"), line
        types[name] = kind
    else:
        match = sample.match(line)
        assert match and match[1] == current and current in types, line
        series = line.rsplit(" ", 1)[0]
        assert series not in done, line
        done.add(series)
assert len(types) > 15
END
result $? "metrics are in the exposition format"

refuses 1 "remove while in use" "in use by 1 holder: $(uname -n) \\(python3\\)" tool remove

client_closes
expect 0 "close is seen" "letgo" tool list
expect 0 "reclaim takes back what is closed" "3 leases without a connection taken back" tool reclaim
expect 0 "and it rests" "^3$" json status 'it["leases"]["resting"]'
client_ends

client "$python" "$here/client.py" 0 2
kill -KILL "$client"
client_ends
expect 0 "a killed holder is dead" "dead +2 " tool status
expect 0 "its leases are still there" "^2$" json status 'it["leases"]["used"]'
expect 0 "reclaim buries it" "dead; buried, 2 leases taken back" tool reclaim
expect 0 "and they rest" "^0$" json status 'it["leases"]["used"]'
expect 0 "remove when nobody is left" "removed" tool remove

# ---- from another network namespace ----

if [ -n "$FIXPORT_TEST_NETNS" ]; then
    tool create -p 60001-60010 -t 127.0.0.1 >/dev/null 2>&1
    client unshare -n sh -c 'ip link set lo up; exec "$@"' sh "$python" "$here/client.py" 0 4
    client_closes
    expect 0 "reclaim enters another network namespace" \
        "4 leases without a connection taken back" tool reclaim
    if can_be_nobody; then
        chmod 644 "$pool"
        chmod 666 "$(shares)"
        expect 0 "a user cannot, and is told" "cannot be entered from here \\(root can\\)" \
            as_nobody "$pool_tool" --pool "$pool" reclaim
    fi
    expect 0 "remove --force while in use" "removed" tool remove --force
    client_ends
else
    skip "only root can make one" "reclaim enters another network namespace"
fi

# ---- text from others ----

tool create -p 60001-60010 -t 127.0.0.1 >/dev/null 2>&1
client "$python" "$here/client.py" 0 1
"$python" - "$(shares)" "$(uname -n)" <<'END'
import sys

path, name = sys.argv[1:]
data = bytearray(open(path, "rb").read())
at = data.index(name.encode() + b"\0")
data[at:at + 24] = b'\x1b[31m"\\\n\xe2\x80\xae\xff\xc3\xa4end\0'.ljust(24, b"\0")
with open(path, "r+b") as file:
    file.write(data)
END
for command in status list metrics "status --json" "list --json"; do
    # shellcheck disable=SC2086
    run tool $command
    grep -q 'end' "$scratch/out" && ! LC_ALL=C grep -q "$(printf '\033')" "$scratch/out" &&
        iconv -f UTF-8 -t UTF-8 "$scratch/out" >/dev/null
    result $? "$command: a hostile host name does no harm"
done
expect 0 "metrics: labels are escaped" 'holder="\?\[31m\\"\\\\\?\?\?äend"' tool metrics
client_ends
tool remove >/dev/null

# ---- the default for a user ----

if can_be_nobody && ! as_nobody test -r /run/fixport/pool &&
    [ ! -e /dev/shm/fixport-65534 ] && [ ! -e /etc/fixport.conf ]; then
    expect 0 "a user's default pool" "^/dev/shm/fixport-65534: made" \
        as_nobody "$pool_tool" create -p 60001-60010
    expect 0 "is found again" "60001-60010" as_nobody "$pool_tool" status
    expect 0 "fixport-run finds it, too" "^The shim is in" as_nobody "$run_tool" --check true
    expect 0 "and removed" "removed" as_nobody "$pool_tool" remove
else
    skip "there is another one, or only root can be another user" "a user's default pool"
fi

finish
