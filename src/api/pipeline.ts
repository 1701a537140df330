/**
 * What every request goes through between the router and its handler, in this order: who asks and whether they
 * may, how often they asked, whether parameters and body are what the contract says, whether the same was asked
 * before; and on the way out the JSON text and its ETag. Handlers begin where this ends.
 */
import { createHash } from "node:crypto";
import type { Logger } from "pino";
import type { IdempotencyStore } from "../engine/store/types.ts";
import { isNegotiated } from "./accept.ts";
import { readJson, type BodyLimits, type JsonBody } from "./body.ts";
import type { Operation } from "./contract.ts";
import type { Call, JsonReply, OperationId, Principal } from "./handlers.ts";
import type { Auth } from "./middleware/auth.ts";
import { etagOf, noneMatch } from "./middleware/etag.ts";
import { idempotencyKeyOf, onlyOnce } from "./middleware/idempotency.ts";
import type { RateLimiter } from "./middleware/rateLimit.ts";
import { invalidRequest, type Validator } from "./validate.ts";

/** What a request carries besides itself. */
export interface Arrival {
  readonly request: Request;
  /** Values of the path template, decoded. */
  readonly path: Readonly<Record<string, string>>;
  readonly requestId: string;
  /** Of the peer; principals without a key are told apart by it. */
  readonly address: string;
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** Filled in on the way, for the log and the answer's headers. */
  readonly seen: { principal: string | null; headers: Record<string, string> };
}

export interface PipelineDeps {
  readonly auth: Auth;
  readonly limiter: RateLimiter;
  readonly validator: Validator;
  readonly idempotency: IdempotencyStore;
  readonly limits: BodyLimits;
}

/** A handler whose types were checked where it was written. */
export type AnyHandler = (call: Call<OperationId>) => Promise<AnyReply> | AnyReply;
type AnyReply = Response | JsonReply<number, unknown>;

const nobody: Principal = { id: "anonymous", scopes: [] };

/** @throws CodedError for whatever is wrong with the request */
export async function serve(
  operation: Operation,
  handler: AnyHandler,
  arrival: Arrival,
  deps: PipelineDeps,
): Promise<Response> {
  const { request } = arrival;
  const principal = await admit(operation, arrival, deps);
  const { validator } = deps;
  const path = validator.parameters(operation, "path", { ...arrival.path });
  const query = validator.parameters(operation, "query", queryOf(request));
  const header = validator.parameters(operation, "header", headersOf(operation, request));
  const body = operation.body === "raw" ? null : await readBody(operation, request, deps);
  const call = { path, query, header, body: body?.value, request, principal, requestId: arrival.requestId };
  const { signal, log } = arrival;
  const run = async (): Promise<Response> => {
    try {
      const reply = await handler({ ...call, signal, log } as unknown as Call<OperationId>);
      return reply instanceof Response ? reply : jsonResponse(reply, operation, request);
    } finally {
      // An error may follow from `Accept` too.
      if (isNegotiated(request)) arrival.seen.headers["Vary"] = "Accept";
    }
  };
  const key = operation.method === "post" ? idempotencyKeyOf(request) : null;
  if (key === null) return run();
  const scope = `${principal.id} ${operation.method} ${new URL(request.url).pathname}`;
  return onlyOnce(deps.idempotency, { key, scope, bodyDigest: body?.digest ?? uploadDigest(request) }, run);
}

/** Refuses who may not, and who asks too often; those without a key are counted by address. */
export async function admit(operation: Operation | null, arrival: Arrival, deps: PipelineDeps): Promise<Principal> {
  const byAddress = `address ${arrival.address}`;
  const principal = await deps.auth.admit(arrival.request, operation?.scope ?? "read").catch((error: unknown) => {
    deps.limiter.take(byAddress);
    throw error;
  });
  arrival.seen.principal = principal?.id ?? null;
  const bucket = principal && principal.id !== "local" ? principal.id : byAddress;
  Object.assign(arrival.seen.headers, deps.limiter.take(bucket));
  return principal ?? nobody;
}

async function readBody(operation: Operation, request: Request, deps: PipelineDeps): Promise<JsonBody | null> {
  if (request.method === "GET" || request.method === "HEAD") return null;
  const body = await readJson(request, deps.limits, operation.body === "json");
  if (operation.body === "json") deps.validator.body(operation, body.value, body.sizeBytes);
  return body;
}

function queryOf(request: Request): Record<string, unknown> {
  const values: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  for (const [name, value] of new URL(request.url).searchParams) {
    if (name in values) throw invalidRequest([{ pointer: `/${name}`, detail: "query parameter: is given twice" }]);
    values[name] = value;
  }
  return values;
}

function headersOf(operation: Operation, request: Request): Record<string, unknown> {
  const declared = operation.parameters.filter((parameter) => parameter.in === "header");
  const present = declared.map(({ name }) => [name, request.headers.get(name)] as const);
  return Object.fromEntries(present.filter(([, value]) => value !== null));
}

/** What makes two beginnings of an upload the same. */
function uploadDigest(request: Request): string {
  const parts = ["upload-length", "upload-metadata"].map((name) => request.headers.get(name) ?? "");
  return createHash("sha256").update(parts.join("\n")).digest("hex");
}

function jsonResponse(reply: JsonReply<number, unknown>, operation: Operation, request: Request): Response {
  const text = JSON.stringify(reply.body);
  const headers = new Headers({ ...reply.headers, "Content-Type": "application/json" });
  const tagged = operation.parameters.some(({ name }) => name === "If-None-Match" || name === "If-Match");
  if (!tagged || operation.method === "delete") return new Response(text, { status: reply.status, headers });
  const etag = etagOf(text);
  headers.set("ETag", etag);
  if (operation.method === "get" && noneMatch(request.headers.get("if-none-match"), etag)) {
    headers.delete("Content-Type");
    return new Response(null, { status: 304, headers });
  }
  return new Response(text, { status: reply.status, headers });
}
