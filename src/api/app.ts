/**
 * The HTTP service as one Hono app: a route for each operation of the contract, and around all of them a request
 * id, a place among the requests in flight, a log line, metrics, and problems for whatever is thrown. It listens
 * nowhere: server.ts does, and tests call `app.request()`.
 */
import { Hono, type Context } from "hono";
import { CodedError } from "../ops/errors.ts";
import { loadContract, methodsOf, operationsAt, routePath, type Contract, type Operation } from "./contract.ts";
import type { ApiDeps } from "./deps.ts";
import { problemResponse } from "./errors.ts";
import { createAuth, isLoopback } from "./middleware/auth.ts";
import { createGate, type Gate } from "./middleware/limits.ts";
import { countRequest, logRequest } from "./middleware/log.ts";
import { createRateLimiter } from "./middleware/rateLimit.ts";
import { requestIdOf } from "./middleware/requestId.ts";
import { admit, serve, type AnyHandler, type Arrival, type PipelineDeps } from "./pipeline.ts";
import { createHandlers } from "./routes/index.ts";
import type { ErrorDialect } from "./routes/inferenceError.ts";
import { errorDialectOf } from "./routes/inferenceError.ts";
import { createValidator, type Validator } from "./validate.ts";

export interface AppOptions {
  /** Judge answers by the contract too, and hand over what is wrong with one; for tests. */
  readonly onBrokenPromise?: (error: Error) => void;
}

/** What travels with one request. */
interface Variables {
  arrival: Arrival;
  operation?: Operation;
}

type Env = { Variables: Variables; Bindings: { incoming?: { socket?: { remoteAddress?: string } } } };

/** @returns the app; it starts nothing. */
export function createApp(deps: ApiDeps, options: AppOptions = {}): Hono<Env> {
  const { settings } = deps;
  const contract = loadContract();
  const validator = createValidator(contract);
  const pipeline: PipelineDeps = {
    auth: createAuth(deps.store.keys, isLoopback(settings.host)),
    limiter: createRateLimiter(settings.rateLimitPerMinute),
    validator,
    idempotency: deps.store.idempotency,
    limits: { maxBytes: settings.maxBodyBytes, timeoutMs: settings.requestTimeoutMs },
  };
  const handlers = createHandlers({ ...deps, contract, auth: pipeline.auth });
  const app = new Hono<Env>();
  observe(app, { ...deps, contract, validator }, options);
  for (const operation of contract.operations) {
    // Hono hands HEAD to the GET route; where the contract has a HEAD of its own, that one serves it
    if (operation.method === "head") continue;
    const head = contract.operations.find(({ method, path }) => method === "head" && path === operation.path);
    app.on(operation.method.toUpperCase(), routePath(operation), (c) => {
      const meant = operation.method === "get" && c.req.raw.method === "HEAD" && head ? head : operation;
      c.set("operation", meant);
      const handler = handlers[meant.id] as unknown as AnyHandler;
      return serve(meant, handler, { ...c.get("arrival"), path: c.req.param() as Record<string, string> }, pipeline);
    });
  }
  app.notFound(async (c) => {
    await admit(null, c.get("arrival"), pipeline);
    throw unknownRoute(contract, c.req.method, new URL(c.req.url).pathname);
  });
  app.onError((error, c) => problemResponse(error, c.get("arrival").requestId, deps.log, dialectOf(contract, c)));
  return app;
}

interface ObserveDeps extends ApiDeps {
  readonly contract: Contract;
  readonly validator: Validator;
}

/** Wraps every request, those to unknown routes too. */
function observe(app: Hono<Env>, deps: ObserveDeps, options: AppOptions): void {
  const gate = createGate(deps.settings.maxConcurrentRequests, "requests");
  app.use(async (c, next) => {
    const startedMs = performance.now();
    const requestId = requestIdOf(c.req.raw);
    const arrival: Arrival = {
      request: c.req.raw,
      path: {},
      requestId,
      address: c.env?.incoming?.socket?.remoteAddress ?? "unknown",
      signal: AbortSignal.any([c.req.raw.signal, deps.closing]),
      log: deps.log.child({ request_id: requestId }),
      seen: { principal: null, headers: {} },
    };
    c.set("arrival", arrival);
    // what is thrown outside a route (no such route, no place) does not reach `onError`
    await within(gate, next).catch((error: unknown) => {
      c.res = problemResponse(error, requestId, deps.log, dialectOf(deps.contract, c));
    });
    c.res.headers.set("X-Request-Id", requestId);
    for (const [name, value] of Object.entries(arrival.seen.headers)) c.res.headers.set(name, value);
    c.res.headers.set("X-Content-Type-Options", "nosniff");
    const answered = {
      ...{ method: c.req.raw.method, route: c.get("operation")?.path ?? "(none)", status: c.res.status },
      ...{ durationMs: performance.now() - startedMs, principal: arrival.seen.principal },
    };
    logRequest(arrival.log, answered);
    countRequest(deps.metrics, answered);
    if (options.onBrokenPromise) await judgeAnswer(c, deps.validator, options.onBrokenPromise);
  });
}

/** What the clients of this path look for in an error, whichever method they tried. */
function dialectOf(contract: Contract, { req }: Context<Env>): ErrorDialect {
  return errorDialectOf(operationsAt(contract, new URL(req.url).pathname).map(({ id }) => id));
}

async function within(gate: Gate, work: () => Promise<void>): Promise<void> {
  const leave = gate.enter();
  await work().finally(leave);
}

function unknownRoute(contract: Contract, method: string, path: string): CodedError {
  const allowed = methodsOf(contract, path);
  const shown = JSON.stringify(path.slice(0, 200));
  if (allowed.length === 0) return new CodedError("not_found", `no route ${shown}; see /docs`);
  const allow = allowed.join(", ");
  const message = `${shown} has no ${method.slice(0, 20)}; it has ${allow}`;
  return new CodedError("method_not_allowed", message, { details: { allow } });
}

async function judgeAnswer(c: Context<Env>, validator: Validator, report: (error: Error) => void): Promise<void> {
  const operation = c.get("operation");
  if (!operation || c.req.raw.method === "HEAD") return;
  const type = (c.res.headers.get("content-type") ?? "").split(";")[0] ?? "";
  try {
    const judged = /[/+]json$/.test(type) && !operation.path.includes("/files/");
    const body: unknown = judged || type === "application/problem+json" ? await c.res.clone().json() : null;
    validator.response(operation, c.res.status, type, body);
  } catch (error) {
    report(error as Error);
  }
}
