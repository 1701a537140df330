/** `params.positions`: which layers of the target are new, for operators that add layers between the source's. */
import type { JsonObject } from "../manifest.ts";
import { refuseFactor } from "./depth.ts";
import { maxTargetLayers } from "./layers.ts";
import type { OperatorRequest } from "./operator.ts";
import { given, impossible, integerList, type UnreadParams } from "./params.ts";

/** JSON Schema of the parameter, to be described by whoever takes it. */
export const positionsSchema: JsonObject = {
  type: "array",
  minItems: 1,
  maxItems: maxTargetLayers,
  uniqueItems: true,
  items: { type: "integer", minimum: 0, maximum: maxTargetLayers - 1 },
};

/** @returns the new layers of the target, ascending. @throws invalid_request, unprocessable */
export function readPositions(numLayers: number, request: OperatorRequest, params: UnreadParams): number[] {
  const pointer = `${params.pointer}/positions`;
  refuseFactor(request, "positions");
  const positions = integerList(given(params, "positions"), pointer, maxTargetLayers, 0, maxTargetLayers - 1);
  const count = numLayers + positions.length;
  if (count > maxTargetLayers) {
    throw impossible(pointer, `makes ${count} layers; at most ${maxTargetLayers} are possible`);
  }
  positions.forEach((position, index) => {
    const detail = `is ${position}; the target has layers 0 to ${count - 1}`;
    if (position >= count) throw impossible(`${pointer}/${index}`, detail);
    if (positions.indexOf(position) !== index) throw impossible(`${pointer}/${index}`, `names layer ${position} again`);
  });
  return positions.toSorted((left, right) => left - right);
}
