# Builds a minimal image of the gateway. The image has no shell and no package manager, and does not run as root.
#   docker build -t gateway .                          with Python from the official slim Python image
#   docker build -t gateway --build-arg BASE=debian .  with Debian's own Python; BASE is an image based on Debian
#   docker build -t gateway --target vpn .             a larger image, which also contains VPN clients
# `make image` sets SOURCE_DATE_EPOCH to the commit's time, so that builds of one commit are identical.
# The following digest identifies the multi-platform index of the base image; tools/pin-base.sh updates the digest.
ARG BASE=python:3.13.15-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285

FROM ${BASE} AS build
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update -qq && \
    apt-get install -qq -y --no-install-recommends ca-certificates gcc libc6-dev libssl-dev \
      $(command -v python3 >/dev/null || echo python3) \
      $(python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv) \
      $(python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null \
        || echo python3-dev) >/dev/null && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv /build && /build/bin/pip install -q --require-hashes -r requirements-build.lock && \
    python3 -m venv --without-pip /opt/gateway && \
    /build/bin/pip --python /opt/gateway/bin/python install -q --no-compile --require-hashes --only-binary :all: \
      -r requirements.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY gateway gateway
COPY configs/demo.yaml configs/
RUN /build/bin/pip wheel -q --no-deps --no-build-isolation -w /wheels . && \
    /build/bin/pip --python /opt/gateway/bin/python install -q --no-deps --no-compile --no-index /wheels/*.whl && \
    /opt/gateway/bin/python -IB -c 'import gateway._dataplane.engine' && \
    /build/bin/cyclonedx-py environment --output-reproducible -o packages.cdx.json /opt/gateway
COPY tools/rootfs.py tools/sbom.py tools/
# The default is a fixed time, so that the image does not contain the time of the build.
ARG SOURCE_DATE_EPOCH=0
RUN python3 tools/rootfs.py /rootfs /opt/gateway && \
    /build/bin/python tools/sbom.py /rootfs packages.cdx.json --with-files && \
    find /rootfs -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

# The image with VPN clients: the base image and the Python environment /opt/gateway. The gateway runs as root, with the
# capabilities that `docker run` grants.
FROM ${BASE} AS vpn
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="gateway-vpn" \
      org.opencontainers.image.description="Keeps tunnels to remote databases and storage up; with the VPN clients" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN apt-get update -qq && \
    apt-get install -qq -y --no-install-recommends ca-certificates openvpn wireguard-go wireguard-tools \
      $(command -v python3 >/dev/null || echo python3) >/dev/null && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/gateway /opt/gateway
RUN --mount=type=bind,from=build,source=/build,target=/build --mount=type=bind,from=build,source=/src,target=/src \
    /build/bin/python /src/tools/sbom.py / /src/packages.cdx.json && \
    mkdir -p /var/lib/gateway /run/gateway /run/wireguard
ENV PATH=/opt/gateway/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin PYTHONUNBUFFERED=1
EXPOSE 9090
VOLUME ["/var/lib/gateway", "/run/gateway", "/run/wireguard"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --start-interval=1s CMD ["gateway", "healthcheck"]
ENTRYPOINT ["gateway"]
CMD ["run"]

FROM scratch AS gateway
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="gateway" \
      org.opencontainers.image.description="Keeps tunnels to remote databases and storage up, checked and measured" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /rootfs /
ENV PATH=/opt/gateway/bin PYTHONUNBUFFERED=1 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 10001:10001
EXPOSE 9090
VOLUME ["/var/lib/gateway", "/run/gateway"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --start-interval=1s CMD ["gateway", "healthcheck"]
ENTRYPOINT ["gateway"]
CMD ["run"]
