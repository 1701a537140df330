/**
 * The architectures of the paper under its own names, with the bases that it grew them from. The names are nominal:
 * "1.1b" has 1.36 billion parameters, "3b" 2.40, "7b" 5.93. All have a vocabulary of 32,000, a context of 2,048, an
 * untied head, no biases.
 * Source: method section 3.2 (released configurations and file sizes).
 */
import type { LlamaConfig } from "../architectures/llamaConfig.ts";

function paperConfig(layers: number, hidden: number, heads: number, keyValueHeads: number, mlp: number): LlamaConfig {
  return {
    vocabSize: 32000,
    hiddenSize: hidden,
    intermediateSize: mlp,
    numHiddenLayers: layers,
    numAttentionHeads: heads,
    numKeyValueHeads: keyValueHeads,
    headDim: hidden / heads,
    maxPositionEmbeddings: 2048,
    rmsNormEps: 1e-5,
    ropeTheta: 10000,
    ropeScaling: null,
    tieWordEmbeddings: false,
    attentionBias: false,
    mlpBias: false,
    initializerRange: 0.02,
    bosTokenId: 1,
    eosTokenIds: [2],
  };
}

/** By name; `-base` is what the paper grew by G_stack, g = 4, into the model of that name. */
export const presets: Readonly<Record<string, LlamaConfig>> = Object.freeze({
  "410m": paperConfig(24, 1024, 16, 16, 2816),
  "410m-base": paperConfig(6, 1024, 16, 16, 2816),
  "1.1b": paperConfig(24, 2048, 32, 32, 5632),
  "1.1b-base": paperConfig(6, 2048, 32, 32, 5632),
  "3b": paperConfig(32, 2560, 20, 4, 7040),
  "3b-base": paperConfig(8, 2560, 20, 4, 7040),
  "7b": paperConfig(32, 4096, 32, 8, 11008),
  "7b-base": paperConfig(8, 4096, 32, 8, 11008),
});

/** @returns the preset of that name, or null. */
export function findPreset(name: string): LlamaConfig | null {
  return Object.hasOwn(presets, name) ? presets[name]! : null;
}
