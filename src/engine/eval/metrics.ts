/**
 * What is made of the scores of all docs: means, perplexities and their standard errors, in the order of
 * operations of lm-evaluation-harness, so that equal log-likelihoods give equal metrics to the last bit. Sums
 * run left to right in float64. Source: lm_eval/api/metrics.py, v0.4.13.
 */
import { exactExp } from "./exactExp.ts";
import { MersenneTwister } from "./mersenneTwister.ts";

/** One doc's contribution: a value, and a weight where the metric divides by one (words or bytes). */
export interface ScoreItem {
  readonly value: number;
  readonly weight: number;
}

export interface Metric {
  readonly higherIsBetter: boolean;
  aggregate(items: readonly ScoreItem[]): number;
  /** `mean`: from the sample variance; `bootstrap`: by resampling; `none`: the harness reports N/A. */
  readonly standardError: "mean" | "bootstrap" | "none";
}

/** Bootstrap replicates drawn from one random stream, at most; the stream's seed is the chunk's index. */
const bootstrapChunk = 1000;

function sum(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i] ?? 0;
  return total;
}

/** Arithmetic mean; NaN for no value. */
export function mean(values: ArrayLike<number>): number {
  return sum(values) / values.length;
}

/** Standard deviation with n - 1 in the denominator. */
export function sampleStddev(values: readonly number[]): number {
  const centre = mean(values);
  return Math.sqrt(sum(values.map((value) => (value - centre) ** 2)) / (values.length - 1));
}

/** exp of minus the mean log-likelihood of a doc. */
export function perplexity(logLikelihoods: ArrayLike<number>): number {
  return exactExp(-mean(logLikelihoods));
}

function values(items: readonly ScoreItem[]): number[] {
  return items.map((item) => item.value);
}

function weightedMean(items: readonly ScoreItem[]): number {
  return sum(values(items)) / sum(items.map((item) => item.weight));
}

const meanMetric: Metric = {
  higherIsBetter: true,
  aggregate: (items) => mean(values(items)),
  standardError: "mean",
};
const weightedPerplexity: Metric = {
  higherIsBetter: false,
  aggregate: (items) => exactExp(-weightedMean(items)),
  standardError: "none",
};

/** Every metric by the name the harness gives it. */
export const metrics = {
  acc: meanMetric,
  acc_norm: meanMetric,
  perplexity: {
    higherIsBetter: false,
    aggregate: (items) => perplexity(values(items)),
    standardError: "bootstrap",
  },
  word_perplexity: weightedPerplexity,
  byte_perplexity: weightedPerplexity,
  bits_per_byte: {
    higherIsBetter: false,
    aggregate: (items) => -weightedMean(items) / Math.log(2),
    standardError: "none",
  },
} as const satisfies Record<string, Metric>;

export type MetricName = keyof typeof metrics;

/**
 * Index of the first largest score, as `numpy.argmax`: a NaN counts as the largest.
 */
export function argmax(scores: readonly number[]): number {
  let best = 0;
  for (let i = 0; i < scores.length; i++) {
    const score = scores[i] ?? Number.NaN;
    if (Number.isNaN(score)) return i;
    if (score > (scores[best] ?? Number.NEGATIVE_INFINITY)) best = i;
  }
  return best;
}

/**
 * Standard deviation of a statistic over samples drawn with replacement, a chunk of replicates at a time so
 * that whoever runs it can stop or report in between.
 * @param iterations replicates; what is left over after whole chunks is dropped, as in the harness
 * @yields the number of replicates done; the return value is the standard error
 */
export function* bootstrapStderr(
  sample: readonly number[],
  statistic: (values: Float64Array) => number,
  iterations: number,
): Generator<number, number> {
  const chunk = Math.min(bootstrapChunk, iterations);
  const source = Float64Array.from(sample);
  const drawn = new Float64Array(source.length);
  const replicates: number[] = [];
  for (let seed = 0; seed < Math.floor(iterations / chunk); seed++) {
    const random = new MersenneTwister(seed);
    for (let replicate = 0; replicate < chunk; replicate++) {
      for (let i = 0; i < drawn.length; i++) drawn[i] = source[Math.floor(random.random() * source.length)] ?? 0;
      replicates.push(statistic(drawn));
    }
    yield replicates.length;
  }
  return sampleStddev(replicates);
}

/**
 * Standard error of a metric, or `N/A` where the harness gives none: too few docs, no bootstrap wanted, or a
 * metric it does not know one for.
 */
export function* standardError(
  name: MetricName,
  items: readonly ScoreItem[],
  iterations: number,
): Generator<number, number | "N/A"> {
  const { standardError: kind } = metrics[name];
  if (kind === "none" || iterations <= 0 || items.length <= 1) return "N/A";
  const sample = values(items);
  if (kind === "mean") return sampleStddev(sample) / Math.sqrt(sample.length);
  return yield* bootstrapStderr(sample, perplexity, iterations);
}
