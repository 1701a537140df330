/**
 * Which tensors a training changes, from what was asked. Tensors are the unit: what a width growth adds to a tensor
 * cannot be told from the rest of it, so `new_parameters` trains such a tensor whole.
 */
import { CodedError } from "../../ops/errors.ts";
import type { CheckpointManifest } from "../../ops/manifest.ts";
import type { TrainableChoice } from "./requests.ts";

/**
 * @returns names of the tensors to train, or null for all
 * @throws unprocessable when that is none, or when nothing grew
 */
export function trainableTensors(
  choice: TrainableChoice,
  { tensors, grown }: Pick<CheckpointManifest, "tensors" | "grown">,
): readonly string[] | null {
  const names = tensors.map(({ name }) => name);
  if (choice === "all") return null;
  if (typeof choice !== "string") return matching(choice, names);
  if (grown === undefined) throw refuse("/trainable", `is ${choice}, but nothing in the lineage was grown`);
  const layers = new Set(grown.layers);
  const added = new Set(grown.tensors);
  const chosen = names.filter((name) => (choice === "new_layers" ? layers.has(layerOf(name) ?? -1) : added.has(name)));
  if (chosen.length > 0) return chosen;
  const nothing = choice === "new_layers" ? "no layer" : "nothing";
  throw refuse("/trainable", `is ${choice}, but the last growth added ${nothing}`);
}

function matching(patterns: readonly string[], names: readonly string[]): readonly string[] {
  const chosen = new Set<string>();
  patterns.forEach((pattern, index) => {
    const found = names.filter((name) => matches(pattern, name));
    if (found.length === 0) throw refuse(`/trainable/${index}`, `${JSON.stringify(pattern)} matches no tensor`);
    for (const name of found) chosen.add(name);
  });
  return names.filter((name) => chosen.has(name));
}

/** `*` stands for any text. The parts between are looked for from left to right, so there is nothing to backtrack. */
function matches(pattern: string, name: string): boolean {
  const [first = "", ...rest] = pattern.split("*");
  const last = rest.pop();
  if (last === undefined) return name === pattern;
  if (!name.startsWith(first) || name.length < first.length + last.length || !name.endsWith(last)) return false;
  let at = first.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= name.length - last.length;
}

function layerOf(name: string): number | null {
  const layer = /^model\.layers\.([0-9]+)\./.exec(name)?.[1];
  return layer === undefined ? null : Number(layer);
}

function refuse(pointer: string, detail: string): CodedError {
  return new CodedError("unprocessable", `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}
