/**
 * Requests to a model hub: one endpoint, chosen by the operator, never by a request's sender. Redirects are
 * followed by hand, so that the token goes to the endpoint's own origin only; answers that may pass (429,
 * 5xx, a cut connection, silence) are asked for again with back-off, and a download goes on where it was
 * cut. It knows nothing of checkpoints.
 * Source: the HTTP interface of huggingface_hub (file_download.py, `X-Linked-Etag`, `X-Linked-Size`).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { CodedError, type ErrorCode } from "../../ops/errors.ts";

export interface HubClientOptions {
  /** `https://huggingface.co` or a mirror; http or https. */
  readonly endpoint: string;
  readonly token?: string | null | undefined;
  /** Longest silence, before the answer and within it, ms. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** First pause before a request is repeated, ms; doubles each time. */
  readonly backoffMs?: number | undefined;
  /** Code of the error when it does not answer; hub_unavailable unless given. */
  readonly unavailable?: ErrorCode | undefined;
  /** What a person is told where it refuses. */
  readonly refused?: string | undefined;
}

/** What the hub says about the bytes of a file. */
export interface Download {
  /** SHA-256 of the file where the hub names it (large files do have one). */
  readonly sha256: string | null;
  readonly sizeBytes: number | null;
}

const maxRedirects = 5;
/** Failures in a row without a byte of progress, at most. */
const maxFailures = 5;
const maxPauseMs = 60_000;
const defaultTimeoutMs = 60_000;
const defaultBackoffMs = 500;

/** A failure that may pass. */
class Passing extends Error {
  readonly pauseMs: number | null;
  constructor(message: string, pauseMs: number | null = null, cause?: unknown) {
    super(message, { cause });
    this.pauseMs = pauseMs;
  }
}

/** Speaks to one hub. */
export class HubClient {
  readonly #base: URL;
  readonly #options: HubClientOptions;
  readonly #timeoutMs: number;

  /** @throws invalid_request for an endpoint that is not http(s), or holds credentials, a query or a fragment */
  constructor(options: HubClientOptions) {
    const base = URL.parse(`${options.endpoint.replace(/\/+$/, "")}/`);
    const plain = base !== null && `${base.username}${base.password}${base.search}${base.hash}` === "";
    if (!plain || (base.protocol !== "http:" && base.protocol !== "https:")) {
      throw new CodedError("invalid_request", "the hub endpoint must be a plain http or https address");
    }
    this.#base = base;
    this.#options = options;
    this.#timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
  }

  /** Fetches a small answer whole. @throws not_found, forbidden, hub_unavailable */
  async get(path: string, maxBytes: number): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    let size = 0;
    await this.download(
      path,
      {
        at: () => size,
        write: async (chunk) => {
          chunks.push(chunk);
          size += chunk.length;
        },
      },
      maxBytes,
    );
    return Buffer.concat(chunks);
  }

  /**
   * Fetches a file, going on after cuts.
   * @param sink `at` tells how many bytes it has, `write` appends; its errors end the download
   * @param maxBytes more than that is refused
   * @throws not_found, forbidden, hub_unavailable, checkpoint_unsupported, and what the sink throws
   */
  async download(
    path: string,
    sink: { at(): number; write(chunk: Uint8Array): Promise<void> },
    maxBytes: number,
  ): Promise<Download> {
    let failures = 0;
    let reached = -1;
    for (;;) {
      this.#options.signal?.throwIfAborted();
      if (sink.at() > reached) failures = 0;
      reached = sink.at();
      try {
        return await this.#attempt(path, sink, maxBytes);
      } catch (error) {
        if (!(error instanceof Passing)) throw error;
        this.#options.signal?.throwIfAborted();
        failures += 1;
        const message = `${this.#base.host} did not deliver ${path}: ${error.message}`;
        if (failures >= maxFailures) throw new CodedError(this.#unavailable(), message, { cause: error });
        const backoff = (this.#options.backoffMs ?? defaultBackoffMs) * 2 ** (failures - 1);
        await this.#pause(Math.min(error.pauseMs ?? backoff, maxPauseMs));
      }
    }
  }

  #unavailable(): ErrorCode {
    return this.#options.unavailable ?? "hub_unavailable";
  }

  async #pause(ms: number): Promise<void> {
    const { signal } = this.#options;
    await sleep(ms, undefined, { signal }).catch((error: unknown) => {
      signal?.throwIfAborted();
      throw error;
    });
  }

  /** One request with its redirects, and as much of its body as comes. */
  async #attempt(
    path: string,
    sink: { at(): number; write(chunk: Uint8Array): Promise<void> },
    maxBytes: number,
  ): Promise<Download> {
    const start = sink.at();
    const watchdog = new Watchdog(this.#timeoutMs, this.#options.signal);
    try {
      const { response, linked } = await this.#follow(path, start, watchdog);
      const { skip, total } = bodyPlan(response, start);
      const sizeBytes = linked.sizeBytes ?? total;
      if (sizeBytes !== null && sizeBytes > maxBytes) throw tooLarge(path, sizeBytes, maxBytes);
      let toSkip = skip;
      const reader = response.body?.getReader();
      for (;;) {
        const chunk = await passing(async () => reader?.read());
        watchdog.feed();
        if (chunk === undefined || chunk.done) break;
        const bytes = chunk.value.subarray(Math.min(toSkip, chunk.value.length));
        toSkip -= chunk.value.length - bytes.length;
        if (sink.at() + bytes.length > maxBytes) throw tooLarge(path, sink.at() + bytes.length, maxBytes);
        if (bytes.length > 0) await sink.write(bytes);
      }
      if (sizeBytes !== null && sink.at() < sizeBytes) {
        throw new Passing(`cut after ${sink.at()} of ${sizeBytes} bytes`);
      }
      return { sha256: linked.sha256, sizeBytes };
    } finally {
      watchdog.stop();
    }
  }

  async #follow(path: string, start: number, watchdog: Watchdog): Promise<{ response: Response; linked: Download }> {
    let url = new URL(path.replace(/^\/+/, ""), this.#base);
    let linked: Download = { sha256: null, sizeBytes: null };
    for (let hop = 0; hop <= maxRedirects; hop += 1) {
      const headers: Record<string, string> = { "accept-encoding": "identity", "user-agent": "cambium" };
      if (start > 0) headers["range"] = `bytes=${start}-`;
      const { token } = this.#options;
      if (token && url.origin === this.#base.origin) headers["authorization"] = `Bearer ${token}`;
      const response = await passing(() => fetch(url, { headers, redirect: "manual", signal: watchdog.signal }));
      watchdog.feed();
      linked = { sha256: linked.sha256 ?? linkedDigest(response), sizeBytes: linked.sizeBytes ?? linkedSize(response) };
      if (response.status === 200 || response.status === 206) return { response, linked };
      await response.body?.cancel().catch(() => undefined);
      if (response.status < 300 || response.status >= 400) {
        throw refusal(response, path, this.#base.host, this.#options.refused ?? hubRefused);
      }
      url = this.#target(url, response.headers.get("location"));
    }
    throw new CodedError("hub_unavailable", `${this.#base.host}: more than ${maxRedirects} redirects for ${path}`);
  }

  #target(from: URL, location: string | null): URL {
    const to = location === null ? null : URL.parse(location, from.href);
    const downgrade = from.protocol === "https:" && to?.protocol === "http:";
    if (to === null || downgrade || (to.protocol !== "https:" && to.protocol !== "http:")) {
      throw new CodedError("hub_unavailable", `${from.host}: a redirect to an address that is not allowed`);
    }
    return to;
  }
}

/** Aborts after silence; every sign of life starts the wait anew. */
class Watchdog {
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly signal: AbortSignal;

  constructor(timeoutMs: number, outer: AbortSignal | undefined) {
    this.#timer = setTimeout(() => this.#controller.abort(new Passing(`silent for ${timeoutMs} ms`)), timeoutMs);
    this.signal = outer === undefined ? this.#controller.signal : AbortSignal.any([outer, this.#controller.signal]);
  }

  feed(): void {
    this.#timer.refresh();
  }

  /** Ends the request too: a body left unread would hold its connection. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#controller.abort();
  }
}

/** A failure of the network may pass. */
async function passing<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Passing) throw error;
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : "";
    throw new Passing(`${error instanceof Error ? error.message : String(error)} ${cause}`.trim(), null, error);
  }
}

const hubRefused = "it is private, gated or misspelt; the operator's hub token must belong to an account with access";

function refusal(response: Response, path: string, host: string, hint: string): Error {
  const { status } = response;
  if (status === 429 || status === 408 || status >= 500) {
    return new Passing(`status ${status}`, retryAfterMs(response.headers.get("retry-after")));
  }
  if (status === 401 || status === 403) {
    return new CodedError("forbidden", `${host} refuses ${path} (status ${status}): ${hint}`);
  }
  if (status === 404) return new CodedError("not_found", `${host} has no ${path}`);
  return new CodedError("hub_unavailable", `${host} answered ${path} with status ${status}`);
}

function retryAfterMs(header: string | null): number | null {
  if (header === null) return null;
  const ms = /^[0-9]+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}

/** How many bytes of the body are known already, and the size of the whole file where it is told. */
function bodyPlan(response: Response, start: number): { skip: number; total: number | null } {
  if (response.status === 206) {
    const range = /^bytes ([0-9]+)-[0-9]+\/([0-9]+|\*)$/.exec(response.headers.get("content-range") ?? "");
    if (range === null || Number(range[1]) !== start) throw new Passing(`asked from byte ${start}, sent another range`);
    return { skip: 0, total: range[2] === "*" ? null : Number(range[2]) };
  }
  // The server does not know ranges and starts over.
  const length = response.headers.get("content-length");
  return { skip: start, total: length === null ? null : Number(length) };
}

function linkedDigest(response: Response): string | null {
  const etag = response.headers.get("x-linked-etag")?.replace(/^W\//, "").replaceAll('"', "") ?? "";
  return /^[0-9a-f]{64}$/.test(etag) ? etag : null;
}

function linkedSize(response: Response): number | null {
  const size = response.headers.get("x-linked-size") ?? "";
  return /^[0-9]{1,15}$/.test(size) ? Number(size) : null;
}

function tooLarge(path: string, sizeBytes: number, maxBytes: number): CodedError {
  return new CodedError("checkpoint_unsupported", `${path} has ${sizeBytes} bytes, at most ${maxBytes} are taken`);
}
