#!/bin/sh
# Writes the digest of the base image's tag into the Dockerfile. Usage: tools/pin-base.sh [TAG | --check]
# Without an argument, uses the tag that is in the Dockerfile. TAG is another tag, such as python:3.13.16-slim-trixie.
# With --check, the script changes no file, and fails if the tag has a new digest, which means a newer base image.
# The script sends a request to the registry of the base image.
set -eu
cd "$(dirname "$0")/.."
pinned=$(sed -n 's/^ARG BASE=//p' Dockerfile)
tag=${pinned%@*}
case "${1:-}" in "" | --check) ;; *) tag=$1 ;; esac
digest=$(docker buildx imagetools inspect "$tag" | sed -n 's/^Digest: *//p')
case "$digest" in
    sha256:????????????????????????????????????????????????????????????????) ;;
    *) echo "the registry returned no digest for $tag" >&2; exit 1 ;;
esac
if [ "${1:-}" = --check ]; then
    [ "$pinned" = "$tag@$digest" ] && exit 0
    echo "$tag is now $digest, but the Dockerfile has ${pinned#*@}: run tools/pin-base.sh and the tests" >&2
    exit 1
fi
sed -i "s|^ARG BASE=.*|ARG BASE=$tag@$digest|" Dockerfile
echo "$tag@$digest"
