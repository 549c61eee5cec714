"""Defines the script that starts a Docker engine in a virtual machine."""

ENGINE_PROGRAMS = ("dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker")


ENGINE = r"""
mkdir -p /run /var/run /var/lib /image/bin
mount -t cgroup2 none /sys/fs/cgroup
cp /bin/busybox /image/bin/
for applet in sh cat dd sha256sum sleep usleep seq; do ln -s busybox /image/bin/$applet; done
# A root file system in memory cannot be pivoted from; no network is needed, and a bridge needs more modules.
start_engine() {
  DOCKER_RAMDISK=1 dockerd -H unix:///var/run/docker.sock -H tcp://0.0.0.0:2375 --tls=false --storage-driver vfs \
    --userland-proxy=false --bridge none --iptables=false --ip6tables=false >>/dockerd.log 2>&1 &
}
start_engine
i=0; until grep -q "API listen on .*docker.sock" /dockerd.log; do
  sleep 1; i=$((i+1)); [ $i = 120 ] && cat /dockerd.log
  # If containerd needs more than 15 s, for example on a busy machine, dockerd exits. As systemd does, start it again.
  if [ $i -lt 300 ] && ! pidof dockerd >/dev/null; then echo ENGINE-AGAIN; tail -n 3 /dockerd.log; start_engine; fi
done
echo ENGINE-STARTED $(sed -n 's/^time="\([^"]*\)".*Daemon has completed initialization.*/\1/p' /dockerd.log)
docker image inspect box >/dev/null 2>&1 || tar -C /image -c . | docker import - box >/dev/null || exit
echo ENGINE-READY
run() { docker run --network none "$@"; }
"""
"""A shell script that starts a Docker engine and creates the image `box`. The script also defines a shell function
`run`, which runs a container. The script prints ENGINE-STARTED with the time at which dockerd completed its
initialization (RFC 3339). When the image exists, the script prints ENGINE-READY."""
