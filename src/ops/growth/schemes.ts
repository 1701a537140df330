/**
 * Named depth schemes of other papers, each an index list with fields of its own: SOLAR's depth up-scaling, the
 * layer order of LLaMA-Pro, and the middle-block growth of MIDAS and LIDAS. Each describes one growth; gradual
 * schemes are repeated requests. Whether LLaMA-Pro's copies are silenced is the operator's business (`zero` does,
 * `direct` does not).
 * MIDAS repeats the middle one of equal blocks; LIDAS, as we read it, the layers around the exact middle, wherever
 * block borders lie, so that both agree for an odd number of blocks.
 * Source: arXiv 2312.15166 (SOLAR), 2401.02415 (LLaMA-Pro), 2409.19044 (MIDAS), 2512.08819 (LIDAS).
 */
import type { JsonObject } from "../manifest.ts";
import { maxTargetLayers } from "./layers.ts";
import { checkedInteger, given, impossible, malformed, readParams } from "./params.ts";

const schemeFields = {
  solar: { field: "drop", description: "layers left out at the end of copy A and at the start of copy B" },
  llama_pro: { field: "every", description: "a copy follows each group of that many layers" },
  midas: { field: "block", description: "layers of the middle block, which is repeated; it divides the layers" },
  lidas: { field: "block", description: "layers around the exact middle, which are repeated" },
} as const;

type SchemeName = keyof typeof schemeFields;

/** JSON Schema of a named scheme. */
export const schemesSchema: JsonObject = {
  oneOf: Object.entries(schemeFields).map(([name, { field, description }]) => ({
    type: "object",
    additionalProperties: false,
    required: ["name", field],
    properties: {
      name: { const: name },
      [field]: { type: "integer", minimum: 1, maximum: maxTargetLayers, description },
    },
  })),
};

/** Whether a pattern is an object, and so means a named scheme. */
export function isScheme(pattern: unknown): pattern is object {
  return typeof pattern === "object" && pattern !== null && !Array.isArray(pattern);
}

/** @returns the scheme's index list. @throws invalid_request, unprocessable */
export function schemeLayers(pattern: object, numLayers: number, pointer: string): number[] {
  const name = Object.hasOwn(pattern, "name") ? (pattern as { name: unknown }).name : undefined;
  const known = Object.keys(schemeFields).find((candidate): candidate is SchemeName => candidate === name);
  if (known === undefined) throw malformed(`${pointer}/name`, name, Object.keys(schemeFields).join(", "));
  const { field } = schemeFields[known];
  const params = readParams(pattern, pointer, ["name", field]);
  const size = checkedInteger(given(params, field), `${pointer}/${field}`, 1, maxTargetLayers);
  return lists[known](numLayers, size, `${pointer}/${field}`);
}

const lists: Readonly<Record<SchemeName, (layers: number, size: number, pointer: string) => number[]>> = {
  solar(layers, drop, pointer) {
    if (2 * drop >= layers) throw impossible(pointer, `is ${drop}; of ${layers} layers less than half may be dropped`);
    return [...range(0, layers - drop), ...range(drop, layers)];
  },
  llama_pro(layers, every, pointer) {
    if (layers % every !== 0) throw impossible(pointer, `is ${every}, which does not divide the ${layers} layers`);
    return range(0, layers).flatMap((layer) => ((layer + 1) % every === 0 ? [layer, layer] : [layer]));
  },
  midas(layers, block, pointer) {
    if (layers % block !== 0) throw impossible(pointer, `is ${block}, which does not divide the ${layers} layers`);
    const middle = Math.ceil(layers / block / 2); // block number from 1
    return repeatBlock(layers, (middle - 1) * block, block);
  },
  lidas(layers, block, pointer) {
    if (block > layers) throw impossible(pointer, `is ${block}; the source has ${layers} layers`);
    return repeatBlock(layers, Math.floor((layers - block) / 2), block);
  },
};

function repeatBlock(layers: number, start: number, block: number): number[] {
  return [...range(0, start + block), ...range(start, layers)];
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}
