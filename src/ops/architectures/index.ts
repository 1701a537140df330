/** The architectures that the service computes with: one line each. */
import type { Architecture } from "./architecture.ts";
import { llama } from "./llama.ts";

export const architectures: Readonly<Record<Architecture["name"], Architecture>> = { llama };

export type {
  Architecture,
  Axis,
  ParameterCounts,
  TensorKind,
  TensorRole,
  TensorRow,
  TensorSpec,
} from "./architecture.ts";
export { axisSize, countParameters, expectedTensors, findSpec, llama, tensorName, tensorSpecs } from "./llama.ts";
export { checkTensors, isRotaryBuffer, type CheckedTensors } from "./checkTensors.ts";
export { initializeTensor, initialStd } from "./initializeTensor.ts";
export { fromLitGpt, isLitGpt, type NamedRows, type RowRun } from "./litGpt.ts";
export { formatLlamaConfig, llamaLimits, parseLlamaConfig, type LlamaConfig, type RopeScaling } from "./llamaConfig.ts";
