/**
 * The learning rate of each update. The index t counts the updates made before, from 0, as the paper's code
 * does (lit-gpt's `get_lr`): with a warm-up the very first update has rate 0.
 *
 *   warm-up   t < w:          max t / w
 *   cosine    w <= t < n:     min + (max - min) (1 + cos(pi (t - w) / (n - w))) / 2
 *   wsd       w <= t < n - d: max; then linearly down: min + (max - min) (n - t) / d
 *   constant  w <= t:         max
 *   after n   (cosine, wsd):  min
 *
 * with w warmupSteps, n totalSteps, d decaySteps. This is the paper's schedule (its section B.3 with n = 300,000,
 * w = 3000) and, with min = 0, `get_cosine_schedule_with_warmup` of transformers. A run may end before n:
 * the paper's do, and that is why its baselines are trained at a high rate throughout.
 */
import type { ScheduleSettings } from "../backends/work.ts";

/**
 * @param max the highest rate
 * @param t updates made before this one, from 0
 * @param warmupStart added to t during warm-up: 0 as above; 1 for the convention (t + 1) / w, in which the
 *   first update counts
 */
export function learningRateAt(schedule: ScheduleSettings, max: number, t: number, warmupStart: 0 | 1 = 0): number {
  const { type, warmupSteps, totalSteps, minLearningRate: min, decaySteps } = schedule;
  if (t < warmupSteps) return (max * (t + warmupStart)) / warmupSteps;
  if (type === "constant") return max;
  if (t >= totalSteps) return min;
  if (type === "cosine") {
    const fraction = (t - warmupSteps) / (totalSteps - warmupSteps);
    return min + ((max - min) * (1 + Math.cos(Math.PI * fraction))) / 2;
  }
  if (t < totalSteps - decaySteps) return max;
  return min + ((max - min) * (totalSteps - t)) / decaySteps;
}
