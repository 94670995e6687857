# Two images: `api`, for every process but the workers, without torch; and `worker`, with torch and diffusers.
#
#   docker build --target api --tag pixeltoll-api .
#   docker build --target worker --tag pixeltoll-worker .          (torch with CUDA, as PyPI has it)
#   docker build --target worker --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .

FROM python:3.13.14-slim-trixie AS base
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A volume takes over who owns the folder that it is put on.
RUN groupadd --gid 10001 pixeltoll \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin pixeltoll \
    && install --directory --owner pixeltoll --group pixeltoll --mode 0750 /cache /data /keys /models
WORKDIR /data

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ledger ledger
COPY tasks tasks
COPY api api
COPY pixeltoll pixeltoll
COPY migrations migrations

FROM build AS build-api
RUN pip install --constraint constraints.txt '.[flower,otel]'

FROM build AS build-worker
# Where else torch is looked for. A build with a local version, such as +cpu, wins over the plain one.
ARG TORCH_INDEX=
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[worker,otel]'

FROM base AS api
COPY --from=build-api /venv /venv
USER 10001:10001
CMD ["pixeltoll", "api", "--host", "0.0.0.0"]

FROM base AS worker
ENV HF_HOME=/cache/huggingface
COPY --from=build-worker /venv /venv
USER 10001:10001
CMD ["pixeltoll", "worker"]
