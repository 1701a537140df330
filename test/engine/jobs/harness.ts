/** Services for tests: quiet, in a temporary directory, with short times. */
import { rmSync } from "node:fs";
import type { Handlers, Handler } from "../../../src/engine/jobs/handler.ts";
import { handlers as realHandlers } from "../../../src/engine/jobs/handlers/index.ts";
import type { ImportRequest } from "../../../src/engine/jobs/requests.ts";
import { createLog } from "../../../src/engine/log.ts";
import { createServices, type Services } from "../../../src/engine/services.ts";
import { parseSettings, type Settings } from "../../../src/engine/settings.ts";
import type { JobRow } from "../../../src/engine/store/types.ts";
import { fillDataDir } from "../../helpers/embeddedDatabase.ts";
import { temporaryFolder } from "../store/fixtures.ts";

export const tinyConfig = {
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", hidden_act: "silu", vocab_size: 258 },
  ...{ hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1 },
  ...{ max_position_embeddings: 64, rms_norm_eps: 1e-5, rope_theta: 10_000, tie_word_embeddings: true },
};

/** A request that every store accepts; `behaviour` steers fake handlers. */
export function importOf(behaviour = "", name = "fake"): ImportRequest {
  return { name, source: { type: "random", config: tinyConfig, seed: 1, tokenizer: "bytes" }, metadata: { behaviour } };
}

export function testSettings(dataDir: string, databaseUrl: string | null, more: Record<string, string> = {}): Settings {
  const database = databaseUrl === null ? {} : { DATABASE_URL: databaseUrl };
  const short = {
    RETRY_DELAY_MS: "50",
    WORKER_LOST_SECONDS: "6",
    STOP_TIMEOUT_SECONDS: "10",
    SAVE_EVERY_SECONDS: "1",
    COMPUTE_THREADS: "1",
  };
  return parseSettings({ DATA_DIR: dataDir, ...database, ...short, ...more });
}

export interface TestBed {
  readonly services: Services;
  readonly dataDir: string;
  /** Waits until the job has a status that holds. */
  until(id: string, ...statuses: JobRow["status"][]): Promise<JobRow>;
  dispose(): Promise<void>;
}

export async function openTestBed(options: {
  databaseUrl?: string | null;
  dataDir?: string;
  importHandler?: Handler<"checkpoint_import">;
  handlers?: Partial<Handlers>;
  environment?: Record<string, string>;
}): Promise<TestBed> {
  const dataDir = options.dataDir ?? temporaryFolder();
  const handlers: Handlers = {
    ...realHandlers,
    ...options.handlers,
    checkpoint_import: options.importHandler ?? realHandlers.checkpoint_import,
  };
  const databaseUrl = options.databaseUrl ?? null;
  if (databaseUrl === null && options.dataDir === undefined) await fillDataDir(dataDir);
  const settings = testSettings(dataDir, databaseUrl, options.environment);
  const role = databaseUrl === null ? "server" : "worker";
  const services = await createServices(settings, { role, log: createLog("silent"), handlers });
  return {
    services,
    dataDir,
    until: (id, ...statuses) => untilStatus(services, id, statuses),
    async dispose() {
      await services.close();
      if (options.dataDir === undefined) rmSync(dataDir, { recursive: true, force: true });
    },
  };
}

const ended: readonly JobRow["status"][] = ["succeeded", "failed", "cancelled"];
const waitTimeoutMs = 60_000;

async function untilStatus({ store }: Services, id: string, statuses: readonly JobRow["status"][]): Promise<JobRow> {
  const wanted = statuses.length > 0 ? statuses : ended;
  const deadline = Date.now() + waitTimeoutMs;
  for (;;) {
    const row = await store.jobs.get(id);
    if (wanted.includes(row.status)) return row;
    if (ended.includes(row.status)) throw new Error(`${id} ended as ${row.status}: ${JSON.stringify(row.error)}`);
    if (Date.now() > deadline) throw new Error(`${id} is still ${row.status}`);
    await store.jobs.changed(id, 1_000);
  }
}
