/**
 * G_zero along depth: new layers are copies whose two residual branches end in zeros, so they add nothing and the
 * function is preserved to the bit, wherever they stand: adjacent to what they copy (the paper), after every p-th
 * layer (LLaMA-Pro), or at the end. A layer of an index list is new when an earlier target layer already uses its
 * source. In the first step only the zeroed matrices of new layers have a gradient; from the second all move.
 * Source: arXiv 2405.15319, A.1.3, A.4; LLaMA-Pro, arXiv 2401.02415 (method section 1.3).
 */
import type { JsonObject } from "../manifest.ts";
import { depthProperties, planDepth, readDepthLayers } from "./depth.ts";
import { repeatedLayers } from "./layers.ts";
import { noiseSchema, readNoise, withNoise } from "./noise.ts";
import type { OperatorRequest } from "./operator.ts";
import { fieldError, given, impossible, readParams, type UnreadParams } from "./params.ts";
import type { GrowthPlan, GrowthSource } from "./plan.ts";
import { positionsSchema, readPositions } from "./positions.ts";

const fields = {
  ...depthProperties,
  positions: {
    description: "Target layers, from 0, that are new; each copies the source layer before it (the first one, at 0).",
    ...positionsSchema,
  },
  noise: noiseSchema,
} satisfies Record<string, JsonObject>;

/** JSON Schema of the parameters. */
export const zeroDepthSchema: JsonObject = { type: "object", additionalProperties: false, properties: fields };

/** @throws invalid_request, unprocessable */
export function planZeroDepth(source: GrowthSource, request: OperatorRequest): GrowthPlan {
  const params = readParams(request.params, `${request.pointer}/params`, Object.keys(fields));
  const noise = readNoise(params);
  const { layers, newLayers } = readLayers(source, request, params);
  const plan = planDepth(source, { operator: "zero", layers, newLayers, silenced: new Set(newLayers) });
  return withNoise(source, plan, noise, request.seed);
}

function readLayers(
  source: GrowthSource,
  request: OperatorRequest,
  params: UnreadParams,
): { layers: number[]; newLayers: number[] } {
  const numLayers = source.config.numHiddenLayers;
  if (given(params, "positions") !== undefined) return layersAround(numLayers, request, params);
  const layers = readDepthLayers(source, request, params, "interpolate");
  const newLayers = repeatedLayers(layers);
  const isNew = new Set(newLayers);
  const kept = layers.filter((_, index) => !isNew.has(index));
  if (kept.length !== numLayers || kept.some((origin, index) => origin !== index)) {
    const list = given(params, "layers") === undefined ? "pattern" : "layers";
    const detail = `first uses its layers as ${kept.join(", ")}; all of 0 to ${numLayers - 1}, in order, are needed`;
    throw impossible(`${params.pointer}/${list}`, detail);
  }
  return { layers, newLayers };
}

function layersAround(
  numLayers: number,
  request: OperatorRequest,
  params: UnreadParams,
): { layers: number[]; newLayers: number[] } {
  for (const other of ["layers", "pattern"]) {
    if (given(params, other) === undefined) continue;
    throw fieldError("invalid_request", `${params.pointer}/${other}`, "excludes positions");
  }
  const positions = readPositions(numLayers, request, params);
  const isNew = new Set(positions);
  const count = numLayers + positions.length;
  const layers: number[] = [];
  let next = 0;
  for (let target = 0; target < count; target += 1) {
    layers.push(isNew.has(target) ? Math.max(0, next - 1) : next);
    if (!isNew.has(target)) next += 1;
  }
  return { layers, newLayers: positions };
}
