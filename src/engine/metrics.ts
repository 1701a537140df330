/** Prometheus metrics of one process. One registry per process, made by the composition root. */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

export interface Metrics {
  readonly registry: Registry;
  readonly httpRequests: Counter<"method" | "route" | "status">;
  readonly httpDurationSeconds: Histogram<"method" | "route">;
  readonly jobsStarted: Counter<"kind">;
  readonly jobsEnded: Counter<"kind" | "status">;
  readonly jobsRunning: Gauge<"kind">;
  readonly jobDurationSeconds: Histogram<"kind">;
  readonly trainedTokens: Counter;
  readonly computeCrashes: Counter<"cause">;
  readonly generatedTokens: Counter;
  readonly modelsWarm: Gauge;
  readonly blobsSwept: Counter;
}

const httpBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 300];
const jobBuckets = [0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1_800, 3_600, 21_600, 86_400];

export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const counter = <Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Counter<Label>({ name: `cambium_${name}`, help, labelNames, registers });
  const gauge = <Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Gauge<Label>({ name: `cambium_${name}`, help, labelNames, registers });
  const histogram = <Label extends string>(name: string, help: string, buckets: number[], ...labelNames: Label[]) =>
    new Histogram<Label>({ name: `cambium_${name}`, help, buckets, labelNames, registers });
  return {
    registry,
    httpRequests: counter("http_requests_total", "Requests answered", "method", "route", "status"),
    httpDurationSeconds: histogram("http_duration_seconds", "Time to the response", httpBuckets, "method", "route"),
    jobsStarted: counter("jobs_started_total", "Attempts begun", "kind"),
    jobsEnded: counter("jobs_ended_total", "Attempts ended, by the job's status after them", "kind", "status"),
    jobsRunning: gauge("jobs_running", "Jobs running in this process", "kind"),
    jobDurationSeconds: histogram("job_duration_seconds", "Time of one attempt", jobBuckets, "kind"),
    trainedTokens: counter("trained_tokens_total", "Tokens trained on"),
    computeCrashes: counter("compute_crashes_total", "Compute processes that died or were killed", "cause"),
    generatedTokens: counter("generated_tokens_total", "Tokens generated"),
    modelsWarm: gauge("models_warm", "Models in memory for inference"),
    blobsSwept: counter("blobs_swept_total", "Blobs removed because nothing referred to them"),
  };
}
