/**
 * Reads what size a width growth is to reach: `factor`, which multiplies hidden, intermediate, heads and kv heads
 * alike, or `params.target` with any of the five sizes; what is not given stays as it is. Everything that makes a
 * target impossible is found here, by field: smaller than the source, heads that do not divide, a head_dim that is no
 * multiple (rotary frequencies would move), groups that cannot be mapped.
 */
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import { llamaLimits } from "../architectures/llamaConfig.ts";
import type { JsonObject } from "../manifest.ts";
import { headMaps } from "./axes.ts";
import type { OperatorRequest } from "./operator.ts";
import { fieldError, given, impossible, malformed, readParams, type UnreadParams } from "./params.ts";

const sizeFields = {
  hidden_size: "hiddenSize",
  intermediate_size: "intermediateSize",
  num_attention_heads: "numAttentionHeads",
  num_key_value_heads: "numKeyValueHeads",
  head_dim: "headDim",
} as const;

type SizeName = keyof typeof sizeFields;
type SizeKey = (typeof sizeFields)[SizeName];

const sizeNames = Object.keys(sizeFields) as SizeName[];

const limits: Readonly<Record<SizeKey, number>> = {
  hiddenSize: llamaLimits.hiddenSize.max,
  intermediateSize: llamaLimits.intermediateSize.max,
  numAttentionHeads: llamaLimits.numAttentionHeads.max,
  numKeyValueHeads: llamaLimits.numAttentionHeads.max,
  headDim: llamaLimits.headDim.max,
};

/** JSON Schema of `params.target`. */
export const targetSchema: JsonObject = {
  description: "Sizes to reach, instead of factor; those left out stay. head_dim grows by whole multiples.",
  type: "object",
  additionalProperties: false,
  minProperties: 1,
  properties: Object.fromEntries(
    sizeNames.map((name) => [name, { type: "integer", minimum: 1, maximum: limits[sizeFields[name]] }]),
  ),
};

/**
 * @param padded whether new heads are new instead of copies; groups then cannot shrink
 * @returns the target's configuration: the source's with other sizes
 * @throws invalid_request, unprocessable; both name the field
 */
export function readWidthTarget(
  source: LlamaConfig,
  request: OperatorRequest,
  params: UnreadParams,
  padded: boolean,
): LlamaConfig {
  const asked = given(params, "target");
  if (asked === undefined) return multiplied(source, request);
  if (request.factor !== undefined) {
    throw fieldError("invalid_request", `${request.pointer}/factor`, "excludes params.target");
  }
  const pointer = `${params.pointer}/target`;
  const fields = readParams(asked, pointer, sizeNames);
  const sizes: Partial<Record<SizeKey, number>> = {};
  for (const name of sizeNames) {
    const value = given(fields, name);
    if (value !== undefined) sizes[sizeFields[name]] = readSize(source, name, value, `${pointer}/${name}`);
  }
  const target = { ...source, ...sizes };
  checkTogether(source, target, pointer, padded);
  return target;
}

function multiplied(source: LlamaConfig, request: OperatorRequest): LlamaConfig {
  const pointer = `${request.pointer}/factor`;
  const { factor } = request;
  if (factor === undefined || !Number.isInteger(factor) || factor < 1) {
    throw malformed(pointer, factor, "an integer from 1, or params.target instead");
  }
  const sizes: Partial<Record<SizeKey, number>> = {};
  for (const key of ["hiddenSize", "intermediateSize", "numAttentionHeads", "numKeyValueHeads"] as const) {
    const size = source[key] * factor;
    if (size > limits[key]) throw impossible(pointer, `makes ${key} ${size}; at most ${limits[key]} is possible`);
    sizes[key] = size;
  }
  return { ...source, ...sizes };
}

function readSize(source: LlamaConfig, name: SizeName, value: unknown, pointer: string): number {
  const key = sizeFields[name];
  if (typeof value !== "number" || !Number.isInteger(value)) throw malformed(pointer, value, "an integer");
  if (value < source[key]) {
    throw impossible(pointer, `is ${value}; the source has ${source[key]}, and growth never shrinks`);
  }
  if (value > limits[key]) throw impossible(pointer, `is ${value}; at most ${limits[key]} is possible`);
  return value;
}

function checkTogether(source: LlamaConfig, target: LlamaConfig, pointer: string, padded: boolean): void {
  const { hiddenSize, numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, headDim } = target;
  if (headDim % source.headDim !== 0) {
    const detail = `is ${headDim}; rotary frequencies are kept only by a multiple of the source's ${source.headDim}`;
    throw impossible(`${pointer}/head_dim`, detail);
  }
  if (heads % keyValueHeads !== 0) {
    const detail = `makes ${keyValueHeads} kv heads, which do not divide ${heads} heads`;
    throw impossible(`${pointer}/num_key_value_heads`, detail);
  }
  if (hiddenSize % heads !== 0) {
    throw impossible(`${pointer}/hidden_size`, `makes ${hiddenSize}, which ${heads} heads do not divide`);
  }
  const counts = (config: LlamaConfig): { queryHeads: number; keyValueHeads: number } => ({
    queryHeads: config.numAttentionHeads,
    keyValueHeads: config.numKeyValueHeads,
  });
  if (headMaps(counts(source), counts(target), padded) !== null) return;
  const groups = `${source.numAttentionHeads} heads on ${source.numKeyValueHeads} kv heads`;
  const how = padded ? " with zeros" : "";
  const detail = `makes ${heads} on ${keyValueHeads}, onto which ${groups} cannot be mapped${how}`;
  throw impossible(`${pointer}/num_key_value_heads`, detail);
}
