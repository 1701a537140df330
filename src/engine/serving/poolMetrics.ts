/** What serving tells Prometheus; made once per process, in the registry of the composition root. */
import { Counter, Gauge, Histogram } from "prom-client";
import type { Registry } from "prom-client";

export interface PoolMetrics {
  /** Requests that wait for a place. */
  readonly queued: Gauge;
  /** Model processes alive. */
  readonly processes: Gauge;
  /** From a request's arrival to its first token, loading included. */
  readonly firstTokenSeconds: Histogram;
  /** Of one request, after its first token. */
  readonly tokensPerSecond: Histogram;
  readonly tokens: Counter;
  /** Processes that died without being asked to, or could not load. */
  readonly failures: Counter;
}

const secondBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
const rateBuckets = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000];

export function createPoolMetrics(registry: Registry): PoolMetrics {
  const registers = [registry];
  const named = (name: string, help: string) => ({ name: `cambium_serving_${name}`, help, registers });
  const firstToken = named("first_token_seconds", "Time from a request's arrival to its first token");
  const rate = named("tokens_per_second", "Tokens per second of one request after its first");
  return {
    queued: new Gauge(named("queued", "Inference requests waiting for a place on a model")),
    processes: new Gauge(named("processes", "Model processes alive")),
    firstTokenSeconds: new Histogram({ ...firstToken, buckets: secondBuckets }),
    tokensPerSecond: new Histogram({ ...rate, buckets: rateBuckets }),
    tokens: new Counter(named("tokens_total", "Tokens generated")),
    failures: new Counter(named("failures_total", "Model processes that died unasked or could not load")),
  };
}
