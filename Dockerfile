# The image that cluster/kuberay-job.yaml starts. Never built so far; `make install` and `irl-vla --help` ran by hand in
# a clean copy of the sources with Python 3.11. Which torch comes in, for CPU or with CUDA, depends on the package index
# that pip asks: `python -c "import torch; print(torch.version.cuda)"` tells.
FROM python:3.11-slim
ENV RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
# wget: KubeRay asks with it whether a pod is healthy.
RUN apt-get update \
    && apt-get install --no-install-recommends -y make wget \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/irl-vla
COPY . .
RUN make install
ENV PATH=/opt/irl-vla/.venv/bin:$PATH
CMD ["irl-vla", "--help"]
