/** What serving tells Prometheus; made once per process, in the registry of the composition root. */
import { Counter, Gauge, Histogram } from "prom-client";
import type { Registry } from "prom-client";
import type { StepStats } from "../infer/batcher.ts";

export interface PoolMetrics {
  /** Requests that wait for a place. */
  readonly queued: Gauge;
  /** The length of the line as each request that joins it finds it. */
  readonly queueDepth: Histogram;
  /** From a request's arrival to its place on a model. */
  readonly queueSeconds: Histogram;
  /** Requests that have a place. */
  readonly active: Gauge;
  /** Model processes alive. */
  readonly processes: Gauge;
  /** What the model processes are estimated to take together. */
  readonly memoryBytes: Gauge;
  /** From the start of a model process to a model that can generate. */
  readonly coldStartSeconds: Histogram;
  /** From a request's arrival to its first token, loading included. */
  readonly firstTokenSeconds: Histogram;
  /** Between two tokens of one stream. */
  readonly tokenIntervalSeconds: Histogram;
  /** Of one request, after its first token. */
  readonly tokensPerSecond: Histogram;
  /** Sequences that a step computes together. */
  readonly batchSequences: Histogram;
  readonly stepSeconds: Histogram;
  readonly tokens: Counter;
  /** Of all prompts that were let in. */
  readonly promptTokens: Counter;
  /** Of those, the ones that caches held already. */
  readonly cachedTokens: Counter;
  /** Processes that died without being asked to, or could not load. */
  readonly failures: Counter;
}

const secondBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
const stepBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10];
const rateBuckets = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000];
const countBuckets = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256];

export function createPoolMetrics(registry: Registry): PoolMetrics {
  const registers = [registry];
  const named = (name: string, help: string) => ({ name: `cambium_serving_${name}`, help, registers });
  const histogram = (name: string, help: string, buckets: number[]): Histogram =>
    new Histogram({ ...named(name, help), buckets });
  const gauge = (name: string, help: string): Gauge => new Gauge(named(name, help));
  const counter = (name: string, help: string): Counter => new Counter(named(name, help));
  return {
    queued: gauge("queued", "Inference requests waiting for a place on a model"),
    queueDepth: histogram("queue_depth", "Requests already waiting when one arrives", countBuckets),
    queueSeconds: histogram("queue_seconds", "Time from a request's arrival to its place on a model", secondBuckets),
    active: gauge("active", "Inference requests that have a place on a model"),
    processes: gauge("processes", "Model processes alive"),
    memoryBytes: gauge("memory_bytes", "Memory that the model processes are estimated to take"),
    coldStartSeconds: histogram("cold_start_seconds", "Time from a process's start to a loaded model", secondBuckets),
    firstTokenSeconds: histogram(
      "first_token_seconds",
      "Time from a request's arrival to its first token",
      secondBuckets,
    ),
    tokenIntervalSeconds: histogram("token_interval_seconds", "Time between two tokens of one stream", stepBuckets),
    tokensPerSecond: histogram("tokens_per_second", "Tokens per second of one request after its first", rateBuckets),
    batchSequences: histogram("batch_sequences", "Sequences computed together in a step", countBuckets),
    stepSeconds: histogram("step_seconds", "Time of a step", stepBuckets),
    tokens: counter("tokens_total", "Tokens generated"),
    promptTokens: counter("prompt_tokens_total", "Tokens of prompts, those of each choice of a request"),
    cachedTokens: counter("cached_tokens_total", "Tokens of prompts that caches held already"),
    failures: counter("failures_total", "Model processes that died unasked or could not load"),
  };
}

/** Notes the steps that a model process told of. */
export function observeSteps(metrics: PoolMetrics, steps: readonly StepStats[]): void {
  for (const { sequences, seconds } of steps) {
    metrics.batchSequences.observe(sequences);
    metrics.stepSeconds.observe(seconds);
  }
}
