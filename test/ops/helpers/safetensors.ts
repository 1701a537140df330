/** The least that reads a well-formed safetensors file, so that tests of ops need no part of the engine. */
import { readFileSync } from "node:fs";
import { decodeToF32 } from "../../../src/ops/dtype.ts";
import type { Dtype, TensorInfo } from "../../../src/ops/tensor.ts";

export interface LoadedTensors {
  readonly infos: readonly TensorInfo[];
  readonly values: ReadonlyMap<string, Float32Array>;
}

/** @returns every tensor of the file, decoded. */
export function loadSafetensors(path: string): LoadedTensors {
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + headerBytes)) as Record<
    string,
    { dtype: Dtype; shape: number[]; data_offsets: [number, number] }
  >;
  const infos: TensorInfo[] = [];
  const values = new Map<string, Float32Array>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const {
      dtype,
      shape,
      data_offsets: [from, to],
    } = entry;
    infos.push({ name, dtype, shape });
    values.set(name, decodeToF32(file.subarray(8 + headerBytes + from, 8 + headerBytes + to), dtype));
  }
  return { infos, values };
}
