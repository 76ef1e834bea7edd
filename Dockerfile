# The agent on Debian 12, without compiler and pip in the final image.
#   docker build -t flowstream .
# The build compares the embedded objects with the digests of the C sources. With CAP_BPF,
#   docker build --build-arg OBJECT_CHECK=--check …
# recompiles them and compares them octet by octet (bcc creates maps while it compiles).

# By digest: the tag alone could be given to another image.
ARG BASE=debian:bookworm-20260918-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251

FROM $BASE AS system
# Python's compiled modules are below: those that are used.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libbpf1 libpcap0.8 libseccomp2 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/debconf/* /var/lib/dpkg/*-old /usr/share/doc/* \
 && rm -rf /usr/lib/python3*/lib2to3 /usr/lib/python3*/pydoc_data /usr/lib/python3*/distutils \
 && find /usr/lib/python3* -name __pycache__ -prune -exec rm -rf {} +

FROM system AS build
ARG OBJECT_CHECK=--check-digest
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
        binutils python3-bpfcc python3-pip python3-setuptools python3-venv python3-wheel \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --without-pip /opt/flowstream
COPY requirements.txt /src/
# Exactly the locked files, verified by digest; then without tests, what only compilers read, and
# symbols. (numpy's libraries were changed after linking: stripping breaks them.)
RUN python3 -m pip --python /opt/flowstream/bin/python install \
        --no-cache-dir --no-compile --no-deps --only-binary :all: --require-hashes \
        -r /src/requirements.txt \
 && cd /opt/flowstream/lib/python3*/site-packages \
 && find . -type d -name tests -prune -exec rm -rf {} + \
 && rm -rf numpy/distutils numpy/f2py numpy/_core/_simd.* numpy/_core/_*_tests.* \
 && find . -type f -regex '.*\.\(pyx\|pxd\|pyi\|c\|cpp\|h\|a\)' -delete \
 && find . -name '*.so' -not -path './numpy*' -exec strip --strip-unneeded {} +
RUN python3 -m venv --without-pip /opt/sbom
COPY requirements-release.txt /src/
RUN python3 -m pip --python /opt/sbom/bin/python install --no-cache-dir --no-compile --no-deps \
        --only-binary :all: --require-hashes -r /src/requirements-release.txt
COPY . /src/
WORKDIR /src
RUN /opt/flowstream/bin/python -m tools.generate $OBJECT_CHECK
RUN python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python3 -m pip --python /opt/flowstream/bin/python install \
        --no-cache-dir --no-compile --no-deps --no-index /wheels/*.whl
# What flowstream imports is compiled here, for a fast start; the rest of the libraries is not.
RUN cd / && PYTHONPYCACHEPREFIX=/opt/flowstream/compiled /opt/flowstream/bin/python \
        /src/tools/import_all.py
COPY --from=system /var/lib/dpkg /image/dpkg
RUN PYTHONPATH=/src /opt/sbom/bin/python -m tools.sbom --dpkg /image/dpkg requirements.txt \
        >/opt/flowstream/sbom.cdx.json

FROM system
LABEL org.opencontainers.image.title="flowstream" \
      org.opencontainers.image.description="Host flow telemetry: XDP flow records to Apache Kafka" \
      org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"
COPY --from=build /opt/flowstream /opt/flowstream
ENV PATH=/opt/flowstream/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/flowstream/compiled
# For an agent with --metrics 127.0.0.1:9435; others are given another check, or none.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["flowstream", "health", "127.0.0.1:9435"]
# Starts as root because attaching needs capabilities. The agent drops all of them and becomes
# nobody, a user that nothing else in the container has; its attacher keeps those for attaching.
# compose/compose.yaml lists them.
ENTRYPOINT ["flowstream"]
CMD ["--help"]
