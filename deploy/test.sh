#!/usr/bin/env bash
# The deployment, tried: builds the images, brings compose.yaml up on private networks, and plays the story with
# everybody in a container of their own, through a kill, a cut network and a stop. Needs a container engine, a
# compose tool, Rust and SIPp; no base image. Removes everything it made.
#   RESTANTE_IMAGE, RESTANTE_SIPP_IMAGE  images to try instead of building them
#   RESTANTE_BINARY                      a static binary made before, as for build.sh
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }
fail() { echo "deploy/test.sh: $*" >&2; exit 1; }

docker info >/dev/null 2>&1 || fail "no container engine: \`docker info\` fails"
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    fail "no compose tool: neither \`docker compose\` nor \`docker-compose\`"
fi

run=restante-test-$$-$RANDOM
work=$(mktemp -d)
near=${run}_default far=$run-far
built=()
given_image=${RESTANTE_IMAGE:-} given_sipp=${RESTANTE_SIPP_IMAGE:-} given_binary=${RESTANTE_BINARY:-}
# What the lab's own settings say is not tried here.
unset "${!RESTANTE_@}"

dc() { "${compose[@]}" --env-file "$work/env" -p "$run" -f compose.yaml -f "$work/override.yaml" "$@"; }

show() { # what it looked like, for a failure
    for who in $(docker ps -aq --filter "label=$run"); do
        echo "--- $(docker inspect -f '{{.Name}} {{.State.Status}} {{.State.ExitCode}}' "$who")"
        docker logs --tail 60 "$who" 2>&1
    done
    echo "--- the server"
    dc logs --tail=60 2>&1 || true
}
clean() {
    local code=$?
    trap - EXIT
    set +e
    if ((code)); then show >&2; fi
    docker ps -aq --filter "label=$run" | xargs -r docker rm -fv >/dev/null
    if [[ -e $work/override.yaml ]]; then dc down -v -t 1 >/dev/null 2>&1; fi
    docker network rm "$far" >/dev/null 2>&1
    if ((${#built[@]})); then docker rmi -f "${built[@]}" >/dev/null 2>&1; fi
    rm -rf "$work"
    exit "$code"
}
trap clean EXIT
trap 'exit 1' INT TERM

within() { # SECONDS WHAT COMMAND...
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        if ((SECONDS >= until)); then fail "not in time: $what"; fi
        sleep 0.1
    done
}

step "images"
export RESTANTE_IMAGE=${given_image:-$run:server} RESTANTE_SIPP_IMAGE=${given_sipp:-$run:sipp}
if [[ -z $given_image || -z $given_sipp ]]; then
    RESTANTE_BINARY=$given_binary ./build.sh sipp
    built=("$run:server" "$run:sipp")
fi
docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -Fe "$RESTANTE_IMAGE" -e "$RESTANTE_SIPP_IMAGE"

step "networks"
# Bob's network has addresses of its own choosing, so that he can come back with the one he had.
far_network() {
    for _ in $(seq 50); do
        subnet=10.$((RANDOM % 150 + 100)).$((RANDOM % 256))
        if docker network create --label "$run" --subnet "$subnet.0/24" --gateway "$subnet.1" "$far" >/dev/null 2>&1; then
            return
        fi
    done
    fail "no free network"
}
far_network
port=$((RANDOM % 10000 + 20000))
# Two listeners of each kind. Near containers know the server by its name. Bob cannot reach that: he sees only
# what is published on his own network's gateway, under other ports than the listeners have.
cat >"$work/env" <<END
RESTANTE_BIND=$subnet.1
RESTANTE_SIP_PORT=$port
RESTANTE_MSRP_PORT=$((port + 1))
END
cat >"$work/override.yaml" <<END
services:
  restante:
    environment:
      RESTANTE_SIP__LISTEN: '["udp://0.0.0.0:$port", "tcp://0.0.0.0:$port", "tcp://0.0.0.0:5070"]'
      RESTANTE_SIP__ADVERTISE: '["restante", "restante", "$subnet.1:$((port + 2))"]'
      RESTANTE_MSRP__LISTEN: '["tcp://0.0.0.0:$((port + 1))", "tcp://0.0.0.0:2870"]'
      RESTANTE_MSRP__ADVERTISE: '["restante", "$subnet.1:$((port + 3))"]'
    ports:
      - "$subnet.1:$((port + 2)):5070/tcp"
      - "$subnet.1:$((port + 3)):2870/tcp"
END
dc config -q

step "up"
health() { [[ $(docker inspect -f '{{.State.Health.Status}}' "$server") == healthy ]]; }
nanoseconds() { date -d "$1" +%s%N; }
dc up -d restante
server=$(dc ps -q restante)
within 30 "a healthy server" health
started=$(nanoseconds "$(docker inspect -f '{{.State.StartedAt}}' "$server")")
ready=$(nanoseconds "$(docker logs -t "$server" 2>/dev/null | sed -n 's/ ready .*//p' | tail -1)")
echo "ready $(((ready - started) / 1000000)) ms after the start of its process"

step "what it may do"
pid=$(docker inspect -f '{{.State.Pid}}' "$server")
status() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"; }
expect() { # WHAT VALUE PATTERN
    [[ $2 =~ ^$3$ ]] || fail "$1: $2"
    echo "$1: $2"
}
expect "user" "$(status Uid | tr '\t' ' ')" '65532 65532 65532 65532'
expect "group" "$(status Gid | tr '\t' ' ')" '65532 65532 65532 65532'
for set in CapInh CapPrm CapEff CapBnd CapAmb; do expect "$set" "$(status $set)" '0+'; done
expect "no new privileges" "$(status NoNewPrivs)" 1
expect "seccomp filter" "$(status Seccomp)" 2
expect "root" "$(awk '$5 == "/" { split($6, options, ","); print options[1] }' "/proc/$pid/mountinfo")" ro
expect "store" "$(awk '$5 == "/var/lib/restante" { split($6, options, ","); print options[1] }' "/proc/$pid/mountinfo")" rw

phone() { # NAME NETWORK ADDRESS ARGUMENTS...
    local name=$1 network=$2 address=$3
    shift 3
    docker run -d --name "$run-$name" --label "$run" --network "$network" ${address:+--ip "$address"} --no-healthcheck \
        --read-only --cap-drop ALL --security-opt no-new-privileges --memory 256m --pids-limit 64 \
        "$RESTANTE_IMAGE" demo "$@" >/dev/null
}
lines() { docker logs "$run-$1" 2>/dev/null; }
has_lines() { (($(lines "$1" | grep -c "$2") >= $3)); }
ends() { # NAME SECONDS
    local code
    code=$(timeout "$2" docker wait "$run-$1") || fail "$1 did not end within $2 s"
    [[ $code == 0 ]] || fail "$1 did not observe everything (exit code $code)"
}
# In order, octet for octet: the MSRP messages among themselves, and the one by MESSAGE.
nothing_lost() { # AUTHOR READER
    said() { lines "$1" | sed -n "s/^$2 //p" | sort -s -k1,1; }
    diff <(said "$1" wrote) <(said "$2" took) >&2 || fail "$2 has not what $1 wrote"
    echo "$(said "$2" took | wc -l) messages, in order, octet for octet; $1 has the receipts"
}

step "the whole story, told by a container beside it"
phone story "$near" "" --server "restante:$port"
ends story 60
lines story | tail -1

step "Alice writes to Bob; the server is killed with SIGKILL and started again"
many=60
phone alice "$near" "" --server "restante:$port" --part alice --messages "$many"
within 30 "Alice's messages in custody" has_lines alice '^wrote' $((many + 1))
docker kill -s KILL "$server" >/dev/null
docker start "$server" >/dev/null
within 30 "a healthy server" health

step "Bob comes from another network; it is cut in the middle of the replay, and joined again"
phone bob "$far" "$subnet.7" --server "$subnet.1:$((port + 2))" --part bob --messages "$many" --pause 150
within 30 "the beginning of the replay" has_lines bob '^took chat' 5
docker network disconnect "$far" "$run-bob"
cut_after=$(lines bob | grep -c '^took chat')
((cut_after < many)) || fail "the replay was over before the cut"
echo "cut after $cut_after of $many"
sleep 5 # the length of the outage
(($(lines bob | grep -c '^took chat') < many)) || fail "the cut did not cut"
docker network connect --ip "$subnet.7" "$far" "$run-bob"
ends bob 120
ends alice 30
nothing_lost alice bob

step "SIPp"
dc run --rm sipp

step "stop in the middle of a replay drains; nothing is lost"
phone alice2 "$near" "" --server "restante:$port" --part alice --messages "$many"
within 30 "Alice's messages in custody" has_lines alice2 '^wrote' $((many + 1))
phone bob2 "$near" "" --server "restante:$port" --part bob --messages "$many" --pause 250
within 30 "the beginning of the replay" has_lines bob2 '^took chat' 5
before=$SECONDS
dc stop restante
expect "stopped after, in seconds" $((SECONDS - before)) '[0-9]|1[0-5]'
expect "exit code" "$(docker inspect -f '{{.State.ExitCode}}' "$server")" 0
dc logs --no-color restante >"$work/log" 2>&1
for word in draining stopped; do
    grep -q "$word" "$work/log" || fail "its log does not say $word"
done
dc start restante
within 30 "a healthy server" health
ends bob2 120
ends alice2 30
nothing_lost alice2 bob2

step "passed in $SECONDS s"
