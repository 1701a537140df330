/**
 * Depth growth as index lists: entry i is the source layer that target layer i comes from. Stacking, interpolation,
 * partial stacking and the named schemes of other papers differ in nothing else. Pure lists, no tensors.
 * Source: method sections 1.1 and 2 (arXiv 2405.15319, Alg 1, H.2, H.3).
 */
import { shown } from "../architectures/configFields.ts";
import type { CodedError } from "../errors.ts";
import { impossible } from "./params.ts";

/** Most layers that a target may have. */
export const maxTargetLayers = 1024;

/** Longest partial-stack pattern, in characters. */
export const maxPatternLength = 1024;

/** @returns 0 .. layers-1, `factor` times over: G_stack. */
export function stackedLayers(layers: number, factor: number): number[] {
  return Array.from({ length: layers * factor }, (_, index) => index % layers);
}

/** @returns each layer `factor` times in place: interpolation. */
export function interpolatedLayers(layers: number, factor: number): number[] {
  return Array.from({ length: layers * factor }, (_, index) => Math.floor(index / factor));
}

/**
 * Reads the paper's partial-stack notation: `12-3456*5-56` is layers 1 2, then 3 4 5 6 five times, then 5 6, counted
 * from 1. Layers above 9 are written as ranges: `1..12-9..16*3-17..24`.
 *
 * @throws unprocessable when it is not of that form, for a layer that the source lacks or more than 1024 target layers
 */
export function partialStackLayers(pattern: string, layers: number, pointer: string): number[] {
  const wanted = "segments of digits or ranges a..b joined by -, each with an optional *count, as in 12-3456*5-56";
  if (pattern.length === 0 || pattern.length > maxPatternLength) throw unknown(pointer, pattern, wanted);
  const list: number[] = [];
  for (const segment of pattern.split("-")) {
    const match = /^(?:([1-9]+)|([1-9][0-9]{0,3})\.\.([1-9][0-9]{0,3}))(?:\*([1-9][0-9]{0,3}))?$/.exec(segment);
    if (!match) throw unknown(pointer, segment, wanted);
    const [, digits, from, to, count] = match;
    const numbers = digits === undefined ? range(Number(from), Number(to)) : [...digits].map(Number);
    if (numbers.length === 0) throw unknown(pointer, segment, "a range that ascends");
    const missing = numbers.find((number) => number > layers);
    if (missing !== undefined) {
      throw impossible(pointer, `names layer ${missing} (counted from 1); the source has ${layers}`);
    }
    const times = Number(count ?? 1);
    if (list.length + numbers.length * times > maxTargetLayers) {
      throw impossible(pointer, `makes more than ${maxTargetLayers} layers`);
    }
    for (let i = 0; i < times; i += 1) list.push(...numbers.map((number) => number - 1));
  }
  return list;
}

function unknown(pointer: string, got: string, wanted: string): CodedError {
  return impossible(pointer, `is ${shown(got)}; wanted stack, interpolate, a named scheme, or ${wanted}`);
}

function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, index) => from + index);
}

/**
 * @returns the share of neighbouring target layers whose sources are neighbours in the source, in order (the paper's
 *   R_c, section H.2); null for a single layer. A layer made from nothing connects to none.
 */
export function connectionRate(layerMap: readonly (number | null)[]): number | null {
  if (layerMap.length < 2) return null;
  let kept = 0;
  for (let i = 1; i < layerMap.length; i += 1) {
    const before = layerMap[i - 1] ?? null;
    if (before !== null && layerMap[i] === before + 1) kept += 1;
  }
  return kept / (layerMap.length - 1);
}

/** @returns target layers whose source layer an earlier target layer has already used, ascending. */
export function repeatedLayers(layerMap: readonly number[]): number[] {
  const seen = new Set<number>();
  return layerMap.flatMap((origin, index) => {
    if (seen.has(origin)) return [index];
    seen.add(origin);
    return [];
  });
}
