# Made by envs/generate.py from requirements.txt; do not edit.
# docker build --file envs/learning.dockerfile --tag histomake-learning envs
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY learning.post-deploy.sh /opt/histomake/packages.sh
RUN PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore sh /opt/histomake/packages.sh && python -m pip check
ENV PYTHONNOUSERSITE=1
RUN useradd --create-home histomake
USER histomake
WORKDIR /home/histomake
ENTRYPOINT ["python"]
