# One image, two commands: `api` (default) and `worker`. Non-root; data under /data.
FROM node:24-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# The image has its own Node; the pinned one for machines with an older Node is left out.
RUN npm ci --omit=dev && rm -rf node_modules/node-linux-* node_modules/.bin/node

FROM node:24-bookworm-slim
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8080 DATA_DIR=/data
WORKDIR /app
# The `native` backend takes its matrix products from OpenBLAS.
RUN apt-get update && apt-get install -y --no-install-recommends libopenblas0-pthread && rm -rf /var/lib/apt/lists/* \
  && mkdir /data && chown node:node /data
COPY --from=packages /app/node_modules ./node_modules
COPY package.json openapi.yaml ./
COPY migrations ./migrations
COPY src ./src
COPY docker/entrypoint.sh /usr/local/bin/cambium
COPY docker/healthcheck.sh /usr/local/bin/cambium-healthcheck
USER node
VOLUME /data
EXPOSE 8080
# The api listens beyond loopback here, so it refuses to start until a key exists: see README, Keys.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD cambium-healthcheck
ENTRYPOINT ["cambium"]
CMD ["api"]
