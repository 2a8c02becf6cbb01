# syntax=docker/dockerfile:1
# Two images of one source: `api` (api, relay, migrate) holds no torch, `worker` holds everything.
FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/srv/secateur/constraints.txt
WORKDIR /srv/secateur
# The first process of a container has to collect what ends without a parent, as each job's runner leaves it.
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/* \
    && pip install "pip>=25.1" \
    && useradd --system --create-home --uid 10001 secateur \
    && install -d -o secateur -g secateur /var/lib/secateur
ENV SECATEUR_DATA_DIR=/var/lib/secateur SECATEUR_PULSE_DIR=/tmp
VOLUME /var/lib/secateur
# As a subreaper (-s), since an init may stand before it.
ENTRYPOINT ["tini", "-s", "--"]
COPY pyproject.toml constraints.txt README.md LICENSE ./

FROM base AS worker
# The default wheel of torch brings gigabytes of CUDA; arguments for pip can name another one.
ARG TORCH_INDEX_ARGS=""
COPY app app
COPY worker worker
COPY migrations migrations
RUN pip install ${TORCH_INDEX_ARGS} .
# Programs here start out of this folder, in which they may not write: what is not compiled now, each compiles.
RUN python -m compileall -q app worker
USER secateur
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s \
    CMD ["python", "-m", "app.health", "worker"]
CMD ["python", "-m", "worker"]

FROM base AS api
# The group is what the API imports; a test holds it to that.
RUN pip install --group api
COPY app app
COPY worker worker
COPY migrations migrations
RUN pip install --no-deps .
RUN python -m compileall -q app worker
USER secateur
ENV SECATEUR_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s \
    CMD ["python", "-m", "app.health", "api"]
CMD ["secateur", "api"]
