# docker build -t kd-benchmark .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" kd-benchmark bench pair=wrn40_2-wrn16_2
# With CUDA: docker build --build-arg TORCH_INDEX=https://pypi.org/simple -t kd-benchmark . and docker run --gpus all …
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN python -m pip install --no-cache-dir -c constraints.txt --index-url $TORCH_INDEX torch torchvision
COPY benchmark benchmark
COPY methods methods
COPY analysis analysis
COPY conf conf
RUN python -m pip install --no-cache-dir -c constraints.txt .
# caches of matplotlib and torch, for a user whom the image does not know
ENV HOME=/tmp USER=kd
WORKDIR /work
ENTRYPOINT ["kd-benchmark"]
CMD ["--help"]
