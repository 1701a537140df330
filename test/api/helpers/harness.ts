/**
 * The whole service in a temporary data directory for tests: the real store, queue, runner and compute processes,
 * and the app without a port. The store is PGlite with its own runner; with CAMBIUM_TEST_DATABASE=postgres it is a
 * real PostgreSQL with two workers. Every answer is judged by the contract; `close` fails the test when one broke it.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createApp } from "../../../src/api/app.ts";
import type { ApiDeps } from "../../../src/api/deps.ts";
import { createApiDeps } from "../../../src/api/listen.ts";
import { createServices, type Services } from "../../../src/engine/services.ts";
import { parseSettings, type Settings } from "../../../src/engine/settings.ts";
import { fillDataDir } from "../../helpers/embeddedDatabase.ts";
import { startPostgres, type TestPostgres } from "../../helpers/postgres.ts";

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** Parsed JSON, else text. */
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- tests look into answers freely
  readonly body: any;
}

export interface CallOptions {
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Harness {
  readonly services: Services;
  readonly deps: ApiDeps;
  readonly settings: Settings;
  /** Asks the app, without a port. */
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  /** The raw response, for streams. */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** Posts work and waits for its end; fails the test unless it succeeds. @returns the job */
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- as above
  work(path: string, body: unknown): Promise<any>;
  close(): Promise<void>;
}

export interface HarnessOptions {
  readonly environment?: Readonly<Record<string, string>>;
  /** Replaces parts of what the app is given. */
  readonly change?: (deps: ApiDeps) => ApiDeps;
}

/** A model small enough that everything on it takes milliseconds. */
export const tinyConfig = {
  ...{ model_type: "llama", vocab_size: 258, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2 },
  ...{ num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 64 },
};

export const tinySource = { type: "random", seed: 1, config: tinyConfig, tokenizer: "bytes" };

export async function startHarness(options: HarnessOptions = {}): Promise<Harness> {
  const dataDir = mkdtempSync(join(tmpdir(), "cambium-api-"));
  const postgres = process.env["CAMBIUM_TEST_DATABASE"] === "postgres" ? await startPostgres() : null;
  if (!postgres) await fillDataDir(dataDir);
  const settings = parseSettings({
    DATA_DIR: dataDir,
    LOG_LEVEL: "silent",
    SAVE_EVERY_SECONDS: "1",
    ...(postgres ? { DATABASE_URL: await postgres.createDatabase() } : {}),
    ...options.environment,
  });
  const services = await createServices(settings, { role: "server" });
  const workers = await startWorkers(settings, postgres);
  const closing = new AbortController();
  const built = createApiDeps(services, closing.signal);
  const deps = options.change?.(built) ?? built;
  const broken: string[] = [];
  const app = createApp(deps, { onBrokenPromise: (error) => broken.push(error.message) });

  const fetch = async (path: string, init: RequestInit = {}): Promise<Response> => app.request(path, init);
  const call = async (method: string, path: string, { body, headers }: CallOptions = {}): Promise<Answer> => {
    const json = body === undefined ? {} : { "Content-Type": "application/json" };
    const text = body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) };
    const response = await fetch(path, { method, headers: { ...json, ...headers }, ...text });
    const content = await response.text();
    const isJson = /[/+]json(;|$)/.test(response.headers.get("content-type") ?? "");
    return {
      status: response.status,
      headers: response.headers,
      body: isJson && content ? JSON.parse(content) : content,
    };
  };
  return {
    services,
    deps,
    settings,
    call,
    fetch,
    async work(path, body) {
      const answer = await call("POST", path, { body, headers: { Prefer: "wait=120" } });
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
      assert.equal(answer.body.status, "succeeded", JSON.stringify(answer.body));
      return answer.body;
    },
    async close() {
      closing.abort();
      await deps.pool.close();
      await Promise.all(workers.map((worker) => worker.close()));
      await services.close();
      await postgres?.stop();
      rmSync(dataDir, { recursive: true, force: true });
      assert.deepEqual(broken, [], "answers that the contract does not promise");
    },
  };
}

/** On PostgreSQL the server computes nothing itself. */
async function startWorkers(settings: Settings, postgres: TestPostgres | null): Promise<Services[]> {
  if (!postgres) return [];
  return Promise.all([1, 2].map(() => createServices(settings, { role: "worker" })));
}

/** Asserts a problem+json answer with this code. */
export function assertProblem(answer: Answer, status: number, code: string): void {
  assert.equal(answer.body.code, code, JSON.stringify(answer.body));
  assert.equal(answer.status, status);
  assert.match(answer.headers.get("content-type") ?? "", /^application\/problem\+json/);
  assert.equal(answer.body.status, status);
  assert.equal(answer.body.request_id, answer.headers.get("x-request-id"));
}
