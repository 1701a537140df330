# One image, two commands: `api` (default) and `worker`. Non-root; data under /data.
FROM node:24-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --omit=optional

FROM node:24-bookworm-slim
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8080 DATA_DIR=/data
WORKDIR /app
RUN mkdir /data && chown node:node /data
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
