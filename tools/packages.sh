#!/bin/sh
# Installs the Debian packages that a target of the Makefile needs and that are missing. A user other than root only
# gets the names of the packages.
# Usage: tools/packages.sh venv PYTHON | demo | test | bench | native
set -eu

demo="openssh-server mariadb-server postgresql nfs-ganesha nfs-ganesha-vfs libnfs-utils"
test="$demo openssh-client iproute2 iptables prometheus haproxy docker.io docker-cli busybox-static
cpio kmod gcc libc6-dev samba smbclient openvpn wireguard-go wireguard-tools tcpdump microsocks tinyproxy
mmdebstrap slirp4netns docker-buildx docker-compose docker-registry dropbear-bin golang-go golang-golang-x-crypto-dev
podman netavark aardvark-dns nftables catatonit runc uidmap passt patch socat openssl redis-server patroni etcd-server
ca-certificates python3-etcd python3-dnspython chromium chromium-driver fonts-dejavu-core"

case "$1" in
    venv) wanted="gcc libc6-dev libssl-dev"  # the data plane in C; the package works without it
          "$2" -c 'import ensurepip' 2>/dev/null || wanted="$wanted python3-venv"
          headers="import os, sysconfig; exit(not os.path.exists(sysconfig.get_path('include') + '/Python.h'))"
          "$2" -c "$headers" || wanted="$wanted python3-dev" ;;
    demo) wanted=$demo ;;
    test) wanted=$test
          # The kernel of the tests with NFS mounts. Debian builds it only for x86 processors.
          [ "$(dpkg --print-architecture 2>/dev/null)" != amd64 ] || wanted="$wanted user-mode-linux" ;;
    bench) wanted="gcc libc6-dev openssh-server openssh-client postgresql haproxy" ;;
    native) wanted="gcc libc6-dev libssl-dev clang libclang-rt-dev clang-tidy valgrind" ;;
    *) echo "usage: $0 venv PYTHON | demo | test | bench | native" >&2; exit 2 ;;
esac

missing=""
for package in $wanted; do
    case "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" in
        installed) ;;
        *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "This machine has no apt-get: install the equivalents of$missing manually." >&2
elif [ "$(id -u)" -ne 0 ]; then
    echo "Not running as root, so these packages are not installed:$missing" >&2
    echo "To install them: sudo apt-get install$missing" >&2
else
    echo "Installing$missing" >&2
    # Debian must not start the servers after installation, because the demo and the tests start servers themselves.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod 755 $policy
        trap 'rm -f $policy' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq -o Acquire::Retries=3
    # shellcheck disable=SC2086 # the variable is a list of words
    apt-get install -qq -y --no-install-recommends -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 $missing >/dev/null
    exit 0
fi
[ "$1" != venv ] || "$2" -c 'import ensurepip'
