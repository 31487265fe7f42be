# One image for web, fleet and Flower. Not built by this project's tests: see the README, "What was run, and what was not".
FROM python:3.12-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends git ca-certificates tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 forgepool

WORKDIR /app
COPY requirements.lock pyproject.toml README.md celeryconfig.py ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pool pool
COPY tasks tasks
COPY webapp webapp
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# Agents run with the rights of this user. Add your agent's program in an image of your own: FROM forgepool.
USER forgepool
ENV FORGEPOOL_CONFIG=/etc/forgepool/forgepool.toml FORGEPOOL_STATE_DIR=/var/lib/forgepool
ENTRYPOINT ["tini", "--", "forgepool"]
CMD ["--help"]
