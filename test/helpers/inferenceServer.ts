/**
 * The HTTP app listening on loopback over given checkpoints and a real pool, without a database: the store holds
 * what it is given. Answers are judged by the contract; `close` fails when one broke it.
 */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { getRequestListener } from "@hono/node-server";
import { pino } from "pino";
import { createApp } from "../../src/api/app.ts";
import type { ApiDeps } from "../../src/api/deps.ts";
import { createMetrics } from "../../src/engine/metrics.ts";
import type { PoolLimits } from "../../src/engine/serving/pool.ts";
import { createPoolMetrics } from "../../src/engine/serving/poolMetrics.ts";
import { createModelPool } from "../../src/engine/serving/pool.ts";
import type { ModelPool } from "../../src/engine/serving/types.ts";
import { parseSettings } from "../../src/engine/settings.ts";
import type { CheckpointRow, Store } from "../../src/engine/store/types.ts";
import { CodedError } from "../../src/ops/errors.ts";
import type { ResolvedCheckpoint } from "../../src/ops/manifest.ts";

export interface InferenceServer {
  readonly url: string;
  readonly pool: ModelPool;
  /** Rows by id; take one away and the checkpoint is deleted. */
  readonly checkpoints: Map<string, ResolvedCheckpoint>;
  close(): Promise<void>;
}

function rowOf({ id, manifest }: ResolvedCheckpoint, names: Readonly<Record<string, string>>): CheckpointRow {
  return {
    id,
    manifest,
    name: names[id] ?? null,
    digest: id,
    dtype: "F32",
    numParameters: 0,
    numParametersNonEmbedding: 0,
    sizeBytes: 0,
    storedBytes: 0,
    tokensSeen: 0,
    flopsSpent: 0,
    dataSeen: {},
    parents: [],
    relation: "imported",
    receipt: null,
    metadata: {},
    job: null,
    version: 1,
    createdAt: new Date(1_700_000_000_000),
  };
}

/** Secrets with their scopes. */
type Keys = Readonly<Record<string, readonly string[]>>;

function storeOf(
  checkpoints: Map<string, ResolvedCheckpoint>,
  names: Readonly<Record<string, string>>,
  keys: Keys,
): Store {
  const find = (idOrName: string): ResolvedCheckpoint => {
    const found = [...checkpoints.values()].find(({ id }) => id === idOrName || names[id] === idOrName);
    if (found) return found;
    throw new CodedError("not_found", `no checkpoint ${JSON.stringify(idOrName)}`);
  };
  return {
    checkpoints: {
      get: async (idOrName: string) => rowOf(find(idOrName), names),
      list: async ({ limit, after = "0" }: { limit: number; after?: string }) => {
        assert.ok(limit >= 1 && limit <= 100, `a page of ${limit}`);
        const end = Number(after) + limit;
        return {
          rows: [...checkpoints.values()].slice(Number(after), end).map((checkpoint) => rowOf(checkpoint, names)),
          next: end < checkpoints.size ? String(end) : null,
        };
      },
      resolve: async (row: CheckpointRow) => find(row.id),
    },
    ping: async () => undefined,
    keys: {
      count: async () => Object.keys(keys).length,
      verify: async (secret: string) => (keys[secret] ? { id: `key_${secret}`, scopes: keys[secret] } : null),
    },
  } as unknown as Store;
}

/** @param options names of checkpoints by id; keys, of which none opens the server to all */
export async function startInferenceServer(
  checkpoints: readonly ResolvedCheckpoint[],
  options: { names?: Readonly<Record<string, string>>; limits?: Partial<PoolLimits>; entry?: URL; keys?: Keys } = {},
): Promise<InferenceServer> {
  const { names = {}, limits, entry, keys = {} } = options;
  const held = new Map(checkpoints.map((checkpoint) => [checkpoint.id, checkpoint]));
  const metrics = createMetrics();
  const pool = createModelPool({
    backends: ["wasm", "cpu"],
    metrics: createPoolMetrics(metrics.registry),
    ...(limits ? { limits } : {}),
    ...(entry ? { entry } : {}),
  });
  const broken: Error[] = [];
  const deps = {
    settings: parseSettings({}),
    log: pino({ level: "silent" }),
    metrics,
    store: storeOf(held, names, keys),
    queue: {},
    uploads: {},
    backends: async () => [],
    pool,
    closing: new AbortController().signal,
  } as unknown as ApiDeps;
  const app = createApp(deps, { onBrokenPromise: (error) => broken.push(error) });
  const listener = getRequestListener((request, env) => app.fetch(request, env as unknown as { incoming: never }));
  const server = createServer((incoming, outgoing) => void listener(incoming, outgoing));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    pool,
    checkpoints: held,
    async close() {
      await pool.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      if (broken.length > 0)
        throw new AggregateError(broken, `answers that the contract does not promise: ${broken[0]!.message}`);
    },
  };
}
