# Shared by the scripts beside it: the repository's own virtual environment, made once and kept current.
# Source it with the working directory at the repository's root.

TORCH="torch==2.13.0"

# Debian packages that the tests need: add a name here and scripts/test installs it as root, or names it and fails.
DEBIAN_PACKAGES=(
    aravis-tools # a GigE Vision camera as a process, and the library that talks to it
    chromium     # opens the reports that `check --html` writes
    gcc          # compiles the emulated CUDA driver that the device layer is tested on
    libc6-dev
)

die() { # MESSAGE MEND
    printf 'error: %s\nmend: %s\n' "$1" "$2" >&2
    exit 4
}

say() {
    printf '== %s\n' "$*" >&2
}

# Install Debian packages as root; anyone else is told the command.
need_packages() { # PACKAGE...
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ "${#missing[@]}" -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        die "missing Debian packages: ${missing[*]}" "sudo apt-get install ${missing[*]}"
    fi
    say "installing Debian packages: ${missing[*]}"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } >&2 ||
        die "apt-get could not install: ${missing[*]}" "install them by hand, then run this again"
}

# The Python that makes the environment: $PYTHON, or python3.
choose_python() {
    local python="${PYTHON:-python3}"
    command -v "$python" >/dev/null || die "$python is not installed" "sudo apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$("$python" --version) is older than 3.10" "PYTHON=/path/to/a/newer/python $0"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        need_packages python3-venv
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            die "$python cannot make virtual environments" "install the venv module of $python, then run this again"
    fi
    printf '%s' "$python"
}

# Whether .venv is whole: an upgrade of the system's Python takes the Python or its packages away from it.
venv_runs() {
    .venv/bin/python -c 'import pip' 2>/dev/null
}

# Make .venv and install the package with the extras named, unless that has been done for this very pyproject.toml,
# requirement on torch and place (an editable installation names its place), and its Python still runs.
ensure_venv() { # EXTRAS, comma-separated
    local extras="$1" want extra python stale=
    want="$({ cat pyproject.toml; printf '%s %s' "$TORCH" "$PWD"; } | sha256sum | cut -d ' ' -f 1)"
    for extra in ${extras//,/ }; do
        [ "$(cat ".venv/.installed-$extra" 2>/dev/null)" = "$want" ] || stale=yes
    done
    [ -z "$stale" ] && venv_runs && return 0
    python="$(choose_python)" || exit
    (
        flock 9 # two scripts started at once take turns
        if ! venv_runs; then # absent, half made, or its Python is gone
            say "making .venv with $("$python" --version)"
            "$python" -m venv --clear .venv
        fi
        say "installing lpcnet-edge[$extras] into .venv (minutes the first time, seconds later)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "$TORCH" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" >&2
        for extra in ${extras//,/ }; do
            printf '%s' "$want" >".venv/.installed-$extra"
        done
    ) 9<scripts/lib.sh
}
