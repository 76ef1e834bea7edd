# The agent on Debian 12, without compiler and pip in the final image.
#   docker build -t flowstream .
# The build compares the embedded objects with the digests of the C sources. With CAP_BPF,
#   docker build --build-arg OBJECT_CHECK=--check …
# recompiles them and compares them octet by octet (bcc creates maps while it compiles).

# By digest: the tag alone could be given to another image.
ARG BASE=debian:bookworm-20260918-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251

FROM $BASE AS build
ARG OBJECT_CHECK=--check-digest
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
        libbpf1 python3 python3-bpfcc python3-pip python3-setuptools python3-venv python3-wheel \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --without-pip /opt/flowstream
COPY requirements.txt /src/
# Exactly the locked files, verified by digest.
RUN python3 -m pip --python /opt/flowstream/bin/python install \
        --no-cache-dir --no-deps --only-binary :all: --require-hashes -r /src/requirements.txt \
 && find /opt/flowstream -type d -name tests -prune -exec rm -rf {} +
COPY . /src/
WORKDIR /src
RUN /opt/flowstream/bin/python -m tools.generate $OBJECT_CHECK
RUN python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python3 -m pip --python /opt/flowstream/bin/python install \
        --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM $BASE
LABEL org.opencontainers.image.title="flowstream" \
      org.opencontainers.image.description="Host flow telemetry: XDP flow records to Apache Kafka" \
      org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"
RUN apt-get update \
 && apt-get install -y --no-install-recommends libbpf1 libpcap0.8 libseccomp2 python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/flowstream /opt/flowstream
ENV PATH=/opt/flowstream/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Starts as root because attaching needs capabilities. The agent drops all of them and becomes
# nobody, a user that nothing else in the container has; its attacher keeps those for attaching.
# compose/compose.yaml lists them.
ENTRYPOINT ["flowstream"]
CMD ["--help"]
