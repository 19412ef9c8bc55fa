# CPU image; for GPUs start from an image with the CUDA runtime and leave the rest as it is (torch from PyPI brings CUDA).
FROM python:3.11-slim
ENV RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
RUN apt-get update \
    && apt-get install --no-install-recommends -y git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/irl-vla
COPY . .
RUN make install
ENV PATH=/opt/irl-vla/.venv/bin:$PATH
CMD ["irl-vla", "--help"]
