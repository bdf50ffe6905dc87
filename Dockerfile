# docker build -t kd-benchmark .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" kd-benchmark bench pair=wrn40_2-wrn16_2
# With torch's CPU build, 3.2 GB smaller: docker build --build-arg TORCH_INDEX=<the index that pytorch.org names for CPU> …
FROM python:3.11-slim
ARG TORCH_INDEX=
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN python -m pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch torchvision
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
