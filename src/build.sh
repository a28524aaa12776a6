# shellcheck shell=sh
# Installs packages and builds, for ./orchestrator and tests/run, which set $root and source this.
# What it says goes to stderr; what the tools say goes to build/log, whose end is shown when they
# fail. Standard input is left alone: it belongs to the script that is about to run.

packages='gcc libc6-dev cmake ninja-build pkgconf luajit libluajit-5.1-dev libcurl4-openssl-dev
    libssl-dev libuv1-dev libsqlite3-dev libpq-dev lua-cjson-dev lua-argparse zlib1g-dev
    libbrotli-dev libzstd-dev libmicrohttpd-dev ca-certificates'

root=$(unset CDPATH && cd "$root/" && pwd) || exit

say() {
    echo "orchestrator: $*" >&2
}

logged() {
    "$@" </dev/null >>build/log 2>&1
}

checked() {
    logged "$@" && return
    tail -n 40 build/log >&2
    say "failed: $* (all of it is in $PWD/build/log)"
    return 1
}

# install PACKAGE…: those that are missing.
install() {
    installed=" $(dpkg-query -W -f '${Package}=${db:Status-Status} ' "$@" 2>/dev/null)"
    missing=
    for package; do
        case $installed in
        *" $package=installed "*) ;;
        *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0

    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        as_root=sudo
        if ! command -v sudo >/dev/null; then
            say "packages are missing; as root, run: apt-get install$missing"
            return 1
        fi
    fi
    say "installing, this once:$missing"
    # Offline, so that no package starts a service, which the servers among the tests' would.
    # shellcheck disable=SC2086 # lists of words
    checked $as_root apt-get update &&
        checked $as_root env DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 apt-get install -y \
            --no-install-recommends -o DPkg::Lock::Timeout=300 $missing
}

# configure PRESET [OPTION…]: starts afresh where the cache is of no use, as in a copy of a checkout
# that was built elsewhere.
configure() {
    logged cmake --preset "$@" || checked cmake --fresh --preset "$@"
}

# build COMMAND…: runs it in $root, one build at a time, however many processes want one together.
# build/.building becomes build/.built when COMMAND has succeeded, which so tells when that build
# began. Found at the start it means that a build was killed and what it left may be half written.
build() (
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        # shellcheck disable=SC2086 # a list of words
        say "this is not Debian; install what these are called here:" $packages
        say "then run: cmake --preset default && cmake --build build; build/orchestrator SCRIPT"
        exit 1
    fi
    cd "$root" && exec 9<. && flock 9 || exit
    [ ! -e build/.building ] || rm -rf build
    mkdir -p build && : >build/.building && : >build/log || exit
    "$@" && mv build/.building build/.built && exit
    rm build/.building
    exit 1
)

# What ./orchestrator builds.
program() {
    up_to_date && return # another process built it while this one waited
    # shellcheck disable=SC2086 # a list of words
    install $packages || return
    say "building in $PWD/build"
    set -- default
    [ -e build/CMakeCache.txt ] || set -- default -DBUILD_TESTING=OFF
    configure "$@" && checked cmake --build --preset default --target orchestrator mockapi
}
