# For a GPU host: docker build -t l2l . && docker run --gpus all -p 127.0.0.1:7860:7860 -v l2l:/data l2l
# The PyTorch wheels bring their own CUDA libraries; the host needs only its driver.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    L2L_DATA=/data/runs HF_HOME=/data/models

WORKDIR /studio
COPY requirements.txt .
RUN pip install -r requirements.txt
COPY app.py pyproject.toml README.md LICENSE ./
COPY l2l_core l2l_core
COPY ui ui
COPY assets assets
COPY recipes/paper recipes/paper
RUN pip install --no-deps -e . \
    && useradd --create-home --uid 10001 studio \
    && mkdir /data && chown studio /data

USER studio
VOLUME /data
EXPOSE 7860
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/healthz')"]
# The container's port is published by whoever runs it; inside it listens on every interface.
CMD ["python", "app.py", "--host", "0.0.0.0"]
