/**
 * The environment, parsed once at the start of a process: the only reader of `process.env`. Each entry names
 * its variable, default and range; `settingsTable.ts` is the same table for documentation. A wrong value
 * stops the process with a message that names the variable, the value got and the value wanted.
 */
import { availableParallelism, totalmem } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { cacheDtypes } from "../ops/cacheDtype.ts";
import type { CacheDtype } from "../ops/cacheDtype.ts";
import { CodedError } from "../ops/errors.ts";
import type { WebgpuOptions } from "./backends/webgpuDevice.ts";
import { kernelVariants } from "./kernels/wasm/variants.ts";
import type { KernelVariant } from "./kernels/wasm/variants.ts";
import { kernelChoices, logLevels, softwareChoices } from "./settingsTable.ts";

export type LogLevel = "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "silent";

export interface Settings {
  readonly host: string;
  readonly port: number;
  readonly dataDir: string;
  /** Null: embedded PGlite under `dataDir`. */
  readonly databaseUrl: string | null;
  readonly databaseConnections: number;
  /** Absolute directories from which `directory` sources may be read. */
  readonly importRoots: readonly string[];
  readonly benchmarksDir: string;
  /** Docs of benchmark tasks that were fetched from the hub. */
  readonly taskDataDir: string;
  readonly uploadsDir: string;
  readonly blobDir: string;
  /** Names of backends that may be used; null for all that probe as available. */
  readonly backends: readonly string[] | null;
  readonly logLevel: LogLevel;

  /** Of a worker without the shared data directory: the API that blobs come from and go to. */
  readonly apiUrl: string | null;
  readonly apiKey: string | null;
  /** Bytes of such a worker's blob directory. */
  readonly blobCacheBytes: number;

  readonly hubEndpoint: string;
  readonly hubToken: string | null;
  readonly hubTimeoutMs: number;

  readonly maxBodyBytes: number;
  readonly maxUploadBytes: number;
  readonly maxHeaderBytes: number;
  readonly maxConcurrentRequests: number;
  readonly requestTimeoutMs: number;
  /** Requests one principal may make in a minute. */
  readonly rateLimitPerMinute: number;
  readonly maxDatasetTextBytes: number;

  /** Trainings and evaluations at once in one process. */
  readonly computeConcurrency: number;
  /** Imports, growths and dataset builds at once in one process. */
  readonly prepareConcurrency: number;
  /** Resident memory of one compute process, at most. */
  readonly computeMemoryBytes: number;
  readonly computeThreads: number;
  /** The build of the wasm kernels to insist on; null for the fastest that runs. */
  readonly computeKernels: KernelVariant | null;
  /** Which GPU the backend `webgpu` may use. */
  readonly webgpu: WebgpuOptions;
  /** A compute process that says nothing for so long is killed. */
  readonly computeSilenceMs: number;
  /** A worker silent for so long is lost. It says that it lives five times as often. */
  readonly workerLostMs: number;
  /** Time a compute process has to obey a stop. */
  readonly stopTimeoutMs: number;
  readonly jobMaxAttempts: number;
  /** First pause between attempts; it doubles each time. */
  readonly retryDelayMs: number;
  /** A training keeps a resume point at least this often. */
  readonly saveEveryMs: number;
  readonly maxQueuedJobs: number;
  /** Age at which files that nothing refers to are removed. */
  readonly sweepGraceMs: number;
  readonly sweepEveryMs: number;

  /** Models kept in memory for inference. */
  readonly servingMaxModels: number;
  /** What all model processes together may be estimated to take. */
  readonly servingMemoryBytes: number;
  /** Requests that one model computes together. */
  readonly servingMaxBatch: number;
  readonly servingPrefixCache: boolean;
  readonly servingCacheDtype: CacheDtype;
  readonly servingIdleMs: number;
  readonly servingQueueLength: number;
}

type Environment = Readonly<Record<string, string | undefined>>;

const gibibyte = 2 ** 30;
/** @throws invalid_request naming the variable */
export function parseSettings(environment: Environment): Settings {
  const read = reader(environment);
  const dataDir = resolve(read.text("DATA_DIR") ?? "data");
  const benchmarks = read.text("BENCHMARKS_DIR");
  const host = read.text("HOST") ?? "127.0.0.1";
  if (!/^[\w.:[\]-]{1,255}$/.test(host)) throw wrong("HOST", host, "an address or a host name");
  return {
    ...{ host, dataDir, databaseUrl: read.url("DATABASE_URL", ["postgres:", "postgresql:"]) },
    port: read.integer("PORT", 8080, 0, 65_535),
    databaseConnections: read.integer("DATABASE_CONNECTIONS", 10, 2, 1_000),
    importRoots: read.directories("IMPORT_ROOTS") ?? [join(dataDir, "imports")],
    benchmarksDir: benchmarks === null ? join(dataDir, "benchmarks") : resolve(benchmarks),
    taskDataDir: join(dataDir, "task-data"),
    uploadsDir: join(dataDir, "uploads"),
    blobDir: join(dataDir, "blobs"),
    backends: read.names("BACKENDS"),
    logLevel: read.oneOf("LOG_LEVEL", logLevels, "info") as LogLevel,
    ...{ apiUrl: read.url("API_URL", ["http:", "https:"]), apiKey: read.text("API_KEY") },
    blobCacheBytes: read.integer("BLOB_CACHE_BYTES", 64 * gibibyte, 2 ** 20, 2 ** 50),
    hubEndpoint: (read.url("HUB_ENDPOINT", ["http:", "https:"]) ?? "https://huggingface.co").replace(/\/+$/, ""),
    ...{ hubToken: read.text("HUB_TOKEN"), hubTimeoutMs: read.integer("HUB_TIMEOUT_SECONDS", 60, 1, 3_600) * 1000 },
    ...parseLimits(read),
    ...parseCompute(read),
  };
}

function parseLimits(read: Reader) {
  return {
    maxBodyBytes: read.integer("MAX_BODY_BYTES", 10 * 2 ** 20, 1_024, gibibyte),
    maxUploadBytes: read.integer("MAX_UPLOAD_BYTES", 1024 * gibibyte, 1, 2 ** 52),
    maxHeaderBytes: read.integer("MAX_HEADER_BYTES", 16_384, 1_024, 2 ** 20),
    maxConcurrentRequests: read.integer("MAX_CONCURRENT_REQUESTS", 512, 1, 100_000),
    requestTimeoutMs: read.integer("REQUEST_TIMEOUT_SECONDS", 30, 1, 3_600) * 1000,
    rateLimitPerMinute: read.integer("RATE_LIMIT_PER_MINUTE", 60_000, 1, 1e9),
    maxDatasetTextBytes: read.integer("MAX_DATASET_TEXT_BYTES", 8 * 2 ** 20, 1, gibibyte),
    servingMaxModels: read.integer("SERVING_MAX_MODELS", 2, 1, 1_000),
    servingMemoryBytes: read.integer("SERVING_MEMORY_BYTES", Math.floor(totalmem() / 2), 128 * 2 ** 20, 2 ** 50),
    servingMaxBatch: read.integer("SERVING_MAX_BATCH", 32, 1, 256),
    servingIdleMs: read.integer("SERVING_IDLE_SECONDS", 600, 1, 86_400) * 1000,
    servingQueueLength: read.integer("SERVING_QUEUE_LENGTH", 64, 1, 100_000),
    servingPrefixCache: read.oneOf("SERVING_PREFIX_CACHE", ["on", "off"], "on") === "on",
    servingCacheDtype: read.oneOf("SERVING_CACHE_DTYPE", cacheDtypes, "F32") as CacheDtype,
  };
}

function parseCompute(read: Reader) {
  const threeQuarters = Math.floor(totalmem() * 0.75);
  return {
    computeConcurrency: read.integer("COMPUTE_CONCURRENCY", 1, 1, 64),
    prepareConcurrency: read.integer("PREPARE_CONCURRENCY", 2, 1, 64),
    computeMemoryBytes: read.integer("COMPUTE_MEMORY_BYTES", threeQuarters, 128 * 2 ** 20, 2 ** 50),
    computeThreads: threadsOf(read),
    computeKernels: kernelVariantOf(read),
    webgpu: webgpuOptionsOf(read),
    computeSilenceMs: read.integer("COMPUTE_SILENCE_SECONDS", 600, 1, 86_400) * 1000,
    stopTimeoutMs: read.integer("STOP_TIMEOUT_SECONDS", 30, 1, 3_600) * 1000,
    workerLostMs: read.integer("WORKER_LOST_SECONDS", 15, 5, 3_600) * 1000,
    jobMaxAttempts: read.integer("JOB_MAX_ATTEMPTS", 5, 1, 1_000),
    retryDelayMs: read.integer("RETRY_DELAY_MS", 1_000, 1, 300_000),
    saveEveryMs: read.integer("SAVE_EVERY_SECONDS", 60, 1, 86_400) * 1000,
    maxQueuedJobs: read.integer("MAX_QUEUED_JOBS", 10_000, 1, 1e7),
    sweepGraceMs: read.integer("SWEEP_GRACE_SECONDS", 3_600, 1, 30 * 86_400) * 1000,
    sweepEveryMs: read.integer("SWEEP_EVERY_SECONDS", 600, 1, 86_400) * 1000,
  };
}

/** Reads this process's environment. @param overrides what its command line says instead @throws invalid_request */
export function readSettings(overrides: Environment = {}): Settings {
  return parseSettings({ ...process.env, ...overrides });
}

/** What a compute process computes with. @throws invalid_request */
export function readComputeOptions(): { variant: KernelVariant | null; threads: number; webgpu: WebgpuOptions } {
  const read = reader(process.env);
  return { variant: kernelVariantOf(read), threads: threadsOf(read), webgpu: webgpuOptionsOf(read) };
}

function threadsOf(read: Reader): number {
  return read.integer("COMPUTE_THREADS", availableParallelism(), 1, 1_024);
}

function webgpuOptionsOf(read: Reader): WebgpuOptions {
  const bytes = read.integer("WEBGPU_MEMORY_BYTES", 0, 0, 2 ** 50);
  return {
    adapter: read.text("WEBGPU_ADAPTER"),
    software: read.oneOf("WEBGPU_SOFTWARE", softwareChoices, "named") as WebgpuOptions["software"],
    memoryBytes: bytes === 0 ? null : bytes,
    matrices: read.oneOf("WEBGPU_MATRICES", ["auto", "always", "never"], "auto"),
  };
}

function kernelVariantOf(read: Reader): KernelVariant | null {
  const choice = read.oneOf("COMPUTE_KERNELS", kernelChoices, "auto");
  return kernelVariants.find((variant) => variant === choice) ?? null;
}

/** What a compute process may inherit: nothing that names a secret, a database or a service. */
const inheritedVariables = [
  ...["COMPUTE_KERNELS", "COMPUTE_THREADS", "OPENBLAS_CORETYPE"],
  ...["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SystemRoot"],
  // Where Node keeps compiled code: processes start in half the time.
  "NODE_COMPILE_CACHE",
  // Which GPU, and where its driver is found.
  ...["WEBGPU_ADAPTER", "WEBGPU_SOFTWARE", "WEBGPU_MEMORY_BYTES", "WEBGPU_MATRICES", "LD_LIBRARY_PATH"],
  ...["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"],
];

/** @returns the environment of a compute process. */
export function computeEnvironment(): Record<string, string> {
  const kept = inheritedVariables.map((name) => [name, process.env[name]] as const);
  return Object.fromEntries(kept.filter((entry): entry is readonly [string, string] => entry[1] !== undefined));
}

type Reader = ReturnType<typeof reader>;

function reader(environment: Environment) {
  const text = (name: string): string | null => {
    const value = environment[name]?.trim();
    if (value === undefined || value === "") return null;
    if (value.includes("\0")) throw wrong(name, value, "text without NUL");
    return value;
  };
  const list = (name: string, separator: string): string[] | null =>
    text(name)
      ?.split(separator)
      .map((part) => part.trim())
      .filter((part) => part !== "") ?? null;
  return {
    text,
    names: (name: string): string[] | null => list(name, ","),
    directories: (name: string): string[] | null => list(name, delimiter)?.map((path) => resolve(path)) ?? null,
    integer(name: string, fallback: number, min: number, max: number): number {
      const value = text(name);
      if (value === null) return fallback;
      const number = /^\d{1,16}$/.test(value) ? Number(value) : Number.NaN;
      if (!(number >= min && number <= max)) throw wrong(name, value, `an integer from ${min} to ${max}`);
      return number;
    },
    oneOf<T extends string>(name: string, values: readonly T[], fallback: NoInfer<T>): T {
      const value = (text(name) ?? fallback) as T;
      if (!values.includes(value)) throw wrong(name, value, `one of ${values.join(", ")}`);
      return value;
    },
    url(name: string, protocols: readonly string[]): string | null {
      const value = text(name);
      if (value === null) return null;
      const url = URL.canParse(value) ? new URL(value) : null;
      // the value may hold a password, so the message does not show it
      if (!url || !protocols.includes(url.protocol)) throw wrong(name, null, `a URL with ${protocols.join(" or ")}`);
      return value;
    },
  };
}

function wrong(name: string, got: string | null, wanted: string): CodedError {
  const shown = got === null ? "its value" : JSON.stringify(got.slice(0, 100));
  return new CodedError("invalid_request", `environment variable ${name}: got ${shown}, wanted ${wanted}`);
}
