# docker build -t kd-benchmark .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" kd-benchmark bench pair=wrn40_2-wrn16_2
# Without a GPU, put a RUN with the command that pytorch.org names for torch's CPU build before the first: 3.2 GB less.
FROM python:3.11-slim
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN python -m pip install --no-cache-dir -c constraints.txt torch torchvision
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
