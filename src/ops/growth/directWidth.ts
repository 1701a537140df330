/**
 * G_direct along width: new neurons are copies of old ones, and what reads them is divided among the copies. Exact
 * for any target size by the balanced rule: with c the map of the hidden axis and m_i the copies of index i, whatever
 * writes hidden index j is multiplied by s_j = sqrt(D / (d m_c(j))) and the norms' gains divided by it, so the mean
 * square, and with it the norm, is the source's exactly. A tied head multiplies logits by D/d once more, which the
 * final norm takes back.
 *
 * Splits: `elementwise` (default), `scalar` and `even` divide what reads copies; `tile` is `even` on whole multiples
 * (HyperCloning); `lemon` makes whole copies and leaves the rest of the hidden axis zero, with gain eta =
 * sqrt(k d / D) and eps k d / D. `fidelity: "paper"` scales every norm by sqrt(d / D) as the paper prints it, which
 * does not preserve the function, and is reported so.
 * Source: arXiv 2405.15319, A.3 eq 4-11; arXiv 2310.07999 (LEMON); arXiv 2409.12903 (HyperCloning); the exact rule and
 * the errors found: method section 1.2.
 */
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import type { JsonObject } from "../manifest.ts";
import { isIdentity, paddedMap, type AxisMap } from "./axes.ts";
import type { Fills, Split } from "./matrix.ts";
import { noiseSchema, readNoise, withNoise } from "./noise.ts";
import type { OperatorRequest } from "./operator.ts";
import { impossible, optionalWord, readParams } from "./params.ts";
import { toleranceOf, type GrowthPlan, type GrowthSource } from "./plan.ts";
import { makeWidthMaps, planWidth, zeroFills, type WidthChoice } from "./width.ts";
import { readWidthTarget, targetSchema } from "./widthTarget.ts";

const splits = ["elementwise", "scalar", "even", "tile", "lemon"] as const;
const fidelities = ["exact", "paper"] as const;

const fields = {
  target: targetSchema,
  split: {
    description: "How weights that read copies are divided among them. elementwise lets copies learn different things.",
    enum: [...splits],
    default: "elementwise",
  },
  fidelity: {
    description: "exact preserves the function; paper scales norms by sqrt(d / D) as printed, and does not.",
    enum: [...fidelities],
    default: "exact",
  },
  noise: noiseSchema,
} satisfies Record<string, JsonObject>;

/** JSON Schema of the parameters. */
export const directWidthSchema: JsonObject = { type: "object", additionalProperties: false, properties: fields };

/** @throws invalid_request, unprocessable */
export function planDirectWidth(source: GrowthSource, request: OperatorRequest): GrowthPlan {
  const params = readParams(request.params, `${request.pointer}/params`, Object.keys(fields));
  const noise = readNoise(params);
  const split = optionalWord(params, "split", splits, "elementwise");
  const paper = optionalWord(params, "fidelity", fidelities, "exact") === "paper";
  const target = readWidthTarget(source.config, request, params, false);
  if (split === "tile") refuseUnevenTile(source.config, target, `${params.pointer}/split`);
  if (split === "lemon" && paper) throw impossible(`${params.pointer}/fidelity`, "is paper, whose rule lemon is not");
  const rule = split === "lemon" ? lemonRule : paper ? paperRule : balancedRule;
  const kept = !paper || target.hiddenSize === source.config.hiddenSize;
  const plan = planWidth(source, {
    operator: "direct",
    split: splitOf(split),
    seed: request.seed,
    preservesFunction: kept
      ? { value: true, reason: exactReason, tolerance: toleranceOf(source) }
      : { value: false, reason: "norms are scaled by sqrt(d / D) as the paper prints it", tolerance: null },
    noMoments: whyNoMoments(source.config, target, splitOf(split), paper),
    warnings: splitOf(split) === "elementwise" ? [] : [`split ${split}: copies get parallel gradients and stay alike`],
    ...rule(source.config, target, request.seed),
  });
  return withNoise(source, plan, noise, request.seed);
}

const exactReason = "copies share what reads them, and norms see the source's mean square";

function splitOf(split: (typeof splits)[number]): Split {
  if (split === "tile") return "even";
  return split === "lemon" ? "elementwise" : split;
}

/** Copies have gradients in proportion to their origin's only where all are treated alike. */
function whyNoMoments(source: LlamaConfig, target: LlamaConfig, split: Split, paper: boolean): string | undefined {
  if (split !== "even") return `split ${split} gives copies gradients of their own; even and tile keep their state`;
  if (paper) return "fidelity paper changes the function, and so every gradient";
  if (target.headDim !== source.headDim) return "a larger head_dim leaves query dimensions without gradient";
  const group = (config: LlamaConfig): number => config.numAttentionHeads / config.numKeyValueHeads;
  if (group(target) < group(source)) return "repeated kv heads are read by different query heads";
  return undefined;
}

function refuseUnevenTile(source: LlamaConfig, target: LlamaConfig, pointer: string): void {
  for (const key of ["hiddenSize", "intermediateSize", "numAttentionHeads", "numKeyValueHeads"] as const) {
    if (target[key] % source[key] === 0) continue;
    throw impossible(pointer, `is tile, but ${key} ${target[key]} is no multiple of ${source[key]}`);
  }
}

type Rule = Pick<WidthChoice, "targetConfig" | "maps" | "writerScale" | "normScale" | "finalNormScale" | "fills">;

const noFills = { readers: zeroFills, writers: zeroFills };

function balancedRule(source: LlamaConfig, target: LlamaConfig, seed: number): Rule {
  const maps = makeWidthMaps(source, target, { padded: false, seed });
  const ratio = target.hiddenSize / source.hiddenSize;
  const scales = writerScales(maps.hidden, ratio);
  const inverse = scales === null ? null : scales.map((scale) => 1 / scale);
  const tied = new Float64Array(target.hiddenSize).fill(1 / ratio);
  const finalNormScale = ratio === 1 || !source.tieWordEmbeddings ? inverse : tied;
  return { targetConfig: target, maps, writerScale: scales, normScale: inverse, finalNormScale, fills: noFills };
}

/** s_j of the balanced rule; null where all are 1: whole multiples. */
function writerScales(hidden: AxisMap, ratio: number): Float64Array | null {
  if (hidden.copies.every((count) => count === ratio)) return null;
  return Float64Array.from(hidden.origin, (from) => Math.sqrt(ratio / hidden.copies[from]!));
}

/** The paper's formula: mu' = sqrt(d / D) [mu, mu], nothing else scaled, copies from the left. */
function paperRule(source: LlamaConfig, target: LlamaConfig): Rule {
  const maps = makeWidthMaps(source, target, { padded: false, seed: null });
  const size = target.hiddenSize;
  const normScale = isIdentity(maps.hidden) ? null : new Float64Array(size).fill(Math.sqrt(source.hiddenSize / size));
  return { targetConfig: target, maps, writerScale: null, normScale, finalNormScale: normScale, fills: noFills };
}

/** LEMON: whole copies, then zeros that readers see through random weights; eps is adjusted in the config. */
function lemonRule(source: LlamaConfig, target: LlamaConfig, seed: number): Rule {
  const copies = Math.floor(target.hiddenSize / source.hiddenSize);
  const whole = copies * source.hiddenSize;
  const hidden = paddedMap(source.hiddenSize, target.hiddenSize, whole);
  const maps = makeWidthMaps(source, target, { padded: false, seed, hidden });
  const share = whole / target.hiddenSize;
  const constant = (value: number): Float64Array | null =>
    value === 1 ? null : new Float64Array(target.hiddenSize).fill(value);
  const eta = Math.sqrt(share);
  const readers: Fills = { ...zeroFills, oldRowNewColumn: "random" };
  return {
    targetConfig: { ...target, rmsNormEps: source.rmsNormEps * share },
    maps,
    writerScale: null,
    normScale: constant(eta),
    finalNormScale: constant(source.tieWordEmbeddings ? eta / copies : eta),
    fills: { readers, writers: zeroFills },
  };
}
