#!/usr/bin/env bash
# Builds the image restante:latest around a static binary made here; no base image is needed. With "sipp" also
# restante-sipp:latest, around this host's SIPp (Debian: sip-tester).
#   RESTANTE_IMAGE, RESTANTE_SIPP_IMAGE  other names
#   RESTANTE_BINARY                      a static binary made before
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "deploy/build.sh: $*" >&2; exit 1; }

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

static_binary() {
    local host folder=${CARGO_TARGET_DIR:-target}
    host=$(rustc -vV | sed -n 's/^host: //p')
    # The target is named although it is the host's: otherwise the flag would hold for build scripts and macros.
    RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo \
        cargo build --release --locked --target "$host" >&2
    echo "$folder/$host/release/restante"
}

server_image() {
    local binary=${RESTANTE_BINARY:-} version
    [[ $binary ]] || binary=$(static_binary)
    if readelf -lW "$binary" | grep -q INTERP; then fail "$binary is not static"; fi
    version=$("$binary" --version)
    mkdir -p "$context/root/usr/bin" "$context/root/etc/restante" "$context/data"
    cp "$binary" "$context/root/usr/bin/restante"
    cp deploy/container.toml "$context/root/etc/restante/restante.toml"
    # What glibc can look up without loading a library.
    echo "hosts: files dns" >"$context/root/etc/nsswitch.conf"
    chmod -R u=rwX,go=rX "$context/root"
    chmod 0700 "$context/data"
    docker build -q --build-arg VERSION="${version#* }" -f deploy/Containerfile \
        -t "${RESTANTE_IMAGE:-restante:latest}" "$context" >/dev/null
}

# A program and the libraries it loads.
take() { # PROGRAM WHERE
    install -D "$1" "$root$2"
    ldd "$1" | grep -o '/[^ ]*' | while read -r library; do
        [[ -e $root$library ]] || install -D "$library" "$root$library"
    done
}

sipp_image() {
    local root=$context/sipp
    command -v sipp >/dev/null || fail "there is no sipp (Debian: sip-tester)"
    mkdir -p "$root/scenarios" "$root/tmp" "$root/etc" "$root/lib/terminfo/d"
    take "$(command -v sipp)" /usr/bin/sipp
    take "$(readlink -f /bin/sh)" /bin/sh
    cp /lib/terminfo/d/dumb "$root/lib/terminfo/d/"
    echo "hosts: files dns" >"$root/etc/nsswitch.conf"
    cp sip-scenarios/run sip-scenarios/*.xml "$root/scenarios/"
    chmod -R u=rwX,go=rX "$root"
    chmod 1777 "$root/tmp"
    mkdir "$context/sipp-image"
    mv "$root" "$context/sipp-image/root"
    docker build -q -f deploy/sipp/Containerfile -t "${RESTANTE_SIPP_IMAGE:-restante-sipp:latest}" \
        "$context/sipp-image" >/dev/null
}

server_image
if [[ ${1:-} == sipp ]]; then sipp_image; fi
