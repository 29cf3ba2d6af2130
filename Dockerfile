# moceir serve, on a CPU: docker build -t moceir . && docker run -p 8000:8000 moceir
# Restoring files: docker run --rm -v "$PWD:/pictures" --user "$(id -u):$(id -g)" moceir restore in.jpg -o out.png
FROM python:3.11-slim-bookworm AS build

# Where PyTorch's builds for CPUs are; without it pip takes those for CUDA, which are several times as large.
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/moceir
ENV PATH=/opt/moceir/bin:$PATH
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY moceir moceir
COPY hydra_plugins hydra_plugins
COPY conf conf
RUN pip install --constraint constraints.txt '.[demo]'

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 moceir
COPY --from=build /opt/moceir /opt/moceir
ENV PATH=/opt/moceir/bin:$PATH PYTHONUNBUFFERED=1
USER 1000
WORKDIR /pictures
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["moceir"]
CMD ["serve", "--host", "0.0.0.0"]
