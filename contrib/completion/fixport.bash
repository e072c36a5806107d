# SPDX-License-Identifier: MIT
# Completion for fixport-run(1), fixport-probe(1), fixport-pool(8) and fixport-setup(8) in bash.
# Install it as /usr/share/bash-completion/completions/fixport-run, with links fixport-pool,
# fixport-probe and fixport-setup beside it.
#
# Only bash itself is used where it can be, so that it works without the bash-completion package;
# with that package, a command after fixport-run completes as it would alone.

_fixport_words()
{
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

_fixport_files()
{
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}

_fixport_folders()
{
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -d -- "$cur")
}

# Several with commas between: what is there already stays in front.
_fixport_roles()
{
    local before=
    [[ $cur == *,* ]] && before=${cur%,*},
    mapfile -t COMPREPLY < <(compgen -P "$before" -W "host gateway node control-plane" -- "${cur##*,}")
}

# Options that take a value: complete that. Returns 1 if $prev is none.
_fixport_value()
{
    case $prev in
    -c | --config | --pool | --kubectl | --kubeconfig) _fixport_files ;;
    --root) _fixport_folders ;;
    --state) _fixport_words "used letgo resting" ;;
    --role) _fixport_roles ;;
    --confirm) _fixport_words "60 120 300 600" ;;
    --context)
        mapfile -t COMPREPLY < <(compgen -W "$(kubectl config get-contexts -o name 2>/dev/null)" -- "$cur")
        ;;
    --tries) _fixport_words "1 2 3 4 5" ;;
    -p | --ports | -t | --to | --port | --holder | --owner) COMPREPLY=() ;;
    --address | --count | --timeout | --wait) COMPREPLY=() ;;
    *) return 1 ;;
    esac
}

_fixport_pool()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local commands="create reload status list reclaim remove metrics help version"
    local options="-c --config --pool" word command=
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ " $commands " == *" $word "* ]] && command=$word && break
    done
    _fixport_value && return
    case $command in
    create) options+=" -p --ports -t --to" ;;
    reload) options+=" -p --ports -t --to --any" ;;
    status) options+=" --json" ;;
    reclaim) options+=" --json --every" ;;
    metrics) options+=" --listen" ;;
    list) options+=" --json --port --holder --state" ;;
    remove) options+=" --force --any" ;;
    "") options+=" $commands --help --version" ;;
    esac
    _fixport_words "$options"
}

_fixport_probe()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local commands="listen connect help version"
    local options="--port --ports -c --config --json -4 -6" word command=
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ " $commands " == *" $word "* ]] && command=$word && break
    done
    _fixport_value && return
    case $command in
    listen) options+=" --address --capture --no-listen --count --timeout" ;;
    connect)
        options+=" --tries --wait"
        if [[ $prev == connect && $cur != -* ]]; then
            mapfile -t COMPREPLY < <(compgen -A hostname -- "$cur")
            return
        fi
        ;;
    help | version) options= ;;
    "") options+=" $commands --help --version" ;;
    esac
    _fixport_words "$options"
}

_fixport_setup()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local commands="plan apply confirm status undo boot doctor discover twin help version"
    local options="--root --json" word command=
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ " $commands " == *" $word "* ]] && command=$word && break
    done
    if [[ $command == twin ]] && declare -F _command_offset >/dev/null; then
        _command_offset 2
        return
    fi
    _fixport_value && return
    case $command in
    plan) options+=" -c --config --role --owner --no-rehearsal" ;;
    doctor) options+=" -c --config --role" ;;
    apply) options+=" -c --config --role --owner --confirm --no-rehearsal --force" ;;
    undo) options+=" --owner --force" ;;
    discover)
        options="-c --config --write --kubectl --kubeconfig --context --timeout --pod-cidrs --json"
        [[ $cur == -* ]] || { _fixport_files && return; }
        ;;
    help | version) options= ;;
    "") options+=" -c --config --role $commands --help --version" ;;
    esac
    _fixport_words "$options"
}

# Where the command begins: after the options and their values.
_fixport_run_command()
{
    local i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --) echo $((i + 1)) && return ;;
        -p | -t | -c | --ports | --to | --config | --pool) ((i++)) ;;
        -*) ;;
        *) echo "$i" && return ;;
        esac
    done
    echo "$COMP_CWORD"
}

_fixport_run()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} at
    at=$(_fixport_run_command)
    if ((at < COMP_CWORD)) && declare -F _command_offset >/dev/null; then
        _command_offset "$at"
    elif ((at < COMP_CWORD)); then
        _fixport_files
    elif _fixport_value; then
        return
    elif [[ $cur == -* ]]; then
        _fixport_words "-p --ports -t --to -c --config --pool --check --force --help --version"
    else
        mapfile -t COMPREPLY < <(compgen -c -- "$cur")
    fi
}

complete -F _fixport_pool fixport-pool
complete -F _fixport_probe fixport-probe
complete -F _fixport_run fixport-run
complete -F _fixport_setup fixport-setup
