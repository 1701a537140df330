/**
 * What growth saved: sp = FLOPs_scratch(loss*) / FLOPs_growth(loss*) - 1, the share of compute that training from
 * scratch needs on top to reach the same loss. The growth arm's FLOPs include its base's. Loss curves are smoothed by
 * a centred moving average, made monotone (the best loss so far) and inverted by linear interpolation; loss* is the
 * lowest level that both arms reach. Negative where growth was the slower; undefined where the curves share no level.
 * Source: arXiv 2405.15319, B.2 eq 48; the choice of loss* and the smoothing are ours (method section 3.5).
 */

/** One measurement of a run. */
export interface CurvePoint {
  /** FLOPs spent when it was made; of the growth arm, the base's included. */
  readonly flops: number;
  readonly loss: number;
}

export type Speedup =
  | {
      readonly speedup: number;
      /** loss*: the level at which the arms are compared. */
      readonly loss: number;
      readonly scratchFlops: number;
      readonly growthFlops: number;
      readonly reason: null;
    }
  | { readonly speedup: null; readonly reason: string };

export interface SpeedupOptions {
  /** Points in the moving average, an odd number; default 1, no smoothing (right for validation losses). */
  readonly window?: number;
  /** Compare at this loss instead of the lowest that both reach. */
  readonly loss?: number;
}

/** @returns the speedup of the growth arm over the scratch arm, or why there is none to be had. */
export function speedup(
  scratch: readonly CurvePoint[],
  growth: readonly CurvePoint[],
  options: SpeedupOptions = {},
): Speedup {
  const window = options.window ?? 1;
  const curves = { scratch: bestSoFar(smooth(scratch, window)), growth: bestSoFar(smooth(growth, window)) };
  for (const [arm, curve] of Object.entries(curves)) {
    if (curve.length === 0) return { speedup: null, reason: `the ${arm} arm has no finite loss` };
  }
  const loss = options.loss ?? Math.max(curves.scratch.at(-1)!.loss, curves.growth.at(-1)!.loss);
  for (const [arm, curve] of Object.entries(curves)) {
    if (curve.at(-1)!.loss > loss) return { speedup: null, reason: `the ${arm} arm never reaches loss ${loss}` };
    if (curve[0]!.loss < loss) {
      return { speedup: null, reason: `the ${arm} arm was below loss ${loss} before its first measurement` };
    }
  }
  const scratchFlops = flopsAt(curves.scratch, loss);
  const growthFlops = flopsAt(curves.growth, loss);
  if (!(growthFlops > 0)) return { speedup: null, reason: "the growth arm spent no FLOPs to reach that loss" };
  return { speedup: scratchFlops / growthFlops - 1, loss, scratchFlops, growthFlops, reason: null };
}

/**
 * Centred moving average of the losses, over fewer points near the ends; points that are not finite are left out.
 * @returns the points in order of FLOPs
 */
export function smooth(points: readonly CurvePoint[], window: number): CurvePoint[] {
  const finite = points.filter(({ flops, loss }) => Number.isFinite(flops) && Number.isFinite(loss));
  const ordered = finite.toSorted((left, right) => left.flops - right.flops);
  const reach = Math.max(0, Math.floor((window - 1) / 2));
  return ordered.map(({ flops }, index) => {
    const side = Math.min(reach, index, ordered.length - 1 - index);
    const around = ordered.slice(index - side, index + side + 1);
    return { flops, loss: around.reduce((total, point) => total + point.loss, 0) / around.length };
  });
}

/** @returns the curve with each loss replaced by the lowest up to there. */
export function bestSoFar(points: readonly CurvePoint[]): CurvePoint[] {
  let best = Number.POSITIVE_INFINITY;
  return points.map(({ flops, loss }) => {
    best = Math.min(best, loss);
    return { flops, loss: best };
  });
}

/** First FLOPs at which a monotone curve that spans `loss` is at or below it. */
function flopsAt(curve: readonly CurvePoint[], loss: number): number {
  const index = curve.findIndex((point) => point.loss <= loss);
  const after = curve[index]!;
  const before = curve[index - 1];
  if (before === undefined) return after.flops;
  const share = (before.loss - loss) / (before.loss - after.loss);
  return before.flops + share * (after.flops - before.flops);
}
