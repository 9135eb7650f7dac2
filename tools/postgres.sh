#!/bin/sh
# See to it that there are a PostgreSQL and a PgBouncer, which some tests start for themselves; say so if there can't be
# one, and go on: those tests are skipped then, or fail where CI runs. No server is started here, and no database made.
# postgres.sh
set -eu

say() { printf 'penstock: %s\n' "$*" >&2; }
is_there() {
    command -v initdb >/dev/null 2>&1 && return
    for program in /usr/lib/postgresql/*/bin/initdb; do [ -x "$program" ] && return; done
    return 1
}
is_pooler_there() { PATH="$PATH:/usr/sbin" command -v pgbouncer >/dev/null 2>&1; }
missing() {
    is_there || printf 'PostgreSQL'
    is_pooler_there || { is_there && printf 'PgBouncer' || printf ' and PgBouncer'; }
}
sorry() { say "there is no $(missing) here, and $1: tests that need one can't run (Debian: apt-get install postgresql pgbouncer)."; exit 0; }

is_there && is_pooler_there && exit
[ "$(id -u)" = 0 ] || sorry "only root can install it"
command -v apt-get >/dev/null 2>&1 || sorry "no apt-get to install it with"

export DEBIAN_FRONTEND=noninteractive
end=$(($(date +%s) + 300)) # for all of it
apt() {
    left=$((end - $(date +%s)))
    [ "$left" -gt 0 ] && timeout "$left" apt-get -q -y -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 \
        -o DPkg::Lock::Timeout=60 "$@" </dev/null >/dev/null 2>&1
}

# Debian's packages would make a cluster, and have the machine start it and the pooler, now and whenever it boots: asked
# not to, for as long as this takes.
asked=/etc/postgresql-common/createcluster.conf
policy=/usr/sbin/policy-rc.d
restore() {
    [ ! -e "$asked.before-penstock" ] || mv "$asked.before-penstock" "$asked"
    [ -z "${ours:-}" ] || rm -f "$policy"
}
trap restore EXIT
install_server() {
    apt install --no-install-recommends postgresql-common || return
    [ -e "$asked.before-penstock" ] || cp -p "$asked" "$asked.before-penstock"
    echo 'create_main_cluster = false' >>"$asked"
    apt install --no-install-recommends postgresql
}
install_pooler() {
    if [ ! -e "$policy" ]; then
        ours=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    apt install --no-install-recommends pgbouncer || return
    systemctl disable pgbouncer >/dev/null 2>&1 || true
}
install() {
    is_there || install_server || return
    is_pooler_there || install_pooler
}

say "installing $(missing) for the tests (apt-get)"
install || { apt update && install; } || true
is_there && is_pooler_there || sorry "apt-get could not install it"
