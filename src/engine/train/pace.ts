/** How long steps take: the last one, and a running mean from which the time left is told. */

/** Weight of the newest step in the running mean. */
const newestWeight = 0.1;
/** Clocks may tell the same time twice. */
const leastSeconds = 1e-6;

export class Pace {
  #startMs: number;
  #meanSeconds: number | null = null;
  #lastSeconds = leastSeconds;

  constructor(nowMs: number) {
    this.#startMs = nowMs;
  }

  /** So many updates have ended since the last that were told of; they count as equally long. */
  steps(count: number, nowMs: number): void {
    if (count === 0) return;
    this.#lastSeconds = Math.max(leastSeconds, (nowMs - this.#startMs) / 1000 / count);
    const mean = this.#meanSeconds ?? this.#lastSeconds;
    this.#meanSeconds = mean + (1 - (1 - newestWeight) ** count) * (this.#lastSeconds - mean);
  }

  /** From here on time counts: validation and saving do not. */
  resume(nowMs: number): void {
    this.#startMs = nowMs;
  }

  get lastStepSeconds(): number {
    return this.#lastSeconds;
  }

  /** @returns seconds for `steps` more, or null when none was made yet. */
  secondsFor(steps: number): number | null {
    return this.#meanSeconds === null ? null : this.#meanSeconds * steps;
  }
}
