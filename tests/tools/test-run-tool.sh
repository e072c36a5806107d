#!/bin/sh
# SPDX-License-Identifier: MIT
# shellcheck source=tests/tools/tap.sh disable=SC2154,SC2016
# fixport-run, tried for real: what it refuses, what it hands to the command, and --check.

. "$(dirname "$0")/tap.sh"

python=$(command -v python3)

# ---- bad input ----

refuses 2 "no command" "no command is given" "$run_tool" -p 60001-60010
refuses 2 "-p with a port beyond 65535" "80001 is not a port: ports end at 65535" \
    "$run_tool" -p 60001-80001 true
refuses 2 "-p with port 0" "0-10" "$run_tool" -p 0-10 true
refuses 2 "-p the wrong way round" "200-100" "$run_tool" -p 200-100 true
refuses 2 "-p empty" '^fixport-run: ports ""' "$run_tool" -p '' true
refuses 2 "-p overlapping" "60050" "$run_tool" -p 60001-60100,60050-60200 true
refuses 2 "-p not a number" "http" "$run_tool" -p http true
refuses 2 "-t with a wrong prefix" "10.0.0.0/33" "$run_tool" -p 60001-60010 -t 10.0.0.0/33 true
refuses 2 "-t without -p" "-t needs -p" "$run_tool" -t 10.0.0.0/8 true
refuses 2 "-c and -p together" "exclude each other" "$run_tool" -c x -p 60001 true
refuses 2 "-p twice" "given twice" "$run_tool" -p 60001 -p 60002 true
refuses 2 "unknown option" "unknown option -z" "$run_tool" -z true
refuses 2 "unknown long option" "unknown option --nonsense" "$run_tool" --nonsense true
refuses 2 "option without value" "-p needs a value" "$run_tool" -p
refuses 2 "configuration that is missing" "nothing.conf" "$run_tool" -c ./nothing.conf true
refuses 2 "pool that is missing" "there is no pool" "$run_tool" --pool ./nothing true
refuses 2 "pool that is a folder" "directory" "$run_tool" --pool . true
refuses 2 "FIXPORT_PORTS that is wrong" "80001 is not a port" \
    env FIXPORT_PORTS=60001-80001 "$run_tool" true
refuses 2 "FIXPORT_POOL that is missing" "there is no pool" \
    env FIXPORT_POOL="$PWD/nothing" "$run_tool" true
refuses 2 "a line feed in a value is no second line" "60001\\?x" "$run_tool" -p '60001
x' true

# ---- what cannot be run, or not with the shim ----

run_p()
{
    "$run_tool" -p 60001-60010 "$@"
}

refuses 127 "command that does not exist" "'no-such-command': command not found" \
    run_p no-such-command
refuses 127 "path that does not exist" "not found" run_p ./no-such-command
refuses 126 "folder as command" "cannot be executed" run_p "$PWD"
echo 'echo hello' >plain
refuses 126 "file without x" "cannot be executed: Permission denied" run_p ./plain
printf '#!/no/such/interpreter\n' >lost && chmod +x lost
refuses 127 "script without its interpreter" "/no/such/interpreter" run_p ./lost

behind="put fixport-run after it"
for clears in "-i" "-" "--ignore-environment" "-u LD_PRELOAD" "-uLD_PRELOAD" "--unset=LD_PRELOAD" "-u X -vi"; do
    refuses 126 "env $clears" "takes the library away from the program that it starts; $behind" run_p env $clears true
done
for keeps in "" "A=b" "-u X" "-C /" "-i LD_PRELOAD=" "-u iX" "--"; do
    expect 0 "env $keeps" "" run_p env $keeps true -i
done
expect 0 "env -i with --force" "" run_p --force env -i true
expect 0 "fixport-run after env -i" "" env -i PATH="$PATH" ASAN_OPTIONS="$ASAN_OPTIONS" "$run_tool" -p 60001-60010 true

cat >static.c <<END
int main(void) { return 7; }
END
if ${CC:-cc} -static -o static static.c 2>/dev/null; then
    refuses 126 "static program" "static program.*if it only starts another program.*$behind" run_p ./static
    expect 7 "static program with --force" "" run_p --force ./static
    printf '#!%s/static\n' "$PWD" >script && chmod +x script
    refuses 126 "script whose interpreter is static" "static program" run_p ./script
    printf '#!%s/script\n' "$PWD" >script2 && chmod +x script2
    refuses 126 "script of a script of a static program" "static program" run_p ./script2
else
    skip "the compiler cannot link statically" "static program"
fi
if ${CC:-cc} -static-pie -o static-pie static.c 2>/dev/null; then
    refuses 126 "static PIE" "static program" run_p ./static-pie
else
    skip "the compiler cannot link static PIEs" "static PIE"
fi

# A dynamic program with the section that Go's linker leaves.
cat >go.c <<END
__attribute__((section(".go.buildinfo"), used)) static const char mark[16] = "\377 Go buildinf:";
int main(void) { return 5; }
END
if ${CC:-cc} -o go go.c 2>/dev/null; then
    refuses 126 "dynamic Go program" "Go program.*if it only starts another program.*$behind" run_p ./go
    expect 5 "dynamic Go program with --force" "" run_p --force ./go
else
    skip "there is no compiler" "dynamic Go program"
fi

# The header of a program for another processor: byte 18 is the machine.
cp "$(command -v cat)" foreign
printf '\363' | dd of=foreign bs=1 seek=18 conv=notrunc 2>/dev/null
refuses 126 "program for another processor" "another kind of processor" run_p ./foreign

if can_be_nobody; then
    cp "$(command -v cat)" setuid && chown root setuid && chmod 4755 setuid
    cp "$(command -v cat)" setgid && chown 65534:0 setgid && chmod 2755 setgid
    cp "$(command -v cat)" own && chown 65534:65534 own && chmod 6755 own
    if as_nobody ./setuid /proc/self/status 2>/dev/null | grep -q "^Uid:.65534.0.0.0$"; then
        refuses 126 "setuid program" "is setuid" as_nobody "$run_tool" -p 60001-60010 ./setuid
        refuses 126 "setgid program" "is setgid" as_nobody "$run_tool" -p 60001-60010 ./setgid
    else
        skip "no program is setuid in $PWD: it is mounted nosuid, or no_new_privs is set" \
            "setuid program"
    fi
    expect 0 "setuid program of this very user" "^The shim is in" \
        as_nobody "$run_tool" -p 60001-60010 --check ./own
    expect 0 "setuid program under no_new_privs" "^The shim is in" \
        as_nobody setpriv --no-new-privs "$run_tool" -p 60001-60010 --check ./setuid
    cp "$(command -v cat)" capable
    if setcap cap_net_raw+ep capable 2>/dev/null &&
        as_nobody ./capable /proc/self/status 2>/dev/null | grep -q "^CapEff:.0*2000$"; then
        refuses 126 "program with file capabilities" "file capabilities" \
            as_nobody "$run_tool" -p 60001-60010 ./capable
        expect 1 "which are no place for the shim indeed" "^The shim is not in" \
            as_nobody "$run_tool" -p 60001-60010 --force --check ./capable
        expect 0 "program with file capabilities, as root" "^The shim is in" run_p --check ./capable
    else
        skip "file capabilities have no effect in $PWD" "program with file capabilities"
    fi
    cp "$(command -v cat)" hidden && chmod 711 hidden
    if [ -n "$FIXPORT_TEST_PRELOAD" ]; then
        skip "a sanitizer cannot see its options there" "program that cannot be read"
    else
        expect 0 "program that cannot be read" "^The shim is in" \
            as_nobody "$run_tool" -p 60001-60010 --check ./hidden
    fi
else
    skip "only root can make one" "setuid program"
fi

# ---- what the command gets ----

expect 42 "exit status is the command's" "" run_p sh -c 'exit 42'
expect 0 "options after the command are its own" "^-x --check$" run_p echo -x --check
expect 0 "-- ends the options" "^-p$" run_p -- echo -p
expect 0 "argv[0] is what was typed" "^sh$" run_p sh -c 'tr "\0" "\n" </proc/$$/cmdline | head -1'
expect 0 "script without an interpreter line" "hello" sh -c 'chmod +x plain; exec "$0" -p 60001 ./plain' "$run_tool"
{
    run_p sh -c 'kill -TERM $$'
    status=$?
} 2>/dev/null
result "$([ "$status" -eq 143 ]; echo $?)" "death by signal is the command's"

# (Not libm: a sanitizer's runtime finds no functions of a library that is before it.)
preload_of()
{
    # shellcheck disable=SC2016
    "$run_tool" -p 60001-60010 sh -c 'echo "[$LD_PRELOAD]"'
}
expect 0 "LD_PRELOAD is the library" "^\\[[^ :]*/libfixport.so\\]$" preload_of
real=$(sed 's/[][]//g' "$scratch/out")
expect 0 "an LD_PRELOAD is joined" "^\\[libdl.so.2:$real\\]$" env LD_PRELOAD=libdl.so.2 "$run_tool" \
    -p 60001-60010 sh -c 'echo "[$LD_PRELOAD]"'
expect 0 "before the C library" "^\\[libdl.so.2 $real:libc.so.6:libdl.so.2\\]$" \
    env LD_PRELOAD="libdl.so.2 libc.so.6:libdl.so.2" "$run_tool" -p 60001-60010 sh -c 'echo "[$LD_PRELOAD]"'
expect 0 "an LD_PRELOAD with a separator at its end" "^\\[libdl.so.2:$real\\]$" \
    env LD_PRELOAD="libdl.so.2:" "$run_tool" -p 60001-60010 sh -c 'echo "[$LD_PRELOAD]"'
expect 0 "never doubled" "^\\[$real:libdl.so.2\\]$" env LD_PRELOAD="$real:libdl.so.2" "$run_tool" \
    -p 60001-60010 sh -c 'echo "[$LD_PRELOAD]"'
expect 0 "nor when nested" "^\\[$real\\]$" run_p "$run_tool" -p 60001-60010 \
    sh -c 'echo "[$LD_PRELOAD]"'
expect 0 "a shim that is not there does not count" "^\\[/no/libfixport.so:$real\\]$" \
    env LD_PRELOAD=/no/libfixport.so "$run_tool" -p 60001-60010 sh -c 'echo "[$LD_PRELOAD]"'

mkdir -p "a b/tools" "a b/shim" && cp "$run_tool" "a b/tools/" && cp "$library" "a b/shim/"
refuses 1 "a space in the library's path" "LD_PRELOAD cannot express" \
    "a b/tools/fixport-run" -p 60001 true

environment='env | grep -E "^FIXPORT_(POOL|PORTS|TO)=" | sort | tr "\n" " "'
expect 0 "-p and -t become the environment" \
    "^FIXPORT_PORTS=60001-60010 FIXPORT_TO=10.0.0.0/8 $" \
    env FIXPORT_POOL=/x "$run_tool" -p 60001-60010 -t 10.0.0.0/8 sh -c "$environment"
expect 0 "--pool with -p makes the pool" "^FIXPORT_POOL=$PWD/made $" \
    env FIXPORT_TO=x "$run_tool" -p 60001-60010 --pool made sh -c "$environment"
result "$([ -f made ]; echo $?)" "and it is there"
expect 0 "--pool with other ports reloads it" "" "$run_tool" -p 60011-60020 --pool made true
expect 0 "and they are in it" '"60011-60020"' "$pool_tool" status --json --pool made
expect 0 "--pool alone uses it" "^FIXPORT_POOL=$PWD/made $" "$run_tool" --pool made \
    sh -c "$environment"
expect 0 "FIXPORT_POOL is used" "^FIXPORT_POOL=$PWD/made $" env FIXPORT_POOL="$PWD/made" \
    "$run_tool" sh -c "$environment"

cat >good.conf <<END
[pool]
path = $PWD/configured

[rule test]
ports = 60031-60040
to = 127.0.0.1
END
expect 0 "-c makes the pool" "^FIXPORT_POOL=$PWD/configured $" "$run_tool" -c good.conf \
    sh -c "$environment"
sed -i 's/60040/60050/' good.conf
expect 0 "-c reloads the pool" "" "$run_tool" -c good.conf true
expect 0 "with what it says" '"60031-60050"' "$pool_tool" status --json --pool configured
before=$(cksum configured)
run "$run_tool" -c good.conf no-such-command
sed -i 's/60050/60060/' good.conf
run "$run_tool" -c good.conf no-such-command
result "$([ "$before" = "$(cksum configured)" ]; echo $?)" "a refusal does not touch the pool"

# ---- real connections ----

expect 0 "connections come from the ports" "^ports 6000[1-3] 6000[1-3] 6000[1-3]$" \
    "$run_tool" -p 60001-60003 -t 127.0.0.1 "$python" "$here/client.py" 0 3
expect 0 "also by -c" "^ports 600[3-6][0-9]$" "$run_tool" -c good.conf "$python" \
    "$here/client.py" 0 1

# ---- standard streams that are missing ----

for stream in 0 1 2; do
    expect 0 "a program without descriptor $stream has none under fixport-run" "" sh -c '
        eval "exec $1>&-"; exec "$0" -p 60001 sh -c "[ ! -e /proc/self/fd/$1 ]"' \
        "$run_tool" "$stream"
done

# ---- --check ----

expect 0 "--check: in" "^The shim is in" run_p --check true
result "$(grep -Eq '^ +ports +60001-60010$' "$scratch/out"; echo $?)" "--check says the ports"
expect 0 "--check without a command" "^The shim is in" run_p --check
expect 0 "--check never runs the command" "^The shim is in" run_p --check touch ran
result "$([ ! -e ran ]; echo $?)" "indeed not"
expect 0 "--check for a script" "^The shim is in" sh -c 'printf "#!/bin/sh\ntouch ran\n" >touch.sh
    chmod +x touch.sh; exec "$0" -p 60001 --check ./touch.sh' "$run_tool"
result "$([ ! -e ran ]; echo $?)" "whose code does not run either"
printf '[pool]\nports = 60021-60025\n[rule a]\nto = 10.0.0.0/8\nports = 60031\n' >other.conf
expect 0 "--check with a configuration" "^ +ports +60031$" "$run_tool" -c other.conf \
    --pool "$scratch/none" --check true
result "$([ ! -e "$scratch/none" ]; echo $?)" "makes no pool"
"$pool_tool" create --pool "$scratch/there" -p 60001-60010 >/dev/null
cp "$scratch/there" before
expect 0 "--check where there is one" "a real run makes or reloads it" "$run_tool" -c other.conf \
    --pool "$scratch/there" --check true
result "$(cmp -s before "$scratch/there"; echo $?)" "leaves it as it is"
expect 1 "--check: disabled" "FIXPORT_DISABLE=1" env FIXPORT_DISABLE=1 "$run_tool" -p 60001 \
    --check true
if [ -x ./static ]; then
    refuses 126 "--check: static program" "static program" run_p --check ./static
    expect 1 "--check: not in" "^The shim is not in" run_p --check --force ./static
fi

finish
