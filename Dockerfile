# syntax=docker/dockerfile:1
FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/secateur
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY worker worker
COPY migrations migrations
# A CPU build of torch, unless the build is told otherwise: the default wheel brings gigabytes of CUDA.
ARG TORCH_INDEX_ARGS=""
RUN PIP_CONSTRAINT=constraints.txt pip install ${TORCH_INDEX_ARGS} . \
    && useradd --system --create-home --uid 10001 secateur \
    && install -d -o secateur -g secateur /var/lib/secateur
USER secateur
ENV SECATEUR_DATA_DIR=/var/lib/secateur
VOLUME /var/lib/secateur

FROM base AS worker
CMD ["python", "-m", "worker"]

FROM base AS api
ENV SECATEUR_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["secateur", "api"]
