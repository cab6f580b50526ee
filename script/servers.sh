# SPDX-License-Identifier: Apache-2.0
# Lets each `dovetail up` of a document go on in the background, as if it had a terminal of its own. To be sourced; what
# the servers say goes into the directory $SERVER_LOGS.
#
# A server is waited for until it listens or stands by. Where another of the document has its address, that one is stopped
# in order first; the others are stopped when the shell ends. One that ends by itself, or with anything but 0 when it is
# stopped, fails the document.

declare -A server_pids=() # by the address at which it listens
servers_begun=()          # addresses, the oldest first

dovetail() {
    if [ "${1:-}" = up ]; then
        start_server "$@"
    else
        command dovetail "$@"
    fi
}

start_server() {
    local address=$DOVETAIL_LISTEN word before=''
    for word; do
        if [ "$before" = --listen ]; then
            address=$word
        fi
        before=$word
    done
    stop_server "$address"
    exec dovetail "$@" >"$SERVER_LOGS/$address" 2>&1 &
    server_pids[$address]=$!
    servers_begun+=("$address")
    wait_for_server "$address"
}

wait_for_server() { # ADDRESS
    local deadline=$((SECONDS + 60))
    until grep -q '^listening on \|standing by for' "$SERVER_LOGS/$1"; do
        server_lives "$1"
        if [ $SECONDS -gt $deadline ]; then
            server_failed "$1" 'does not listen'
        fi
        sleep 0.05
    done
}

# Says what the server said, and fails.
server_failed() { # ADDRESS WHAT
    printf 'the server at %s %s:\n' "$1" "$2" >&2
    cat "$SERVER_LOGS/$1" >&2
    return 1
}

server_lives() { # ADDRESS
    kill -0 "${server_pids[$1]}" 2>/dev/null || server_failed "$1" 'ended early'
}

servers_live() {
    local address
    for address in "${!server_pids[@]}"; do
        server_lives "$address"
    done
}

stop_server() { # ADDRESS
    local pid=${server_pids[$1]:-} code=0
    if [ -z "$pid" ]; then
        return
    fi
    unset "server_pids[$1]"
    kill "$pid" 2>/dev/null || true
    wait "$pid" || code=$?
    if [ $code -ne 0 ]; then
        server_failed "$1" "ended with $code"
    fi
}

# The last that was started goes first: it may need the others for its end. Each is stopped, also when one has failed.
stop_servers() {
    local code=$? i
    for ((i = ${#servers_begun[@]} - 1; i >= 0; i--)); do
        stop_server "${servers_begun[i]}" || code=1
    done
    exit $code
}
trap stop_servers EXIT
