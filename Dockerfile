# faitheir serve in a container: docker build -t faitheir . && docker run --rm --read-only -p 127.0.0.1:8600:8600 ...
# (docs/tasks/serve.md). Where pip's index has torch for the CPU under another address: --build-arg PIP_INDEX_URL=...
FROM python:3.12-slim-bookworm AS build

ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /source
COPY constraints.txt pyproject.toml hatch_build.py README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/faitheir \
    && /opt/faitheir/bin/pip install -c constraints.txt ".[serve]"

FROM python:3.12-slim-bookworm

COPY --from=build /opt/faitheir /opt/faitheir
RUN useradd --system --no-create-home --uid 10001 faitheir
USER 10001

# Nothing is written: no bytecode, no caches of libraries.
ENV PATH=/opt/faitheir/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HOME=/nonexistent
EXPOSE 8600
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8600/v1/ready', timeout=4)"]
# The token that this address needs comes from FAITHEIR_TOKEN.
ENTRYPOINT ["faitheir", "serve", "--host", "0.0.0.0"]
