# One image, two commands: `api` (default) and `worker`. Non-root; data under /data. GPUs are given to it when it is
# run: see README, Container.
FROM node:24-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# The image has its own Node; the pinned one for machines with an older Node is left out, and so are Dawn's builds for
# other systems.
RUN npm ci --omit=dev \
  && rm -rf node_modules/node-linux-* node_modules/.bin/node node_modules/webgpu/dist/win32-* node_modules/webgpu/dist/darwin-*

FROM node:24-bookworm-slim
# NVIDIA's runtime puts its driver into the container by these; without `graphics` there is no Vulkan.
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8080 DATA_DIR=/data \
  NODE_COMPILE_CACHE=/tmp/node-compiled \
  NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,graphics,utility
WORKDIR /app
# The `native` backend takes its matrix products from OpenBLAS, those of precision
# bf16 from oneDNN. `webgpu` needs the Vulkan loader, libraries that
# NVIDIA's driver is linked with, and for AMD, Intel and software Mesa's drivers: those of the backports, since the
# release's own offer WebGPU no adapter. Their source is the image's first with another suite.
RUN cd /etc/apt/sources.list.d && sed '/^$/q; s/^Suites:.*/Suites: bookworm-backports/' debian.sources > backports.sources \
  && apt-get update && apt-get install -y --no-install-recommends libopenblas0-pthread libdnnl2 libxext6 libegl1 \
  && apt-get install -y --no-install-recommends -t bookworm-backports libvulkan1 mesa-vulkan-drivers \
  && rm -rf /var/lib/apt/lists/* && mkdir /data && chown node:node /data
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
