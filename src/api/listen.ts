/**
 * A running service: everything built once, the app on a TCP port, and a stop that loses nothing. Stopping means, in
 * this order: no new connections and requests, open streams and held answers end, requests in flight finish, model
 * processes end, running jobs reach a resume point, the store closes. Each step has a deadline.
 */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { getRequestListener, type HttpBindings } from "@hono/node-server";
import { CodedError } from "../ops/errors.ts";
import type { Backend } from "../engine/backends/backend.ts";
import { createServices, type Services, type ServicesOptions } from "../engine/services.ts";
import { createModelPool } from "../engine/serving/pool.ts";
import { createPoolMetrics } from "../engine/serving/poolMetrics.ts";
import type { Settings } from "../engine/settings.ts";
import { createApp, type AppOptions } from "./app.ts";
import type { ApiDeps } from "./deps.ts";
import { isLoopback } from "./middleware/auth.ts";
import { createUploadStore } from "./uploadStore.ts";

/** Connections without a byte for so long are closed: longer than any answer is held, ms. */
const idleTimeoutMs = 330_000;
const keepAliveMs = 65_000;
/** Requests in flight have so long to finish when the server stops, ms. */
const drainTimeoutMs = 10_000;
const maxConnections = 10_000;

export interface RunningServer {
  /** Where it listens: `http://127.0.0.1:8080`. */
  readonly url: string;
  readonly services: Services;
  /** Stops in order; safe to call twice. */
  close(): Promise<void>;
}

export interface ListenOptions extends AppOptions {
  readonly services?: Omit<ServicesOptions, "role">;
}

/** @throws forbidden when the address is not loopback and there is no API key; what `createServices` throws */
export async function startServer(settings: Settings, options: ListenOptions = {}): Promise<RunningServer> {
  const services = await createServices(settings, { role: "server", ...options.services });
  const stack = new AsyncDisposableStack();
  stack.defer(() => services.close());
  try {
    await assertProtected(services);
    const closing = new AbortController();
    const deps = createApiDeps(services, closing.signal);
    stack.defer(() => deps.pool.close());
    const app = createApp(deps, options);
    const listener = getRequestListener((request, env) => app.fetch(request, env as HttpBindings));
    const server = createServer(
      { maxHeaderSize: settings.maxHeaderBytes, headersTimeout: settings.requestTimeoutMs, requestTimeout: 0 },
      (incoming, outgoing) => void listener(incoming, outgoing),
    );
    server.maxConnections = maxConnections;
    server.keepAliveTimeout = keepAliveMs;
    server.setTimeout(idleTimeoutMs);
    stack.defer(() => drain(server, closing));
    const url = await listen(server, settings);
    const everything = stack.move();
    let closed: Promise<void> | null = null;
    return { url, services, close: () => (closed ??= everything.disposeAsync()) };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** @returns what the HTTP layer needs of the services. */
export function createApiDeps(services: Services, closing: AbortSignal): ApiDeps {
  const { settings, log, metrics, store, queue } = services;
  const pool = createModelPool({
    backends: settings.backends,
    limits: {
      maxModels: settings.servingMaxModels,
      idleTimeoutMs: settings.servingIdleMs,
      maxQueued: settings.servingQueueLength,
      maxMemoryBytes: settings.servingMemoryBytes,
      maxActive: settings.servingMaxBatch,
      keepPrompts: settings.servingPrefixCache,
      cacheDtype: settings.servingCacheDtype,
    },
    metrics: createPoolMetrics(metrics.registry),
    onFailure: (checkpoint, error) => log.warn({ checkpoint, err: error }, "model process failed"),
  });
  const uploads = createUploadStore(settings.uploadsDir, settings.maxUploadBytes);
  const { computeKernels: variant, computeThreads: threads, webgpu } = settings;
  let listed: Promise<readonly Backend[]> | null = null;
  const backends = () =>
    (listed ??= import("../engine/backends/index.ts").then((index) =>
      index.listBackends({ variant, threads, webgpu }),
    ));
  return { settings, log, metrics, store, queue, pool, uploads, backends, closing };
}

/** Whoever can be reached from other machines must ask for keys. */
async function assertProtected({ settings, store }: Services): Promise<void> {
  if (isLoopback(settings.host) || (await store.keys.count()) > 0) return;
  const message =
    `HOST is ${settings.host}, which other machines can reach, and there is no API key; make one first: ` +
    "npm run keys -- create --name NAME --scopes read,write,admin (or listen on 127.0.0.1)";
  throw new CodedError("forbidden", message);
}

async function listen(server: Server, { host, port }: Settings): Promise<string> {
  const bare = host.replace(/^\[|\]$/g, "");
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) => {
      const message = `cannot listen on ${host} port ${port}: ${error.message}`;
      reject(new CodedError("unavailable", message, { cause: error }));
    });
    server.listen(port, bare, resolve);
  });
  const address = server.address() as AddressInfo;
  return `http://${bare.includes(":") ? `[${bare}]` : bare}:${address.port}`;
}

async function drain(server: Server, closing: AbortController): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  closing.abort(new CodedError("unavailable", "the server is stopping"));
  server.closeIdleConnections();
  const late = setTimeout(() => server.closeAllConnections(), drainTimeoutMs);
  // a connection that becomes idle while others finish must not hold the server up
  const sweep = setInterval(() => server.closeIdleConnections(), 100);
  await closed;
  clearTimeout(late);
  clearInterval(sweep);
}
