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

  /** An update has ended. */
  step(nowMs: number): void {
    this.#lastSeconds = Math.max(leastSeconds, (nowMs - this.#startMs) / 1000);
    const mean = this.#meanSeconds ?? this.#lastSeconds;
    this.#meanSeconds = mean + newestWeight * (this.#lastSeconds - mean);
  }

  /** The next update begins: validation and saving do not count. */
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
